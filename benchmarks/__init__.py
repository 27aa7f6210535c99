"""Benchmarks, to be run from a checkout: `python -m benchmarks.retrieval --help`."""

import os

# Set before PyTorch is imported. Threads that spin while they wait for each other make a machine several times slower as soon as
# anything else runs on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
