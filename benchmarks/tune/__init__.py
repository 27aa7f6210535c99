"""Search of hyper-parameters within the training classes: `python -m benchmarks.tune --help`."""
