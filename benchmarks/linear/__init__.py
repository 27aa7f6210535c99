"""Linear metrics side by side, by the errors of nearest neighbours and of least energies."""
