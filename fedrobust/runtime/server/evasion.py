"""Evasion attacks on the trained models: what they answer, and what the attackers knew of the purifier."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Attack
from fedrobust.contamination.evasion.adaptive import bpda_eot, differentiated
from fedrobust.data import TEST
from fedrobust.evaluation.evasion import Attempt, Attempts
from fedrobust.evaluation.settings import OBLIVIOUS
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning import batchnorm
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.ensemble import fuse
from fedrobust.learning.inference import predict
from fedrobust.reporting.evasion import evasion_section
from fedrobust.runtime.server.loop import Finished
from fedrobust.runtime.server.rule_strategy import Server
from fedrobust.state import State, load
from fedrobust.types import NO_PURIFIER, Observer, Samples
from fedrobust.utils.images import as_unit

Purifying = Callable[[Tensor], Tensor]

ADAPTIVE = {"bpda_eot": bpda_eot, "differentiated": differentiated}


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


def attacked(server: Server, finished: Finished, observer: Observer) -> dict[str, Any]:
    """The report's entry `evasion`, for a study with an attack. Uses up `finished.members`.

    The clients' models, and all of them fused where the study wants that, are attacked by the oblivious alone. One that
    answers with values that are not finite is left out and named.
    """
    study = server.experiment
    say = partial(observer.stage, "run")
    attack = partial(attempts, study, estimation=server.proxy.images, say=say)
    members: dict[int, Attempts] = {}
    fused: list[Classifier] = []
    for client, state in finished.members:
        own = study.samples(study.rows(client, TEST))
        if not len(own):
            continue
        _load(server, state)
        try:
            members[client] = attack(server.model, own, "client", client, threats=[OBLIVIOUS])
        except ValueError as error:
            say(f"the model of client {client} is not attacked: {error}")
            continue
        if study.evaluation.fusion:
            fused.append(copy.deepcopy(server.model))
    rows = _rows(study)
    test = study.samples(rows)
    load(server.model, server.layout, finished.state)
    whole = attack(server.model, test, "global", threats=study.evaluation.threat_models)
    together = attack(fuse(fused), test, "fusion", threats=[OBLIVIOUS]) if fused else None
    return {"evasion": evasion_section(study, rows, whole, members, (len(fused), together))}


def _rows(study: Experiment) -> Tensor:
    """The test images on which the global model is attacked: all, or as many as the evaluation allows, drawn by the seed."""
    rows, most = study.test_rows(), study.evaluation.adversarial_images
    if most is None or len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=study.generator("evasion", "images"))[:most].sort().values]


def _load(server: Server, member: State) -> None:
    """A client's model with the BatchNorm statistics that the policy server.buffers gives a model on the server."""
    load(server.model, server.layout, member)
    if server.experiment.config["server"]["buffers"] == "recalibrate":
        batchnorm.recalibrate(server.model, server.proxy.images)
