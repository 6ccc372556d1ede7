"""One file per contestant of `benchmarks.engines`; `python -m benchmarks.contestants` runs one, in
a process of its own."""
