"""A hospital whose images are adversarially perturbed against the model that it receives."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor

from fedrobust.contamination.base import Contamination
from fedrobust.contamination.common import sample_rows
from fedrobust.contamination.evasion import attack_images, pgd
from fedrobust.contamination.evasion.pgd import StepSize
from fedrobust.utils.validation import PositiveCount, Share, check_settings

BATCH = 128


@check_settings("contamination")
def evasion(
    *,
    eps_255: Annotated[float, Field(ge=0, le=255)] = 8.0,
    steps: PositiveCount = 10,
    step_size: StepSize = 0.25,
    rate: Share = 1.0,
) -> Contamination:
    """PGD (`evasion.pgd`) against the global model that the client receives, anew in every round,
    on its training and validation images before it trains, and on its test images when it evaluates
    the last model. Labels stay.

    Args:
        eps_255: largest change of a value, in 255ths of the range.
        steps: of PGD against the received global model, in every round.
        step_size: of a step, as a share of eps.
        rate: exact share of the images.

    Returns:
        A contamination that needs the received model.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        model.feature_cache=false with model.freeze=backbone

    Reference:
        Madry et al., ICLR 2018.
    """
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
