"""How fast masks are made: `python -m experiments.benchmarks`."""
