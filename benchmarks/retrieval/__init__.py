"""Compare losses on classes they never saw: `python -m benchmarks.retrieval --help`."""
