"""Measurements, run from a checkout: `python -m benchmarks.engines --help`. docs/performance.md
says what each measures."""
