"""An attack made for the flagship rule: as much poison as leaves the model aligned with the fixed
ETF, as far as the attacker can see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.base import AttackerProbe, Contamination, Stealth
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.errors import ConfigError
from fedrobust.learning.alignment import alignment, root_loss
from fedrobust.state import State
from fedrobust.types import Samples
from fedrobust.utils.validation import choice, number

TRIALS = 8  # steps that are tried: the largest is found to 2^-8 of `factor`


def adaptive_etf(
    *,
    goal: str = "trigger",
    source: int | str | None = None,
    target: int | str = 0,
    rate: float = 0.5,
    size: float = 0.1,
    epsilon: float = 0.02,
    factor: float = 1.0,
    per_class: int = 16,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Contamination:
    """Learn from clean data, go on with poisoned data, and send the first model moved towards the
    second as far as can be without losing the trust of `etf_dml`.

    goal "trigger": a backdoor as `backdoor_patch` of this `size` on a share `rate` of the images,
    which stands for `target`. "flip": a share `rate` of the class `source` is labelled `target`.
    Sent is honest + s (poisoned - honest), buffers blended likewise (s <= 1), with the largest s up
    to `factor` (found by halving) at which neither the alignment nor the loss (those of the trust
    gate) is worse by more than `epsilon` than the honest model's on the attacker's guess of the
    root set: at most `per_class` images of each class, drawn anew in every round from its own clean
    training and validation images. It needs nothing that a client has not: no other client's update
    and nothing of the server's. factor 0: the honest model. The client trains twice for it.
    """
    number("contamination.epsilon", epsilon, low=0)
    number("contamination.factor", factor, low=0)
    number("contamination.per_class", per_class, low=1, integer=True)
    told: dict[str, Any] = {"num_classes": num_classes, "class_names": class_names}
    if choice("contamination.goal", goal, ("trigger", "flip")) == "flip":
        poison = label_flip(mode="targeted", rate=rate, source=source, target=target, **told)
    elif source is not None:
        raise ConfigError(
            f"contamination.source={source}: only contamination.goal=flip has a source"
        )
    else:
        poison = backdoor_patch(target=target, rate=rate, size=size, **told)
    return Contamination(
        "adaptive_etf",
        poison.data,
        backdoor=poison.backdoor,
        stealth=stealthy_step(epsilon, factor, per_class),
    )


def stealthy_step(epsilon: float, factor: float, per_class: int) -> Stealth:
    """The largest step from the honest towards the poisoned model that the trust gate should not
    notice."""

    def blend(honest: State, poisoned: State, probe: AttackerProbe, generator: Generator) -> State:
        guess = guess_root(probe.samples, per_class, generator)

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

        return interpolate(honest, poisoned, largest_step(unnoticed, factor))

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
