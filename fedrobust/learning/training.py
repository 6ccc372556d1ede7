"""The one training loop: every client trainer uses it, and so does central training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fedrobust.errors import RunError
from fedrobust.learning import batchnorm, optimizers
from fedrobust.learning.augmentation import draw_batch
from fedrobust.learning.inference import run_batches
from fedrobust.learning.losses import Loss
from fedrobust.learning.settings import TrainingSettings
from fedrobust.types import Samples, Shard
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import isolated

# (images_B3HW in [0, 1], scores_BK, labels_B) -> scalar
ExtraLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
# (scores_BK, the peers' scores_BK without gradients, labels_B) -> scalar
PeerLoss = Callable[[Tensor, Sequence[Tensor], Tensor], Tensor]
# (scores_BK of all members without gradients, labels_B, rows_B of the training images) -> of each
# member the places in the batch that it learns from
Choose = Callable[[Sequence[Tensor], Tensor, Tensor], Sequence[Tensor]]
# (member, images_B3HW, scores_BK of all members, labels_B) -> scalar
Term = Callable[[int, Tensor, Sequence[Tensor], Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class FitResult:
    """Result of a training run. `sums` over `seen` images (each pass counts): loss, correct, and
    extra_loss where there is one; `memory`: the learning-rate schedule, to be handed to the next
    call."""

    seen: int
    sums: Mapping[str, float]
    memory: Mapping[str, Any]


def fit(
    model: nn.Module,
    data: Shard,
    loss: Loss,
    settings: TrainingSettings,
    generator: Generator,
    *,
    extra_loss: ExtraLoss | None = None,
    memory: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train `model` in place, where it lies, on data.train with loss(scores, labels) +
    extra_loss(images, scores, labels).

    The images are moved to the model's device once and augmented there. Order, augmentation and
    dropout come from `generator` alone. A last batch of one image joins the batch before it, for
    BatchNorm needs two; a shard of one image is trained with BatchNorm frozen. Raises RunError
    without images and when a loss is not finite.
    """
    term = None if extra_loss is None else _alone(extra_loss)
    return _fit([_Run.start(model, data, loss, settings, memory or {})], settings, generator, term)[
        0
    ]


def fit_together(
    models: Sequence[nn.Module],
    data: Shard,
    loss: Loss,
    settings: TrainingSettings,
    generator: Generator,
    *,
    peer_loss: PeerLoss,
    memory: Mapping[str, Any] | None = None,
) -> list[FitResult]:
    """As `fit`, for a cohort of models on one device that see the same batches, each with an
    optimizer of its own.

    In every step all members answer first; then each of them goes down loss(its scores, labels) +
    peer_loss(its scores, the scores of the others, labels), which is reported as extra_loss. Each
    is evaluated on the validation images by `loss` alone, has a learning-rate schedule and a best
    epoch of its own and ends there; the training ends when early stopping would end that of every
    one of them. `memory`: that of models[0]; the others have none.
    """

    def term(member: int, images: Tensor, scores: Sequence[Tensor], labels: Tensor) -> Tensor:
        others = [one.detach() for place, one in enumerate(scores) if place != member]
        return peer_loss(scores[member], others, labels)

    return _fit(_start(models, data, loss, settings, memory), settings, generator, term)


def fit_on_chosen(
    models: Sequence[nn.Module],
    data: Shard,
    loss: Loss,
    settings: TrainingSettings,
    generator: Generator,
    *,
    choose: Choose,
    memory: Mapping[str, Any] | None = None,
) -> list[FitResult]:
    """As `fit_together`, but each member learns from the images of a batch that `choose` gives it,
    by their loss alone."""
    return _fit(_start(models, data, loss, settings, memory), settings, generator, None, choose)


def _start(
    models: Sequence[nn.Module],
    data: Shard,
    loss: Loss,
    settings: TrainingSettings,
    memory: Mapping[str, Any] | None,
) -> list[_Run]:
    return [
        _Run.start(model, data, loss, settings, (memory or {}) if place == 0 else {})
        for place, model in enumerate(models)
    ]


def _alone(extra_loss: ExtraLoss) -> Term:
    return lambda member, images, scores, labels: extra_loss(images, scores[member], labels)


def _fit(
    runs: Sequence[_Run],
    settings: TrainingSettings,
    generator: Generator,
    term: Term | None,
    choose: Choose | None = None,
) -> list[FitResult]:
    count, device = len(runs[0].train), runs[0].device
    if not count:
        raise RunError("there are no training images")
    modes = [run.model.training for run in runs]
    with isolated(generator, device), ExitStack() as stack:
        for run in runs:
            run.model.train()
            if count == 1:
                stack.enter_context(batchnorm.freeze_statistics(run.model))
        for batches in _passes(count, settings, generator):
            for index in batches:
                _step(runs, index.to(device), term, generator, choose)
            for run in runs:
                run.check_finite()
            # every one is evaluated, also where another would continue
            ended = [run.finished_epoch() for run in runs]
            if all(ended):
                break
    for run, mode in zip(runs, modes, strict=True):
        run.restore_best()
        # as much memory as the model itself, and it is no longer needed
        run.optimizer.zero_grad()
        run.model.train(mode)
    return [
        FitResult(run.seen, {name: float(total) for name, total in run.sums.items()}, run.memory())
        for run in runs
    ]


