"""The frozen values that travel between the rooms of fedrobust. Nothing here computes.

Shapes ride on names: N clients or samples, D trainable parameters, B buffer values, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Generator, Tensor

if TYPE_CHECKING:
    from fedrobust.attackers import Collusion, Disguise
    from fedrobust.vectors import Updates


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
class State:
    """The floats of one model as two flat float32 vectors, in the order of a `layout.Layout`.

    parameters: (D,) trainable parameters, the only part that enters an update or a distance.
    buffers: (B,) floating-point buffers (BatchNorm statistics), merged by a named policy.
    The fixed ETF is in neither: it travels once, with its hash.
    """

    parameters: Tensor
    buffers: Tensor


@dataclass(frozen=True, slots=True)
class Task:
    """All that a client may see in one round. `model` arrives holding the received global state; train it in place."""

    model: Any
    data: Shard
    round: int
    extras: Mapping[str, Any]
    memory: Mapping[str, Any]
    generator: Generator


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a client trainer hands back. `sums` are sums over `num_examples` samples seen; `memory` never leaves the client."""

    num_examples: int
    sums: Mapping[str, float]
    extras: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)


ClientTrainer = Callable[[Task], TrainResult]


@dataclass(frozen=True, slots=True)
class ServerData:
    """What the server itself owns. `root`: small, trusted, labelled; `proxy`: images for distillation and BatchNorm
    statistics, its labels are not to be used unless the rule says so; None where a rule did not ask for it.
    `model` is a scratch `models.Classifier` into which any state may be loaded. `trainer`: what the clients train with, for rules
    that train on the root set."""

    model: Any
    root: Samples | None = None
    proxy: Samples | None = None
    trainer: ClientTrainer | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """All that a server rule may see. No field says who is poisoned. `memory` is what the rule returned last round."""

    number: int
    reference: State
    updates: Updates
    server_data: ServerData
    generator: Generator
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a rule decides. `weights_N` is the influence in [0, 1] given to each client, in the order of `updates.clients`;
    `extras` are per-client columns (lists of N floats) or plain floats for the record; `memory` comes back next round."""

    state: State
    weights_N: Tensor
    extras: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)


Rule = Callable[[Round], Aggregate]
SUM_WEIGHTS = ("examples", "uniform")  # a client's number of training images; 1


@dataclass(frozen=True, slots=True)
class Strategy:
    """A named server rule. `uses` names the server's extra information it needs, of {"root", "proxy"};
    below `min_clients` replies the rule is not defined.

    sums: for a rule that needs no more of the updates than their weighted sum, and gives the same from one row that holds their
    weighted mean: what weighs an update, of SUM_WEIGHTS. None: it looks at single updates, which secure aggregation hides.
    """

    name: str
    rule: Rule
    uses: frozenset[str] = frozenset()
    min_clients: int = 1
    sums: str | None = None


DataContamination = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]
UpdateContamination = Callable[[State, State, Generator], State]
TrackingContamination = Callable[[State, State, "State | None"], State]
Craft = Callable[[Any, Tensor, Tensor, Generator], Tensor]
Trigger = Callable[[Tensor], Tensor]


def keep_data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """The identity on data."""
    return images, labels


def keep_update(trained: State, reference: State, generator: Generator) -> State:
    """The identity on an update."""
    return trained


@dataclass(frozen=True, slots=True)
class Backdoor:
    """What is needed to measure an attack success rate: the trigger put on images (N, C, H, W) in [0, 1], and the wanted class.

    source: the only class whose images are victims; None: all but the target.
    """

    trigger: Trigger
    target: int
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Contamination:
    """Any injected damage, as a value: `data` before training, `update` after it. Inputs are never changed in place.

    data: (images_NCHW float32 in [0, 1], labels_N, generator) -> (images, labels) of the same shapes and ranges.
    update: (trained, reference, generator) -> State.
    track: (what `update` made, reference, the reference that this client received the last time it took part, or None) -> State.
    parts: where clients of one kind differ: the client of rank i among them suffers parts[i mod len(parts)] instead of this one.
    disguise: (what the client learnt from its clean data, what it learnt when it went on from there with its contaminated data,
    mirror, generator) -> State, which takes the place of the trained one before `update`. collude: see `attackers.Collusion`.
    craft: (the received `models.Classifier`, images_NCHW float32 in [0, 1], labels_N, generator) -> images; anew in every round, after
    `data`.
    """

    name: str
    data: DataContamination = keep_data
    update: UpdateContamination = keep_update
    backdoor: Backdoor | None = None
    track: TrackingContamination | None = None
    parts: tuple[Contamination, ...] = ()
    disguise: Disguise | None = None
    collude: Collusion | None = None
    craft: Craft | None = None


CLEAN = Contamination("clean")


Purify = Callable[[Tensor, Generator], Tensor]
Attack = Callable[[Any, Tensor, Tensor, float, Generator], Tensor]


def keep_images(images: Tensor, generator: Generator) -> Tensor:
    """The identity on images."""
    return images


@dataclass(frozen=True, slots=True)
class Purifier:
    """What images go through before a model sees them, at test time.

    purify: (images (B, C, H, W) float32 in [0, 1], CPU generator) -> images of the same shape, range and device; the input is never
    changed in place. differentiable: whether gradients flow through it from its result to its input.
    """

    name: str
    purify: Purify = keep_images
    differentiable: bool = True


NO_PURIFIER = Purifier("none")


@dataclass(frozen=True, slots=True)
class Evasion:
    """An attack on a trained model at test time: images that people take for the same and the model does not.

    attack: (`models.Classifier`, images (B, C, H, W) float32 in [0, 1] on its device, labels (B,) int64 there, eps, CPU generator) ->
    images of the same shape in [0, 1]; the model is left as it was found, the input is never changed in place. None: no attack.
    bounded: whether no value is changed by more than eps; an attack without that bound seeks the smallest change and ignores eps.
    """

    name: str
    attack: Attack | None = None
    bounded: bool = True


# An attack by somebody who knows the purifier: (model, images, labels, eps, purifier, generator) -> images within eps.
AdaptiveAttack = Callable[[Any, Tensor, Tensor, float, Purifier, Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Failure:
    """A client whose reply could not be used in a round: the reason in one line, and the whole traceback where there is one.

    counts: towards server.max_failures. It does not where a reply was put aside that nobody waited for, such as a client's second
    one (its first stands), or one of a node that was not asked (client -1).
    """

    client: int
    reason: str
    traceback: str = ""
    counts: bool = True


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """One client in one round: what it reported (means over its samples) and what the rule made of it."""

    client: int
    num_examples: int
    weight: float
    metrics: Mapping[str, float]
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One finished server round; round 0 is the untrained model. `metrics` of the global model on the clean
    validation images, in percent (None: undefined); `seconds` by stage (train, aggregate, evaluate)."""

    number: int
    metrics: Mapping[str, float | None]
    clients: tuple[ClientRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, float] = field(default_factory=dict)


class Observer(Protocol):
    """Whoever watches a run: the screen, the files. `run` names it: "run" or "clean twin"."""

    def run_started(self, run: str, rounds: int, num_clients: int) -> None: ...

    def round_started(self, run: str, number: int) -> None: ...

    def client_done(self, run: str, stage: str, client: int, failed: bool) -> None: ...

    def stage(self, run: str, text: str) -> None: ...

    def round_finished(self, run: str, record: RoundRecord) -> None: ...

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None:
        """Instead of `round_finished` for rounds that an earlier process had finished, after `run_started`."""
