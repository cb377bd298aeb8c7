"""Papers' claims, measured; see `python -m benchmarks.claims --help`."""
