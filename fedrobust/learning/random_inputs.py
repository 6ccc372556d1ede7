"""Random inputs of a model, where the server must look at models without any data."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.learning.augmentation import first_view


def random_inputs(like: Tensor, count: int, generator: Generator) -> Tensor:
    """(count, ...) float32 inputs on the CPU, of the shape of the images `like`: uniform in [0, 1].

    Of features of a frozen backbone (P, F) or (P, V, F) in their place: uniform between the least
    and the greatest value that each feature has in them, as noise images would have to go through
    the backbone.
    """
    shape = first_view(like).shape[1:]
    drawn = torch.rand(count, *shape, generator=generator)
    if len(shape) > 1:
        return drawn
    seen_PF = first_view(like).cpu().float()
    low_F, high_F = seen_PF.amin(dim=0), seen_PF.amax(dim=0)
    return low_F + drawn * (high_F - low_F)
