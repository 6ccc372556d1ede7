"""Contaminations, backdoors and attacks as frozen values, and what attackers who collude or hide
can see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor

from fedrobust.aggregation.updates import UpdateRows
from fedrobust.state import State
from fedrobust.types import ClientTrainer, Purifier, Samples

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
    """Trigger and target class, which define the attack success rate: the trigger put on images (N,
    C, H, W) in [0, 1], and the target class.

    source: the only class whose images are victims; None: all but the target.
    """

    trigger: Trigger
    target: int
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Contamination:
    """Any injected damage, as a value: `data` before training, `update` after it. Inputs are never
    changed in place.

    data: (images_NCHW float32 in [0, 1], labels_N, generator) -> (images, labels) of the same
    shapes and ranges. update: (trained, reference, generator) -> State. track: (what `update` made,
    reference, the reference that this client received the last time it took part, or None) ->
    State. parts: where clients of one kind differ: the client of rank i among them suffers parts[i
    mod len(parts)] instead of this one. stealth: (what the client learnt from its clean data, what
    it learnt in further training on its contaminated data, mirror, generator) -> State,
    which takes the place of the trained one before `update`. collude: see `base.Collusion`. craft:
    (the received `classifier.Classifier`, images_NCHW float32 in [0, 1], labels_N, generator) ->
    images; anew in every round, after `data`. train: (the client's
    trainer) -> the one that takes its place. learnt: see `base.LearntTrigger`. key: what besides
    its settings decides it, in a word.
    """

    name: str
    data: DataContamination = keep_data
    update: UpdateContamination = keep_update
    backdoor: Backdoor | None = None
    track: TrackingContamination | None = None
    parts: tuple[Contamination, ...] = ()
    stealth: Stealth | None = None
    collude: Collusion | None = None
    craft: Craft | None = None
    train: Callable[[ClientTrainer], ClientTrainer] | None = None
    learnt: LearntTrigger | None = None
    key: str = ""


CLEAN = Contamination("clean")
Attack = Callable[[Any, Tensor, Tensor, float, Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Evasion:
    """An attack on a trained model at test time: images that people take for the same and the model
    does not.

    attack: (`classifier.Classifier`, images (B, C, H, W) float32 in [0, 1] on its device, labels
    (B,) int64 there, eps, CPU generator) -> images of the same shape in [0, 1]; the model is left
    as it was found, the input is never changed in place. None: no attack. bounded: whether no value
    is changed by more than eps; an attack without that bound seeks the smallest change and ignores
    eps.
    """

    name: str
    attack: Attack | None = None
    bounded: bool = True


# An attack that knows the purifier: (model, images, labels, eps, purifier, generator) ->
# images within eps.
AdaptiveAttack = Callable[[Any, Tensor, Tensor, float, Purifier, Generator], Tensor]


# columns from left to right, each with (M, b) values, or (b,) where all rows are alike
Strips = Iterable[tuple[slice, Tensor]]


@dataclass(frozen=True, slots=True)
class AttackContext:
    """All that attackers who work together see in one round.

    own: the honest updates of those M poisoned clients that replied. known: the updates they reckon
    with, see `Collusion`. total: how many clients replied, theirs included. memory: what they
    remembered last round. apply: puts the given rows in the place of `own`, which are lost, and
    returns the (D,) update that the live rule would make; None without knowledge of all.
    """

    number: int
    reference: State
    own: UpdateRows
    known: UpdateRows
    total: int
    generator: Generator
    memory: Mapping[str, Any]
    apply: Callable[[Strips], Tensor] | None


@dataclass(frozen=True, slots=True)
class CraftedUpdates:
    """Updates that the poisoned clients send instead of their own, computed while they are read,
    and the attackers' memory."""

    strips: Strips
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Collusion:
    """Model poisoning by clients that work together. It is done between the replies and the rule,
    in simulations only.

    knowledge: what `AttackContext.known` holds: "own": their own honest updates; "omniscient":
    those of all clients that are not theirs (their own, without other replies). What the server
    owns is never among it.
    """

    attack: Callable[[AttackContext], CraftedUpdates]
    knowledge: str = "omniscient"


@dataclass(frozen=True, slots=True)
class AttackerProbe:
    """An attacker's own check of a model before sending it.

    samples: its own clean training and validation images. scores: (n, K) of a state's model on
    images (n, C, H, W), with BatchNorm statistics re-estimated on those images, as a server does
    it. head, scale: of the model, see `classifier.Classifier`.
    """

    samples: Samples
    scores: Callable[[State, Tensor], Tensor]
    head: str
    scale: float


@dataclass(frozen=True, slots=True)
class LearntTrigger:
    """A trigger that attackers train before the first round, from all that they have.

    learn: (untrained model with its frozen backbone, the poisoned clients' clean training images,
    generator) -> the trigger's pattern. with_patch: the contamination with a pattern.
    """

    learn: Callable[[Any, Samples, Generator], Tensor]
    with_patch: Callable[[Tensor], Contamination]


Stealth = Callable[[State, State, AttackerProbe, Generator], State]
