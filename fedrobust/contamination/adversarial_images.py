"""A hospital whose images are adversarially perturbed against the model that it receives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Contamination
from fedrobust.contamination.common import sample_rows
from fedrobust.contamination.evasion import attack_images, pgd
from fedrobust.utils.validation import number

BATCH = 128


def evasion(
    *, eps_255: float = 8.0, steps: int = 10, step_size: float = 0.25, rate: float = 1.0
) -> Contamination:
    """PGD (`evasion.pgd`) against the global model that the client receives, anew in every round,
    on an exact share `rate` of its training and validation images before it trains, and of its test
    images when it judges the last model. Labels stay.

    eps_255: the largest change of a value, in 255ths of the range; steps, step_size (a share of
    eps): of PGD.
    """
    number("contamination.eps_255", eps_255, low=0, high=255)
    pgd.check_steps("contamination.", steps, step_size)
    number("contamination.rate", rate, low=0, high=1)
    attack = pgd.project(steps, step_size)

    def craft(model: Any, images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
        rows = sample_rows(torch.arange(len(labels)), rate, generator).to(images.device)
        if eps_255 == 0 or len(rows) == 0:
            return images
        made = attack_images(
            attack,
            model,
            images[rows],
            labels[rows],
            eps=eps_255 / 255,
            generator=generator,
            batch_size=BATCH,
        )
        return images.index_copy(0, rows, made)

    return Contamination("evasion", craft=craft)
