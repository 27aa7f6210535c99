"""The two-head ranking regulariser: `python -m benchmarks.two_head --help`."""
