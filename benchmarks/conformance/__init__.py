"""Put the losses of a library through the conformance kit: `python -m benchmarks.conformance --help`."""
