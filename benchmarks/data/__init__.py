"""Get data sets into place: `python -m benchmarks.data --help`."""
