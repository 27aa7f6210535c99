"""The suite of `python -m benchmarks.speed` and `python -m benchmarks.memory`: what is measured, how, and what is shown of it."""
