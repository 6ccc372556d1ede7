"""Deep mutual learning on the server: the trusted members learn from each other (N x N), or their
average learns from all of them.

One model at a time; BatchNorm statistics are frozen while it learns and re-estimated before it is
evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from fedrobust.strategies.distillation import teachers
from fedrobust.strategies.distillation.members import ScratchModel
from fedrobust.strategies.distillation.teachers import DistillationLoss
from torch import Generator, Tensor
from torch.optim import Optimizer

from fedrobust.learning.losses import DISTILLATION_LOSSES
from fedrobust.state import State, load, take
from fedrobust.utils.images import as_unit
from fedrobust.utils.validation import (
    NonNegative,
    OneOf,
    Positive,
    PositiveCount,
    Share,
    check_settings,
)

MAX_NORM = 5.0  # gradients are clipped to this length


@check_settings("strategy")
@dataclass(frozen=True, slots=True)
class Schedule:
    """Schedule of a student's training with Adam.

    Attributes:
        epochs: passes over the proxy images.
        batch_size: proxy images in a step.
        learning_rate: of Adam.
        proximal: mu of mu/2 |W - W_start|^2, which keeps a student near its start.
        temperature: of the teachers' and the student's softmax.
    """

    epochs: PositiveCount = 2
    batch_size: PositiveCount = 64
    learning_rate: Positive = 5e-5
    proximal: NonNegative = 0.0
    temperature: Positive = 2.0


@check_settings("strategy")
@dataclass(frozen=True, slots=True)
class DistillationSettings:
    """Students and teachers of the distillation on the proxy images.

    Attributes:
        distillation: mutual: every trusted member learns from its peers (N x N); ensemble: the
            aggregated model learns from the trusted members' weighted ensemble; none.
        distillation_loss: mutual only. kl: towards all inner products; true_class: towards those
            with the labelled anchor, which needs the proxy images' labels.
        teacher: mutual only: what a member's peers are merged into; mean is not robust.
        min_confidence: mutual with distillation_loss=kl only: images on which the teacher is less
            sure are left out.
    """

    distillation: Literal["mutual", "ensemble", "none"] = "ensemble"
    distillation_loss: Annotated[str, OneOf(DISTILLATION_LOSSES)] = "kl"
    teacher: Literal["median", "mean"] = "median"
    min_confidence: Share = 0.5

    @property
    def wanted(self) -> bool:
        """Whether any model is distilled."""
        return self.distillation != "none"


@dataclass(frozen=True, slots=True)
class DistilledModel:
    """A student after training: what it is now, its mean loss in the last epoch, and whether it
    was sent back to its start."""

    state: State
    loss: float
    fell_back: bool


def mutual_losses(
    scratch: ScratchModel,
    scores_MPK: Tensor,
    settings: DistillationSettings,
    temperature: float,
    permanent_PK: Tensor | None = None,
) -> list[tuple[DistillationLoss, Tensor]]:
    """The loss of each of M >= 2 members towards its peers, and the proxy images it learns from.

    permanent_PK: scores of a further peer of all, which gives half of every teacher (None: there is
    none).
    """
    labels_P, scale = scratch.proxy_samples.labels, scratch.model.scale
    if settings.distillation_loss == "true_class":
        merged = teachers.merge_peers(scores_MPK, settings.teacher)
        merged = merged if permanent_PK is None else (merged + permanent_PK) / 2
        return [
            (teachers.true_class_loss(teacher_PK, labels_P), torch.arange(len(labels_P)))
            for teacher_PK in merged
        ]
    merged = teachers.peer_probabilities(
        scores_MPK, scale, temperature, settings.teacher, permanent_PK
    )
    confident_MP = merged.amax(dim=2) >= settings.min_confidence
    return [
        (teachers.kl_loss(teacher_PK, scale, temperature), confident_P.nonzero().reshape(-1))
        for teacher_PK, confident_P in zip(merged, confident_MP, strict=True)
    ]


def ensemble_loss(
    scratch: ScratchModel, scores_NPK: Tensor, weights_N: Tensor, temperature: float
) -> tuple[DistillationLoss, Tensor]:
    """The aggregated model's loss towards the trust-weighted ensemble, and all proxy images."""
    scale = scratch.model.scale
    teacher_PK = teachers.ensemble(scores_NPK, weights_N, scale, temperature)
    weights_P = teachers.balance(teacher_PK.argmax(dim=1))
    return teachers.kl_loss(teacher_PK, scale, temperature, weights_P), torch.arange(
        len(teacher_PK)
    )


