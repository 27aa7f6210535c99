"""Benchmarks, to be run from a checkout: `python -m benchmarks.retrieval --help`.

Commands, each a folder with the same parts (`options`, data or `experiment`, `runs`, `tables`, `page`), as far as it has them:
    retrieval (with the cross-validation of a reality check), leaderboard, tune, presets, two_head, instance_discrimination, linear, data,
    conformance; performance is run by speed and memory.
What they share:
    command: options, the folder of results, the terminal, versions;
    images: which can be read, at one size, distorted; features: of a frozen backbone, kept on disk;
    training: networks, losses with what they compare with, the loop;
    evaluation: embeddings, their metrics, comparisons; report: pages, pictures, numbers in words.
"""

import os

# Set before PyTorch is imported. Threads that spin while they wait for each other make a machine several times slower as soon as
# anything else runs on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
