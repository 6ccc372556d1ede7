"""What all benchmarks share: measuring, processes, work, reports."""
