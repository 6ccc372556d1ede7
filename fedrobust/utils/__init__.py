"""Files, locks, JSON, tensors on disk, devices, validation, the command line's errors: knows
nothing of learning."""
