"""Processor cores and GPUs of this machine; torch is imported late."""

from __future__ import annotations

import os


def gpus() -> int:
    """The GPUs this process may use."""
    import torch

    return torch.cuda.device_count()


def cores() -> int:
    """The CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
