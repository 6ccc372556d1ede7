"""Common parts of the benchmarks: measuring, processes, work, reports."""