def _step(
    runs: Sequence[_Run],
    index: Tensor,
    term: Term | None,
    generator: Generator,
    choose: Choose | None,
) -> None:
    """One batch: all members answer, then each learns."""
    train, random = runs[0].train, generator if runs[0].settings.augment else None
    images, labels = as_unit(draw_batch(train.images, index, random)), train.labels[index]
    with runs[0].autocast():
        scores = [run.model(images) for run in runs]
    chosen = choose([one.detach() for one in scores], labels, index) if choose else None
    for member, run in enumerate(runs):
        rows = slice(None) if chosen is None else chosen[member]
        with run.autocast():
            parts = {"loss": run.loss(scores[member][rows], labels[rows])}
            if term is not None:
                parts["extra_loss"] = term(member, images, scores, labels)
        run.learn(scores[member], labels, parts)


def _passes(count: int, settings: TrainingSettings, generator: Generator) -> Iterator[list[Tensor]]:
    """The batches (index tensors) of each pass in random order: `epochs` passes, or as many batches
    in all as `steps`."""
    left = settings.steps
    for _ in range(settings.epochs) if left is None else iter(int, 1):
        batches = list(torch.split(torch.randperm(count, generator=generator), settings.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        if left is None:
            yield batches
            continue
        yield batches[:left]
        left -= len(batches)
        if left <= 0:
            return


@dataclass
class _Run:
    """The moving parts of one call of `fit`."""

    model: nn.Module
    train: Samples
    validation: Samples
    loss: Loss
    settings: TrainingSettings
    optimizer: torch.optim.Optimizer
    plateau: ReduceLROnPlateau | None
    device: torch.device
    seen: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    best_state: dict[str, Any] | None = None
    waited: int = 0

    @classmethod
    def start(
        cls,
        model: nn.Module,
        data: Shard,
        loss: Loss,
        settings: TrainingSettings,
        memory: Mapping[str, Any],
    ) -> _Run:
        device = next(model.parameters()).device
        optimizer = optimizers.make_optimizer(
            settings.optimizer,
            [p for p in model.parameters() if p.requires_grad],
            # beside the steps of a small head on features an optimizer's own time counts
            fused=data.train.images.ndim < 4,
        )
        plateau = (
            None
            if settings.lr_plateau is None
            else ReduceLROnPlateau(optimizer, **settings.lr_plateau)
        )
        if plateau is not None and "plateau" in memory:
            plateau.load_state_dict(copy.deepcopy(memory["plateau"]))
            for group, rate in zip(optimizer.param_groups, memory["rates"], strict=True):
                group["lr"] = rate
        train, validation = (
            Samples(part.images.to(device), part.labels.to(device))
            for part in (data.train, data.validation)
        )
        return cls(model, train, validation, loss, settings, optimizer, plateau, device)

    def autocast(self) -> AbstractContextManager[Any]:
        if not (self.settings.amp and self.device.type == "cuda"):
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def learn(self, scores: Tensor, labels: Tensor, parts: Mapping[str, Tensor]) -> None:
        """One optimizer step down the sum of the parts of the loss."""
        self.optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        if self.settings.max_grad_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.seen += len(labels)
        self._add({name: value.detach().double() * len(labels) for name, value in parts.items()})
        self._add({"correct": (scores.detach().argmax(1) == labels).sum().double()})

    def _add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def check_finite(self) -> None:
        """Once per pass, not per step: reading a loss makes a GPU wait, and what is not finite
        stays so in a sum."""
        bad = [name for name, total in self.sums.items() if not math.isfinite(total)]
        if bad:
            rate = self.optimizer.param_groups[0]["lr"]
            raise RunError(
                f"not finite in local training: {', '.join(bad)}; lower "
                f"client.optimizer.lr={rate} or set client.max_grad_norm=5"
            )

    def finished_epoch(self) -> bool:
        """Evaluate the epoch on the validation images where a setting asks for it; true when
        training should end."""
        patience = self.settings.early_stopping
        if (patience is None and self.plateau is None) or not len(self.validation):
            return False
        value = self._validation_loss()
        if self.plateau is not None:
            self.plateau.step(value)
        if patience is None:
            return False
        if value < self.best_loss:
            self.best_loss, self.waited, self.best_state = (
                value,
                0,
                copy.deepcopy(self.model.state_dict()),
            )
        else:
            self.waited += 1
        return self.waited >= patience

    @torch.no_grad()
    def _validation_loss(self) -> float:
        with self.autocast():
            scores = torch.cat(run_batches(self.model, self.validation.images, self.model))
        return float(self.loss(scores, self.validation.labels))

    def restore_best(self) -> None:
        if self.best_state is not None and self.waited:
            self.model.load_state_dict(self.best_state)

    def memory(self) -> dict[str, Any]:
        if self.plateau is None:
            return {}
        return {
            "plateau": self.plateau.state_dict(),
            "rates": [group["lr"] for group in self.optimizer.param_groups],
        }
