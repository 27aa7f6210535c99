"""Every loss of the zoo on one data set, under one protocol: `python -m benchmarks.leaderboard`."""
