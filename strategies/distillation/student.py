"""Deep mutual learning on the server: the trusted members learn from each other (N x N), or their average learns from all of them.

One model at a time; BatchNorm statistics are frozen while it learns and re-estimated before it is judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from fedrobust.strategies.distillation import teachers
from fedrobust.strategies.distillation.members import Bench
from fedrobust.strategies.distillation.teachers import Lesson
from torch import Generator, Tensor
from torch.optim import Optimizer

from fedrobust.state import State, load, take
from fedrobust.utils import validation
from fedrobust.utils.images import as_unit

MAX_NORM = 5.0  # gradients are clipped to this length


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a student is trained, with Adam. `proximal` is mu in mu/2 |W - W_start|^2."""

    epochs: int
    batch_size: int
    learning_rate: float
    proximal: float
    temperature: float


@dataclass(frozen=True, slots=True)
class Peers:
    """How mutual learning makes its teachers; the words are those of `_teachers`."""

    reading: str
    teacher: str
    min_confidence: float


def schedule(epochs: int, batch_size: int, learning_rate: float, proximal: float, temperature: float) -> Schedule:
    """A checked Schedule; raises ConfigError."""
    validation.number("strategy.epochs", epochs, low=1, integer=True)
    validation.number("strategy.batch_size", batch_size, low=1, integer=True)
    validation.number("strategy.learning_rate", learning_rate, low=0, open_low=True)
    validation.number("strategy.proximal", proximal, low=0)
    validation.number("strategy.temperature", temperature, low=0, open_low=True)
    return Schedule(epochs, batch_size, learning_rate, proximal, temperature)


def peers(reading: str, teacher: str, min_confidence: float) -> Peers:
    """Checked Peers; raises ConfigError."""
    validation.choice("strategy.reading", reading, ("full", "ground_truth"))
    validation.choice("strategy.teacher", teacher, ("median", "mean"))
    validation.number("strategy.min_confidence", min_confidence, low=0, high=1)
    return Peers(reading, teacher, min_confidence)


@dataclass(frozen=True, slots=True)
class Graduate:
    """A student after its lessons: what it is now, its mean loss in the last epoch, and whether it was sent back to its start."""

    state: State
    loss: float
    fell_back: bool


def mutual_lessons(
    bench: Bench, scores_MPK: Tensor, peers: Peers, temperature: float, permanent_PK: Tensor | None = None
) -> list[tuple[Lesson, Tensor]]:
    """For each of M >= 2 members its loss towards its peers and the proxy images it learns from.

    permanent_PK: scores of a further peer of all, which gives half of every teacher (None: there is none).
    """
    labels_P, scale = bench.proxy_samples.labels, bench.model.scale
    if peers.reading == "ground_truth":
        merged = teachers.peers(scores_MPK, peers.teacher)
        merged = merged if permanent_PK is None else (merged + permanent_PK) / 2
        return [(teachers.anchor_lesson(teacher_PK, labels_P), torch.arange(len(labels_P))) for teacher_PK in merged]
    merged = teachers.peer_probabilities(scores_MPK, scale, temperature, peers.teacher, permanent_PK)
    confident_MP = merged.amax(dim=2) >= peers.min_confidence
    return [
        (teachers.full_lesson(teacher_PK, scale, temperature), confident_P.nonzero().reshape(-1))
        for teacher_PK, confident_P in zip(merged, confident_MP, strict=True)
    ]


def ensemble_lesson(bench: Bench, scores_NPK: Tensor, weights_N: Tensor, temperature: float) -> tuple[Lesson, Tensor]:
    """The aggregated model's loss towards the trust-weighted ensemble, and all proxy images."""
    scale = bench.model.scale
    teacher_PK = teachers.ensemble(scores_NPK, weights_N, scale, temperature)
    weights_P = teachers.balance(teacher_PK.argmax(dim=1))
    return teachers.full_lesson(teacher_PK, scale, temperature, weights_P), torch.arange(len(teacher_PK))


def teach(
    bench: Bench, start: State, lesson: tuple[Lesson, Tensor], schedule: Schedule, generator: Generator, *, alignment: float | None
) -> Graduate:
    """Train a start whose statistics are re-estimated already, and send it back there if it is less aligned with the ETF on
    the root set than its start's `alignment` (None: not judged) or not finite. No image to learn from changes nothing."""
    loss, rows_P = lesson
    if not len(rows_P):
        return Graduate(start, 0.0, False)
    load(bench.model, bench.layout, start)
    trained, mean_loss = study(bench, rows_P, loss, schedule, generator)
    if not math.isfinite(mean_loss) or not trained.parameters.isfinite().all():
        return Graduate(start, 0.0, True)
    trained = bench.place(trained)
    worse = alignment is not None and bench.alignment() < alignment
    return Graduate(start if worse else trained, mean_loss, worse)


def study(bench: Bench, rows_P: Tensor, lesson: Lesson, schedule: Schedule, generator: Generator) -> tuple[State, float]:
    """Train the model that lies on the bench (see `Bench.place`) on some proxy images; its new state and its mean loss in the
    last epoch. Adam, gradients clipped to length 5, BatchNorm statistics frozen (eval mode)."""
    model = bench.model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters] if schedule.proximal else []
    optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate)
    loss = 0.0
    for _ in range(schedule.epochs):
        order = rows_P[torch.randperm(len(rows_P), generator=generator)]
        batches = torch.split(order, schedule.batch_size)
        loss = math.fsum(_step(bench, rows_B, lesson, optimizer, start=start, proximal=schedule.proximal) for rows_B in batches)
    optimizer.zero_grad(set_to_none=True)
    return take(model, bench.layout), loss / len(rows_P)


def _step(bench: Bench, rows_B: Tensor, lesson: Lesson, optimizer: Optimizer, *, start: list[Tensor], proximal: float) -> float:
    """One step of the optimizer; returns the batch's summed loss without the proximal term."""
    parameters = optimizer.param_groups[0]["params"]
    images_B = as_unit(bench.proxy_samples.images[rows_B].to(parameters[0].device))
    loss = lesson(bench.model(images_B), rows_B)
    pull = sum((parameter - origin).square().sum() for parameter, origin in zip(parameters, start, strict=False))
    optimizer.zero_grad(set_to_none=True)
    (loss + proximal / 2 * pull).backward()
    torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
    optimizer.step()
    return loss.item() * len(rows_B)
