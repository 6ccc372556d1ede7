"""Frozen values that the packages of fedrobust exchange. Nothing here computes.

Shapes ride on names: N clients or samples, D trainable parameters, B buffer values, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Samples:
    """Labelled images of one shape.

    images: (N, C, H, W), uint8 in [0, 255] or float32 in [0, 1] (`images.as_unit` accepts both).
    labels: (N,) int64 in [0, K).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Samples:
        return Samples(self.images[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class Shard:
    """One hospital's data in its three parts."""

    train: Samples
    validation: Samples
    test: Samples


@dataclass(frozen=True, slots=True)
class Task:
    """All that a client may see in one round. `model` arrives holding the received global state;
    train it in place. `personal`: what it returned as such in its last round."""

    model: Any
    data: Shard
    round: int
    extras: Mapping[str, Any]
    memory: Mapping[str, Any]
    generator: Generator
    personal: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelChoice:
    """What a trainer made of the labels of its N training images.

    suspected_N: bool, those that it left out of its training or relabelled. labels_N: int64, the
    labels that it trained with (of images left out those given).
    """

    suspected_N: Tensor
    labels_N: Tensor


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Result of a client trainer. `sums` are sums over `num_examples` samples seen; `memory` (JSON
    values, and float32 or int64 tensors) and `personal` never leave the client. personal: tensors
    of the client's own model by name, float32; the others it takes from the global model
    (`learning.personal`). labels: of a trainer that doubts labels, which; only their number leaves
    the client."""

    num_examples: int
    sums: Mapping[str, float]
    extras: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    personal: Mapping[str, Tensor] = field(default_factory=dict)
    labels: LabelChoice | None = None


ClientTrainer = Callable[[Task], TrainResult]


@dataclass(frozen=True, slots=True)
class PersonalTrainer:
    """A client trainer whose clients each have a model of their own, which they evaluate at the
    end, too: the one kept as `TrainResult.personal` or, with `adapt`, the one that it makes of the
    final global model in the client's task, as tensors by name."""

    train: ClientTrainer
    adapt: Callable[[Task], Mapping[str, Tensor]] | None = None

    def __call__(self, task: Task) -> TrainResult:
        return self.train(task)


Purify = Callable[[Tensor, Generator], Tensor]


def keep_images(images: Tensor, generator: Generator) -> Tensor:
    """The identity on images."""
    return images


@dataclass(frozen=True, slots=True)
class Purifier:
    """A purifier of images, applied at test time before a model sees them.

    purify: (images (B, C, H, W) float32 in [0, 1], CPU generator) -> images of the same shape,
    range and device; the input is never changed in place. differentiable: whether gradients flow
    through it from its result to its input.
    """

    name: str
    purify: Purify = keep_images
    differentiable: bool = True


NO_PURIFIER = Purifier("none")


@dataclass(frozen=True, slots=True)
class Failure:
    """A client whose reply could not be used in a round: the reason in one line, and the whole
    traceback where there is one.

    counts: towards server.max_failures. It does not where a reply was discarded that was not
    awaited for, such as a client's second one (its first stands), or one of a node that was not
    asked (client -1).
    """

    client: int
    reason: str
    traceback: str = ""
    counts: bool = True


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """One client in one round: what it reported (means over its samples) and what the rule made of
    it."""

    client: int
    num_examples: int
    weight: float
    metrics: Mapping[str, float]
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One finished server round; round 0 is the untrained model. `metrics` of the global model on
    the clean validation images, in percent (None: undefined); `seconds` by stage (train, aggregate,
    evaluate). stopped: of the last round of a run that ended before its time, why."""

    number: int
    metrics: Mapping[str, float | None]
    clients: tuple[ClientRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, float] = field(default_factory=dict)
    stopped: str = ""


ATTACKS = "attacks"  # of a round's extras: 1 where poisoned clients attacked, 0 where they did not
SUCCESS = "attack_success_rate"  # likewise: of the backdoor's trigger after the round, in percent
TWIN = "clean twin"  # the run of the same name, beside "run"


class Observer(Protocol):
    """Observer of a run: the screen, the files. `run` names it: "run" or "clean twin"."""

    def run_started(self, run: str, rounds: int, num_clients: int) -> None: ...

    def round_started(self, run: str, number: int) -> None: ...

    def client_done(self, run: str, stage: str, client: int, failed: bool) -> None: ...

    def stage(self, run: str, text: str) -> None: ...

    def round_finished(self, run: str, record: RoundRecord) -> None: ...

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None:
        """Instead of `round_finished` for rounds that an earlier process had finished, after
        `run_started`."""
