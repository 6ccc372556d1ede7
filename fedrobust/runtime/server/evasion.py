"""Evasion attacks on the trained models: what they answer, and what the attackers knew of the
purifier."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Attack
from fedrobust.contamination.evasion.adaptive import Effort, bpda_eot, differentiate_through
from fedrobust.data import TEST
from fedrobust.evaluation.evasion import AttackResult, AttackResults
from fedrobust.evaluation.settings import OBLIVIOUS
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning import batchnorm
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.ensemble import fuse
from fedrobust.learning.inference import predict
from fedrobust.reporting.evasion import evasion_section
from fedrobust.reporting.report.attacks import EvasionSection
from fedrobust.runtime.server.loop import TrainingResult
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.state import load
from fedrobust.types import NO_PURIFIER, Observer, Samples
from fedrobust.utils.images import as_unit

Purifying = Callable[[Tensor], Tensor]

ADAPTIVE = {"bpda_eot": bpda_eot, "differentiated": differentiate_through}


@dataclass(frozen=True, slots=True)
class _Target:
    """A model of the experiment, alone and behind the purifier, with the images on
    which it is attacked. member: names it in all its randomness."""

    experiment: Experiment
    model: Classifier
    purified_model: Classifier
    samples: Samples
    member: tuple[str | int, ...]

    def purifiers(self, purpose: str) -> dict[str, Purifying | None]:
        """Purifiers of the images, by name: none, and the experiment's where there is one."""
        none: dict[str, Purifying | None] = {NO_PURIFIER.name: None}
        return none | (
            {self.experiment.purifier.name: self.experiment.purifier_for(*self.member, purpose)}
            if self.experiment.purifies
            else {}
        )

    def answers(self, images: Tensor, purify: Purifying | None) -> Tensor:
        model = self.model if purify is None else self.purified_model
        return predict(model, images, self.experiment.evaluation.batch_size, purify)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        device, size = next(self.model.parameters()).device, self.experiment.evaluation.batch_size
        parts = zip(
            torch.split(self.samples.images, size),
            torch.split(self.samples.labels, size),
            strict=True,
        )
        return ((as_unit(x.to(device)), y.to(device)) for x, y in parts)

    def run_attack(self, threat: str, eps_255: float | None) -> list[AttackResult]:
        """One attack, seen through every purifier by the oblivious; who knows the experiment's
        purifier attacks a model behind it only."""
        purpose, eps = f"{threat} {eps_255}", 0.0 if eps_255 is None else eps_255 / 255
        purifiers = self.purifiers(purpose)
        if threat != OBLIVIOUS:
            del purifiers[NO_PURIFIER.name]
        attack, g = (
            _attack(self.experiment, threat),
            self.experiment.generator("evasion", *self.member, purpose),
        )
        seen: dict[str, list[Tensor]] = {name: [] for name in purifiers}
        changes = []
        for x, y in self.batches():
            attacked = attack(
                self.model if threat == OBLIVIOUS else self.purified_model, x, y, eps, g
            )
            difference = (attacked - x).flatten(1)
            changes.append(
                torch.stack([difference.abs().amax(dim=1), difference.norm(dim=1)]).cpu()
            )
            for name, purify in purifiers.items():
                seen[name].append(self.answers(attacked, purify))
        linf_N, l2_N = torch.cat(changes, dim=1)
        sizes = float(linf_N.max()), float(l2_N.mean())
        return [
            AttackResult(threat, eps_255, name, torch.cat(parts), *sizes)
            for name, parts in seen.items()
        ]


def evaluate_attacks(
    experiment: Experiment,
    model: Classifier,
    samples: Samples,
    *who: str | int,
    threats: Sequence[str],
    estimation: Tensor,
    say: Callable[[str], None],
) -> AttackResults:
    """Attack a model on images, of which there is at least one, under each threat model and each
    bound of the experiment's evaluation.

    who: names the model in all its randomness, none of which depends on what else is attacked.
    estimation: images for its BatchNorm statistics behind a purifier. say: gets a line on what is
    being done. Raises ValueError where the model answers with values that are not finite.
    """
    target = _Target(
        experiment, model, experiment.with_purified_batchnorm(model, estimation, *who), samples, who
    )
    clean = {
        name: target.answers(samples.images, purify)
        for name, purify in target.purifiers("clean").items()
    }
    if not all(part.isfinite().all() for part in clean.values()):
        raise ValueError("it answers with values that are not finite")
    bounds = experiment.evaluation.evasion_evaluation.eps_255
    made: list[AttackResult] = []
    for threat in threats:
        for eps in bounds if experiment.evasion.bounded else (None,):
            bound = "" if eps is None else f", eps {eps:g}/255"
            say(f"{experiment.evasion.name} on {' '.join(map(str, who))}, {threat}{bound}")
            made += target.run_attack(threat, eps)
    return AttackResults(samples.labels, clean, tuple(made))


def _attack(experiment: Experiment, threat: str) -> Attack:
    """The experiment's attack for the oblivious; for attackers who know the purifier 20 steps of
    PGD through it."""
    if threat == OBLIVIOUS:
        assert experiment.evasion.attack is not None
        return experiment.evasion.attack
    adaptive = ADAPTIVE[threat]
    effort = Effort(draws=experiment.evaluation.evasion_evaluation.eot_samples)

    def attack(
        model: Classifier, images: Tensor, labels: Tensor, eps: float, generator: Generator
    ) -> Tensor:
        return adaptive(model, images, labels, eps, experiment.purifier, generator, effort)

    return attack


def evaluate_evasion(
    server: ServerContext, finished: TrainingResult, observer: Observer
) -> EvasionSection:
    """The report's section `evasion`, for an experiment with an attack. Uses up
    `finished.client_models`.

    The clients' models, and all of them fused where the experiment wants that, are attacked by the
    oblivious alone. One that answers with values that are not finite is left out and named.
    """
    experiment = server.experiment
    asked = experiment.evaluation.evasion_evaluation
    say = partial(observer.stage, "run")
    estimation = experiment.samples(experiment.proxy).images
    attack = partial(evaluate_attacks, experiment, estimation=estimation, say=say)
    members: dict[int, AttackResults] = {}
    fused: list[Classifier] = []
    for client, state in finished.client_models:
        own = experiment.samples(experiment.rows(client, TEST))
        if not len(own):
            continue
        batchnorm.load_and_recalibrate(
            server.model, server.layout, state, server.recalibration_images
        )
        try:
            members[client] = attack(server.model, own, "client", client, threats=[OBLIVIOUS])
        except ValueError as error:
            say(f"the model of client {client} is not attacked: {error}")
            continue
        if asked.fusion:
            fused.append(copy.deepcopy(server.model))
    rows = experiment.attacked_rows()
    test = experiment.samples(rows)
    load(server.model, server.layout, finished.state)
    whole = attack(server.model, test, "global", threats=asked.threat_models)
    together = attack(fuse(fused), test, "fusion", threats=[OBLIVIOUS]) if fused else None
    return evasion_section(experiment, rows, whole, members, (len(fused), together))
