"""What a model answers under evasion attacks, as it is and behind a purifier. Nothing is judged here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fedrobust.evaluation import OBLIVIOUS, predict
from fedrobust.experiment import Experiment
from fedrobust.images import as_unit
from fedrobust.models import Classifier
from fedrobust.purification.threats import bpda_eot, differentiated
from fedrobust.types import NO_PURIFIER, Attack, Samples

Purifying = Callable[[Tensor], Tensor]

ADAPTIVE = {"bpda_eot": bpda_eot, "differentiated": differentiated}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the model answered on attacked images: probabilities (N, K).

    eps_255: the bound in 255ths of the range, None for an attack without one. purifier: what the images went through before the model.
    linf: the largest change of a value; l2: the mean Euclidean length of an image's change.
    """

    threat_model: str
    eps_255: float | None
    purifier: str
    probabilities: Tensor
    linf: float
    l2: float


@dataclass(frozen=True, slots=True)
class Attempts:
    """All attempts on one model, with its answers (N, K) on the images as they are, by purifier ("none" first)."""

    labels: Tensor
    clean: Mapping[str, Tensor]
    made: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class _Target:
    """A model of the study, as it is and as it stands behind the purifier, with the images on which it is attacked. who: names it in
    all its randomness."""

    study: Experiment
    model: Classifier
    behind: Classifier
    samples: Samples
    who: tuple[str | int, ...]

    def purifiers(self, purpose: str) -> dict[str, Purifying | None]:
        """What images may go through before the model, by name: nothing, and the study's purifier where there is one."""
        none: dict[str, Purifying | None] = {NO_PURIFIER.name: None}
        return none | ({self.study.purifier.name: self.study.purifying(*self.who, purpose)} if self.study.purifies else {})

    def answers(self, images: Tensor, purify: Purifying | None) -> Tensor:
        model = self.model if purify is None else self.behind
        return predict(model, images, self.study.evaluation.batch_size, purify)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        device, size = next(self.model.parameters()).device, self.study.evaluation.batch_size
        parts = zip(torch.split(self.samples.images, size), torch.split(self.samples.labels, size), strict=True)
        return ((as_unit(x.to(device)), y.to(device)) for x, y in parts)

    def attempt(self, threat: str, eps_255: float | None) -> list[Attempt]:
        """One attack, seen through every purifier by the oblivious; who knows the study's purifier attacks a model behind it only."""
        purpose, eps = f"{threat} {eps_255}", 0.0 if eps_255 is None else eps_255 / 255
        purifiers = self.purifiers(purpose)
        if threat != OBLIVIOUS:
            del purifiers[NO_PURIFIER.name]
        attack, g = _attack(self.study, threat), self.study.generator("evasion", *self.who, purpose)
        seen: dict[str, list[Tensor]] = {name: [] for name in purifiers}
        changes = []
        for x, y in self.batches():
            attacked = attack(self.model if threat == OBLIVIOUS else self.behind, x, y, eps, g)
            difference = (attacked - x).flatten(1)
            changes.append(torch.stack([difference.abs().amax(dim=1), difference.norm(dim=1)]).cpu())
            for name, purify in purifiers.items():
                seen[name].append(self.answers(attacked, purify))
        linf_N, l2_N = torch.cat(changes, dim=1)
        sizes = float(linf_N.max()), float(l2_N.mean())
        return [Attempt(threat, eps_255, name, torch.cat(parts), *sizes) for name, parts in seen.items()]


def attempts(
    study: Experiment,
    model: Classifier,
    samples: Samples,
    *who: str | int,
    threats: Sequence[str],
    estimation: Tensor,
    say: Callable[[str], None],
) -> Attempts:
    """Attack a model on images, of which there is at least one, under each threat model and each bound of the study's evaluation.

    who: names the model in all its randomness, none of which depends on what else is attacked. estimation: images for its BatchNorm
    statistics behind a purifier. say: hears what is being done.
    Raises ValueError where the model answers with values that are not finite.
    """
    target = _Target(study, model, study.behind(model, estimation, *who), samples, who)
    clean = {name: target.answers(samples.images, purify) for name, purify in target.purifiers("clean").items()}
    if not all(part.isfinite().all() for part in clean.values()):
        raise ValueError("it answers with values that are not finite")
    made: list[Attempt] = []
    for threat in threats:
        for eps in study.evaluation.eps_255 if study.evasion.bounded else (None,):
            bound = "" if eps is None else f", eps {eps:g}/255"
            say(f"{study.evasion.name} on {' '.join(map(str, who))}, {threat}{bound}")
            made += target.attempt(threat, eps)
    return Attempts(samples.labels, clean, tuple(made))


def _attack(study: Experiment, threat: str) -> Attack:
    """The study's attack for the oblivious; for attackers who know the purifier 20 steps of PGD through it."""
    if threat == OBLIVIOUS:
        assert study.evasion.attack is not None
        return study.evasion.attack
    adaptive, draws = ADAPTIVE[threat], study.evaluation.eot_draws

    def attack(model: Classifier, images: Tensor, labels: Tensor, eps: float, generator: Generator) -> Tensor:
        return adaptive(model, images, labels, eps, study.purifier, generator, draws=draws)

    return attack
