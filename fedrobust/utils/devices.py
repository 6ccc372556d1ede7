"""Choice of the device."""

from __future__ import annotations

import torch

from fedrobust.errors import ConfigError
from fedrobust.utils.counting import format_count


def resolve(device: str) -> torch.device:
    """auto: the GPU where there is one. Raises ConfigError where one is asked for and there is
    none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device=cuda: no CUDA device is visible here; use device=cpu or device=auto"
        )
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def device_name(device: torch.device) -> str:
    """Name of the device for people: the GPU's name, or the processor's threads."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({format_count(torch.get_num_threads(), 'thread')})"
