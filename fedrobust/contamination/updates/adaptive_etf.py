"""An attack made for the flagship rule: as much poison as leaves the model aligned with the fixed
ETF, as far as the attacker can see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.base import AttackerProbe, Contamination, Stealth
from fedrobust.contamination.common import ClassLabel, ClassNames, NumClasses
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.errors import ConfigError
from fedrobust.learning.alignment import alignment, root_loss
from fedrobust.state import State
from fedrobust.types import Samples
from fedrobust.utils.validation import (
    NonNegative,
    PositiveCount,
    PositiveShare,
    Share,
    check_settings,
    flatten_groups,
)

TRIALS = 8  # steps that are tried: the largest is found to 2^-8 of `factor`


@check_settings("contamination")
@dataclass(frozen=True, slots=True)
class PoisonSettings:
    """Content of the attacker's poisoned data.

    Attributes:
        goal: trigger: a backdoor as `backdoor_patch`; flip: images of the class source are labelled
            target.
        source: class, by number or name, for flip.
        target: class, by number or name, that the trigger stands for or source becomes.
        rate: exact share of the images with the trigger, or of the source class.
        size: of the patch, as a share of the shorter image side.
    """

    goal: Literal["trigger", "flip"] = "trigger"
    source: ClassLabel | None = None
    target: ClassLabel = 0
    rate: Share = 0.5
    size: PositiveShare = 0.1


@check_settings("contamination")
@dataclass(frozen=True, slots=True)
class StealthSettings:
    """Limits that keep the attack unnoticed.

    Attributes:
        epsilon: loss of alignment, and gain of loss, that the attacker dares.
        factor: largest step from the honest model to the poisoned one; 0: honest.
        per_class: the attacker's guess of the root set: at most so many own clean images of each
            class.
    """

    epsilon: NonNegative = 0.02
    factor: NonNegative = 1.0
    per_class: PositiveCount = 16


@flatten_groups
@check_settings("contamination")
def adaptive_etf(
    *,
    poison: PoisonSettings,
    stealth: StealthSettings,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """Train on clean data, then on poisoned data, and send the first model moved towards the
    second as far as can be without losing the trust of `etf_dml`.

    Sent is honest + s (poisoned - honest), buffers blended likewise (s <= 1), with the largest s up
    to `factor` (found by halving) at which neither the alignment nor the loss (those of the trust
    gate) is worse by more than `epsilon` than the honest model's on the attacker's guess of the
    root set, drawn anew in every round from its own clean training and validation images. It needs
    nothing that a client has not: no other client's update and nothing of the server's. The client
    trains twice for it.

    The fields of both groups are keys of their own.

    Args:
        poison: content of the attacker's poisoned data.
        stealth: how it stays unnoticed.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of a client that hides what it does, with a backdoor for goal=trigger.

    Raises:
        ConfigError: a setting is out of its range, or does not fit the goal.
    """
    told: dict[str, Any] = {"num_classes": num_classes, "class_names": class_names}
    poisoned = _poison(poison, told)
    return Contamination(
        "adaptive_etf",
        poisoned.data,
        backdoor=poisoned.backdoor,
        stealth=stealthy_step(stealth),
    )


def _poison(settings: PoisonSettings, told: Mapping[str, Any]) -> Contamination:
    target, rate, source = settings.target, settings.rate, settings.source
    if settings.goal == "flip":
        return label_flip(mode="targeted", rate=rate, source=source, target=target, **told)
    if source is not None:
        raise ConfigError(
            f"contamination.source={source}: only contamination.goal=flip has a source"
        )
    return backdoor_patch(target=target, rate=rate, size=settings.size, **told)


def stealthy_step(settings: StealthSettings) -> Stealth:
    """The largest step from the honest towards the poisoned model that the trust gate should not
    notice."""
    epsilon = settings.epsilon

    def blend(honest: State, poisoned: State, probe: AttackerProbe, generator: Generator) -> State:
        guess = guess_root(probe.samples, settings.per_class, generator)

        def worth(state: State) -> tuple[float, float]:
            scores_RK = probe.scores(state, guess.images)
            labels_R = guess.labels.to(scores_RK.device)
            return float(alignment(scores_RK, labels_R, probe.head)), float(
                root_loss(scores_RK, labels_R, probe.scale)
            )

        aligned, loss = worth(honest)

        def unnoticed(step: float) -> bool:
            now = worth(interpolate(honest, poisoned, step))
            return now[0] >= aligned - epsilon and now[1] <= loss + epsilon

        return interpolate(honest, poisoned, largest_step(unnoticed, settings.factor))

    return blend


def largest_step(unnoticed: Callable[[float], bool], factor: float) -> float:
    """The largest step in [0, factor] that was tried and found unnoticed; 0 always is."""
    if factor == 0 or unnoticed(factor):
        return factor
    low, high = 0.0, factor
    for _ in range(TRIALS):
        middle = (low + high) / 2
        low, high = (middle, high) if unnoticed(middle) else (low, middle)
    return low


def interpolate(honest: State, poisoned: State, step: float) -> State:
    """The state honest + step (poisoned - honest); its buffers stop at the poisoned ones, since a
    variance must not fall below 0."""
    if step == 0:
        return honest
    mixed = torch.lerp(honest.parameters, poisoned.parameters, step)
    return State(mixed, torch.lerp(honest.buffers, poisoned.buffers, min(step, 1.0)))


def guess_root(samples: Samples, per_class: int, generator: Generator) -> Samples:
    """At most `per_class` images of every class, in random order."""
    order = torch.randperm(len(samples), generator=generator).to(samples.labels.device)
    labels = samples.labels[order]
    found: list[Tensor] = [order[labels == label][:per_class] for label in torch.unique(labels)]
    return samples.take(torch.cat(found))
