"""Laws of client trainers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedrobust.learning.etf import simplex_etf
from fedrobust.state import Layout, State, load, read
from fedrobust.testing.laws import Law, check_laws, copied, require, same
from fedrobust.types import ClientTrainer, Samples, Shard, Task, TrainResult
from fedrobust.utils.seeding import generator, isolated

CLASSES, SIDE, FEATURES = 3, 8, 4
TRAINER_SEEDS = range(2)
ModelOf = Callable[[int], nn.Module]


class _SmallNet(nn.Module):
    """One convolution with BatchNorm, pooled to 4 features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, FEATURES, 3, padding=1), nn.BatchNorm2d(FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.norm(self.conv(images)).relu().mean((2, 3))
        return pooled


def example_model(seed: int = 0) -> nn.Module:
    """A classifier of 3 classes with a fixed ETF head: a few hundred parameters and BatchNorm."""
    from fedrobust.learning.classifier import Classifier  # brings timm

    anchors = simplex_etf(FEATURES, CLASSES, generator(seed, "etf"))
    with isolated(generator(seed, "model")):
        return Classifier(_SmallNet(), FEATURES, CLASSES, anchors, 16.0)


def example_images(count: int, seed: int = 0, name: str = "train") -> Samples:
    """Noise (count, 3, 8, 8), uint8, in which the colour of the class is brighter."""
    labels = torch.arange(count) % CLASSES
    images = 0.4 * torch.rand(count, 3, SIDE, SIDE, generator=generator(seed, name))
    images[torch.arange(count), labels] += 0.4
    return Samples((255 * images).to(torch.uint8), labels)


@dataclass(frozen=True, slots=True)
class TrainerCase:
    """A trainer, and the model that it trains for a seed."""

    train: ClientTrainer
    model: ModelOf = example_model


def check_trainer(
    trainer: ClientTrainer,
    *,
    model: ModelOf = example_model,
    without: Collection[str] = (),
    seeds: Iterable[int] = TRAINER_SEEDS,
) -> None:
    """Put a client trainer through the laws in `TRAINER_LAWS`, on a small classifier of 3 classes.

    Args:
        trainer: what the factory returns.
        model: seed -> the classifier that is trained, for a trainer that asks for one of its own.
        without: names of laws that it does not claim to keep.
        seeds: of the model, the images and its randomness.

    Raises:
        LawError: a law does not hold; the message says which.
        ValueError: `without` names no law.
    """
    tested = TrainerCase(trainer, model)
    check_laws("the trainer", tested, TRAINER_LAWS, seeds, without)


@dataclass(frozen=True, slots=True)
class _Trained:
    """What a trainer made of a task: its result, the model's floats, and the model."""

    result: TrainResult
    state: State
    model: nn.Module


def _example_shard(seed: int, train: int = 12) -> Shard:
    parts = ((train, "train"), (6, "validation"), (6, "test"))
    return Shard(*(example_images(count, seed, name) for count, name in parts))


def _train(
    tested: TrainerCase,
    seed: int,
    shard: Shard | None = None,
    *,
    round: int = 1,
    before: TrainResult | None = None,
    received: State | None = None,
) -> _Trained:
    """before: its result of the round before; received: the global model, None: that of the
    seed."""
    model = tested.model(seed)
    layout = Layout.of(model)
    if received is not None:
        load(model, layout, received)
    task = Task(
        model,
        shard or _example_shard(seed),
        round,
        {},
        {} if before is None else before.memory,
        generator(seed, "task", round),
        {} if before is None else before.personal,
    )
    result = tested.train(task)
    return _Trained(result, read(model, layout), model)


def _report(tested: TrainerCase, seed: int) -> None:
    """It reports the number of its training images, and sums and extras that are finite."""
    result = _train(tested, seed).result
    require(result.num_examples == 12, f"{result.num_examples} of 12 images")
    for name, value in result.sums.items():
        require(torch.tensor(float(value)).isfinite(), f"the sum {name} is {value}")


def _learning(tested: TrainerCase, seed: int) -> None:
    """It trains the model that it was handed, in place, and leaves it finite."""
    model = tested.model(seed)
    before = read(model, Layout.of(model)).parameters
    after = _train(tested, seed).state
    require(after.parameters.isfinite().all(), "parameters are not finite")
    require(after.buffers.isfinite().all(), "BatchNorm statistics are not finite")
    require(not torch.equal(before, after.parameters), "no parameter of the model changed")


def _input(tested: TrainerCase, seed: int) -> None:
    """The hospital's images and labels are not changed in place."""
    shard = _example_shard(seed)
    parts = (shard.train, shard.validation, shard.test)
    before = [copied(part) for part in parts]
    _train(tested, seed, shard)
    for part, tensors in zip(parts, before, strict=True):
        require(same(part, tensors), "images or labels are others afterwards")


def _structure(tested: TrainerCase, seed: int) -> None:
    """Afterwards the model has the same tensors, of the same shapes, and the same ones can be
    trained."""
    before, after = Layout.of(tested.model(seed)), Layout.of(_train(tested, seed).model)
    require(before.parameters == after.parameters, "other parameters, or others can be trained")
    require(before.buffers == after.buffers, "the statistics are others")


def _generator(tested: TrainerCase, seed: int) -> None:
    """The task's generator decides everything: the same task gives the same bits, and torch's
    global random numbers stay untouched."""
    before = torch.random.get_rng_state()
    one, other = _train(tested, seed), _train(tested, seed)
    require(same(one.state, copied(other.state)), "the model differs")
    require(torch.equal(before, torch.random.get_rng_state()), "global random numbers are drawn")


def _next_round(tested: TrainerCase, seed: int) -> None:
    """What it remembers, and its own tensors, can be kept and come back in the next round."""
    first = _train(tested, seed)
    for name, value in first.result.memory.items():
        require(_can_be_kept(value), f"memory {name} is a {type(value).__name__}")
    for name, one in first.result.personal.items():
        require(one.dtype == torch.float32, f"personal {name} is {one.dtype}")
    second = _train(tested, seed, round=2, before=first.result, received=first.state)
    require(second.state.parameters.isfinite().all(), "the model of the second round is not finite")


def _can_be_kept(value: Any) -> bool:
    """Whether it is a JSON value, or a tensor of float32 or int64, or made of these."""
    if isinstance(value, Tensor):
        return value.dtype in (torch.float32, torch.int64)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _can_be_kept(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_can_be_kept, value))
    return value is None or isinstance(value, str | bool | int | float)


def _few_images(tested: TrainerCase, seed: int) -> None:
    """Two training images are enough, and no validation image is needed."""
    whole = _example_shard(seed, train=2)
    nothing = whole.test.take(torch.zeros(0, dtype=torch.int64))
    found = _train(tested, seed, Shard(whole.train, nothing, nothing))
    require(found.result.num_examples == 2, f"{found.result.num_examples} of 2 images")
    require(found.state.parameters.isfinite().all(), "parameters are not finite")


TRAINER_LAWS: Mapping[str, Law[TrainerCase]] = {
    "report": _report,
    "learning": _learning,
    "input": _input,
    "structure": _structure,
    "generator": _generator,
    "next_round": _next_round,
    "few_images": _few_images,
}
