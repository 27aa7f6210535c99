"""Images as networks see them: which can be read, at one size, distorted."""
