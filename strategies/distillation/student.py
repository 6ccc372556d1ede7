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

from fedrobust.learning.alignment import is_worse
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

    epochs: PositiveCount = 1
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
        teacher: how the members' scores become a teacher. per_class: their ensemble with shares of
            their own in every class, those that fit the root set best
            (`strategies.etf_dml.stacking.stack_classes`), its mean probability of every class
            that of the next; trust: their ensemble with the shares that trust gives;
            mutual only: median or mean of the peers, the mean is not robust. null: per_class, and
            trust where no root set is used (trust=none).
        min_confidence: mutual with distillation_loss=kl only: images on which the teacher is less
            sure are left out.
    """

    distillation: Literal["mutual", "ensemble", "none"] = "ensemble"
    distillation_loss: Annotated[str, OneOf(DISTILLATION_LOSSES)] = "kl"
    teacher: Literal["per_class", "trust", "median", "mean"] | None = None
    min_confidence: Share = 0.0

    @property
    def wanted(self) -> bool:
        """Whether any model is distilled."""
        return self.distillation != "none"

    @property
    def merges(self) -> bool:
        """Whether peers are merged without shares."""
        return self.teacher in ("median", "mean")


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares (N, K) of the members in every class, of sum 1: teaching_NK make the teacher,
    trusted_NK (the same in all classes) decide how often it names a class."""

    teaching_NK: Tensor
    trusted_NK: Tensor

    def of(self, rows: Tensor) -> Shares:
        """Those of some members."""
        if self.teaching_NK is self.trusted_NK:
            return Shares(same := self.trusted_NK[rows], same)
        return Shares(self.teaching_NK[rows], self.trusted_NK[rows])


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
    shares: Shares,
    settings: DistillationSettings,
    temperature: float,
    *,
    permanent_PK: Tensor | None = None,
) -> list[tuple[DistillationLoss, Tensor]]:
    """The loss of each of M >= 2 members towards its peers, and the proxy images it learns from.

    shares: of the members, for a teacher that is an ensemble. permanent_PK: scores of a further
    peer of all, which gives half of every teacher (None: there is none).
    """
    labels_P, scale = scratch.proxy_samples.labels, scratch.model.scale
    if settings.distillation_loss == "true_class":
        merged = (
            teachers.merge_peers(scores_MPK, str(settings.teacher))
            if settings.merges
            else teachers.peer_scores(scores_MPK, shares.teaching_NK)
        )
        merged = merged if permanent_PK is None else (merged + permanent_PK) / 2
        return [
            (teachers.true_class_loss(teacher_PK, labels_P), torch.arange(len(labels_P)))
            for teacher_PK in merged
        ]
    soften = scale / temperature
    merged = (
        teachers.peer_probabilities(scores_MPK, scale, temperature, str(settings.teacher))
        if settings.merges
        else _with_prior(teachers.peer_scores, scores_MPK, shares, soften)
    )
    if permanent_PK is not None:
        merged = (merged + (soften * permanent_PK).softmax(dim=-1)) / 2
    confident_MP = merged.amax(dim=2) >= settings.min_confidence
    return [
        (teachers.kl_loss(teacher_PK, scale, temperature), confident_P.nonzero().reshape(-1))
        for teacher_PK, confident_P in zip(merged, confident_MP, strict=True)
    ]


def ensemble_loss(
    scratch: ScratchModel, scores_NPK: Tensor, shares: Shares, temperature: float
) -> tuple[DistillationLoss, Tensor]:
    """The aggregated model's loss towards the ensemble with these shares, and all proxy images."""
    scale = scratch.model.scale
    teacher_PK = _with_prior(teachers.mean_scores, scores_NPK, shares, scale / temperature)
    return teachers.kl_loss(teacher_PK, scale, temperature), torch.arange(len(teacher_PK))


def _with_prior(
    merge: Callable[[Tensor, Tensor], Tensor], scores_NPK: Tensor, shares: Shares, soften: float
) -> Tensor:
    """(..., P, K) probabilities of a teacher: what the members know of each class, with the mean
    probabilities of their ensemble by trust. Shares that fit a root set with as many images of
    every class would else teach that all are equally frequent."""
    found = (soften * merge(scores_NPK, shares.teaching_NK)).softmax(dim=-1)
    if shares.teaching_NK is shares.trusted_NK:
        return found
    usual = (soften * merge(scores_NPK, shares.trusted_NK)).softmax(dim=-1)
    return teachers.match_prior(found, usual.mean(dim=-2))


def distil(
    scratch: ScratchModel,
    start: State,
    distillation_loss: tuple[DistillationLoss, Tensor],
    schedule: Schedule,
    generator: Generator,
    *,
    losses_R: Tensor | None,
) -> DistilledModel:
    """Train a start whose statistics are re-estimated already, and send it back there if its loss
    on the root set grew (`fedrobust.learning.alignment.is_worse` than the start's losses_R; None:
    not evaluated), or is not finite. No image to learn from changes nothing."""
    loss, rows_P = distillation_loss
    if not len(rows_P):
        return DistilledModel(start, 0.0, False)
    load(scratch.model, scratch.layout, start)
    trained, mean_loss = train_student(scratch, rows_P, loss, schedule, generator)
    if not math.isfinite(mean_loss) or not trained.parameters.isfinite().all():
        return DistilledModel(start, 0.0, True)
    trained = scratch.load_and_recalibrate(trained)
    worse = losses_R is not None and is_worse(scratch.root_losses(), losses_R)
    return DistilledModel(start if worse else trained, mean_loss, worse)


def train_student(
    scratch: ScratchModel,
    rows_P: Tensor,
    distillation_loss: DistillationLoss,
    schedule: Schedule,
    generator: Generator,
) -> tuple[State, float]:
    """Train the model in the scratch model (see `ScratchModel.load_and_recalibrate`) on some proxy
    images; its new state and its mean loss in the last epoch. Adam, gradients clipped to length 5,
    BatchNorm statistics frozen (eval mode)."""
    model = scratch.model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters] if schedule.proximal else []
    optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate)
    loss = 0.0
    for _ in range(schedule.epochs):
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
