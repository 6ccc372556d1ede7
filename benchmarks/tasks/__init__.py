"""Measurements of the other benchmarks, each in a process of its own: `python -m benchmarks.tasks
NAME SETTINGS` runs one."""
