"""Measures: metrics, drops with intervals, statistics over runs, detection, evasion."""