def distil(
    scratch: ScratchModel,
    start: State,
    distillation_loss: tuple[DistillationLoss, Tensor],
    schedule: Schedule,
    generator: Generator,
    *,
    alignment: float | None,
) -> DistilledModel:
    """Train a start whose statistics are re-estimated already, and send it back there if it is less
    aligned with the ETF on the root set than its start's `alignment` (None: not evaluated), after
    an epoch or at the end, or not finite. No image to learn from changes nothing."""
    loss, rows_P = distillation_loss
    if not len(rows_P):
        return DistilledModel(start, 0.0, False)

    def is_worse() -> bool:
        return alignment is not None and scratch.alignment() < alignment

    load(scratch.model, scratch.layout, start)
    trained, mean_loss = train_student(
        scratch, rows_P, loss, schedule, generator, is_worse=is_worse
    )
    if trained is None:
        return DistilledModel(start, mean_loss if math.isfinite(mean_loss) else 0.0, True)
    if not math.isfinite(mean_loss) or not trained.parameters.isfinite().all():
        return DistilledModel(start, 0.0, True)
    trained = scratch.load_and_recalibrate(trained)
    worse = is_worse()
    return DistilledModel(start if worse else trained, mean_loss, worse)


def train_student(
    scratch: ScratchModel,
    rows_P: Tensor,
    distillation_loss: DistillationLoss,
    schedule: Schedule,
    generator: Generator,
    *,
    is_worse: Callable[[], bool],
) -> tuple[State | None, float]:
    """Train the model in the scratch model (see `ScratchModel.load_and_recalibrate`) on some proxy
    images; its new state and its mean loss in the last epoch. Adam, gradients clipped to length 5,
    BatchNorm statistics frozen (eval mode). Between two epochs `is_worse` is asked: if so, it ends
    there and has no state, since the student will be sent back."""
    model = scratch.model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters] if schedule.proximal else []
    optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate)
    loss = 0.0
    for epoch in range(schedule.epochs):
        if epoch and is_worse():
            optimizer.zero_grad(set_to_none=True)
            return None, loss / len(rows_P)
        order = rows_P[torch.randperm(len(rows_P), generator=generator)]
        batches = torch.split(order, schedule.batch_size)
        loss = math.fsum(
            _step(
                scratch,
                rows_B,
                distillation_loss,
                optimizer,
                start=start,
                proximal=schedule.proximal,
            )
            for rows_B in batches
        )
    optimizer.zero_grad(set_to_none=True)
    return take(model, scratch.layout), loss / len(rows_P)


def _step(
    scratch: ScratchModel,
    rows_B: Tensor,
    distillation_loss: DistillationLoss,
    optimizer: Optimizer,
    *,
    start: list[Tensor],
    proximal: float,
) -> float:
    """One step of the optimizer; returns the batch's summed loss without the proximal term."""
    parameters = optimizer.param_groups[0]["params"]
    images_B = as_unit(scratch.proxy_samples.images[rows_B].to(parameters[0].device))
    loss = distillation_loss(scratch.model(images_B), rows_B)
    pull = sum(
        (parameter - origin).square().sum()
        for parameter, origin in zip(parameters, start, strict=False)
    )
    optimizer.zero_grad(set_to_none=True)
    (loss + proximal / 2 * pull).backward()
    torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
    optimizer.step()
    return loss.item() * len(rows_B)
