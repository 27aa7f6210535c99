"""What the command lines of all benchmarks share: options, the folder of results, the terminal."""
