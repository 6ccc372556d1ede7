"""Purifiers on a finished run's model: settings chosen on validation images, then judged on test images under three threat models.

Chosen is, of each purifier's grid, the setting with the best balanced accuracy on validation images that PGD-20 has attacked with
eps = 4/255 without knowing of a purifier, among those that cost at most 3 points on the images as they are (where none does: the cheapest).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks import _report
from fedrobust import config, experiment
from fedrobust.checkpoint import load_state
from fedrobust.data import TEST, VALIDATION
from fedrobust.drops import resampled_metrics
from fedrobust.evaluation import predict
from fedrobust.evasion.pgd import pgd
from fedrobust.experiment import Experiment
from fedrobust.images import as_unit
from fedrobust.layout import load
from fedrobust.models import Classifier
from fedrobust.purification.threats import bpda_eot, differentiated
from fedrobust.types import NO_PURIFIER, AdaptiveAttack, Attack, Purifier, Samples
from strategies.rounds import make_server

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "mdda": {"std": (0.01, 0.02, 0.04), "blocks": (1, 2, 4), "weight": (0.02, 0.05, 0.1)},
    "tv": {"weight": (0.02, 0.05, 0.1, 0.2)},
    "gaussian": {"std": (0.4, 0.6, 0.8, 1.2)},
    "median_filter": {"size": (3, 5)},
    "jpeg": {"quality": (25, 50, 75, 90)},
}
EPS_255 = (1, 2, 4, 8)
MAIN = 4  # of EPS_255: where settings are chosen, and where attackers know the purifier
POINTS = 3.0  # of balanced accuracy that a purifier may cost on images as they are


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting of a purifier and its balanced accuracies in percent, on images as they are and on attacked ones."""

    settings: Mapping[str, float]
    clean: float
    attacked: float


def chosen(candidates: Sequence[Candidate], undefended: float) -> Candidate:
    """The setting of the rule above; of equals the first. undefended: balanced accuracy without a purifier on images as they are."""
    cheap = [one for one in candidates if undefended - one.clean <= POINTS]
    return max(cheap, key=lambda one: one.attacked) if cheap else max(candidates, key=lambda one: one.clean)


@dataclass(frozen=True, slots=True)
class Scene:
    """A run's final model with some of its images, and how they are judged."""

    study: Experiment
    model: Classifier
    samples: Samples
    groups: Tensor
    batch: int

    def generator(self, *purpose: str | int) -> Generator:
        return self.study.generator("benchmark", *purpose)

    def batches(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        device = next(self.model.parameters()).device
        pairs = zip(torch.split(images, self.batch), torch.split(self.samples.labels, self.batch), strict=True)
        return ((as_unit(x.to(device)), y.to(device)) for x, y in pairs)

    def predicted(self, purifier: Purifier, images: Tensor) -> Tensor:
        """(N,) classes of purified images."""
        g = self.generator("purify")
        with torch.no_grad():
            return torch.cat([predict(self.model, purifier.purify(x, g)).argmax(dim=1) for x, _ in self.batches(images)])

    def attacked(self, attack: Attack, eps_255: float) -> Tensor:
        """(N, C, H, W) float32 on the CPU."""
        g = self.generator("attack", f"{eps_255:g}")
        made = [attack(self.model, x, y, eps_255 / 255, g).cpu() for x, y in self.batches(self.samples.images)]
        return torch.cat(made)

    def resampled(self, conditions: Mapping[str, Tensor], draws: int) -> dict[str, Tensor]:
        """Balanced accuracy (1 + draws,) of each condition in percent: the measured one, then those of resampled lesions or images,
        the same in every condition."""
        labels, classes = self.samples.labels, self.study.num_classes
        pairs = [(labels, predicted) for predicted in conditions.values()]
        found = resampled_metrics(pairs, classes, self.groups, draws, self.generator("bootstrap"))
        exact = [balanced(predicted, labels) for predicted in conditions.values()]
        values = [torch.cat([torch.tensor([one]).double(), part["balanced_accuracy"]]) for one, part in zip(exact, found, strict=True)]
        return dict(zip(conditions, values, strict=True))


def balanced(predicted: Tensor, labels: Tensor) -> float:
    """Mean recall of the classes that occur, in percent."""
    return 100 * float(torch.stack([(predicted[labels == k] == k).double().mean() for k in torch.unique(labels)]).mean())


def open_run(folder: Path) -> tuple[Experiment, Classifier]:
    """The experiment and the final global model of a finished run's folder."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        _report.refuse(f"{folder}: holds no manifest.json; give the output folder of a finished run of fedrobust.simulate")
    study = experiment.build(manifest["config"])
    server = make_server(study)
    load(server.model, server.layout, load_state(folder / "model.safetensors", server.layout)[0])
    return study, server.model


def scene(study: Experiment, model: Classifier, split: int, images: int, batch: int) -> Scene:
    """At most so many images of a split, drawn by the study's seed."""
    rows = (study.dataset.splits == split).nonzero().reshape(-1)
    order = torch.randperm(len(rows), generator=study.generator("benchmark", "images", split))
    rows = rows[order[:images]].sort().values
    return Scene(study, model, study.samples(rows), study.dataset.groups[rows], batch)


def built(name: str, settings: Mapping[str, float]) -> Purifier:
    """The purifier of configs/purifier with some settings changed."""
    made: Purifier = config.build({"purifier": {**config.compose(f"purifier={name}")["purifier"], **settings}}, "purifier")
    return made


def tune(one: Scene, names: Sequence[str], steps: int) -> tuple[dict[str, Candidate], dict[str, list[Candidate]], list[float]]:
    """The chosen setting of each purifier, all candidates, and the balanced accuracy without a purifier on clean and attacked images."""
    labels, attacked = one.samples.labels, one.attacked(blind(steps), MAIN)
    plain = [balanced(one.predicted(NO_PURIFIER, images), labels) for images in (one.samples.images, attacked)]
    found: dict[str, list[Candidate]] = {}
    for name in names:
        found[name] = []
        for values in product(*GRIDS[name].values()):
            settings = dict(zip(GRIDS[name], values, strict=True))
            purifier = built(name, settings)
            scores = [balanced(one.predicted(purifier, images), labels) for images in (one.samples.images, attacked)]
            found[name].append(Candidate(settings, *scores))
        _report.say(f"{name}: {len(found[name])} settings tried")
    return {name: chosen(many, plain[0]) for name, many in found.items()}, found, plain


def judge(one: Scene, purifiers: Mapping[str, Purifier], steps: int, draws: int) -> dict[str, Tensor]:
    """(N,) predictions by "<purifier> | <condition>": clean, oblivious at every eps, and at the main eps those who know the purifier."""
    conditions = {"clean": one.samples.images} | {f"oblivious {eps}": one.attacked(blind(steps), eps) for eps in EPS_255}
    everyone = {"none": NO_PURIFIER, **purifiers}
    out = {f"{name} | {what}": one.predicted(made, images) for what, images in conditions.items() for name, made in everyone.items()}
    for name, made in purifiers.items():
        for threat in (bpda_eot, differentiated)[: 1 + made.differentiable]:
            _report.say(f"{name}: attacked by {threat.__name__}")
            knowing = informed(partial(threat, steps=steps, draws=draws if name == "mdda" else 1), made)  # the others have no noise
            out[f"{name} | {threat.__name__} {MAIN}"] = one.predicted(made, one.attacked(knowing, MAIN))
    return out


def blind(steps: int) -> Attack:
    """PGD by somebody who knows of no purifier."""
    attack = pgd(steps=steps).attack
    assert attack is not None
    return attack


def informed(threat: AdaptiveAttack, purifier: Purifier) -> Attack:
    """The attack by somebody who knows this purifier."""

    def attack(model: Any, images: Tensor, labels: Tensor, eps: float, generator: Generator) -> Tensor:
        return threat(model, images, labels, eps, purifier, generator)

    return attack


def interval(values: Tensor, digits: int = 1) -> str:
    """`51.2 (47.9 to 54.4)` of (1 + draws,) values; the measured one alone without draws."""
    if len(values) == 1:
        return f"{float(values[0]):.{digits}f}"
    low, high = values[1:].quantile(values.new_tensor([0.025, 0.975])).tolist()
    return f"{float(values[0]):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rows(scores: Mapping[str, Tensor], names: Sequence[str]) -> list[list[str]]:
    """For each purifier: balanced accuracy in every condition, what it costs on clean images, and what it gives back of the loss."""
    clean, attacked = scores["none | clean"], scores[f"none | oblivious {MAIN}"]
    columns = ["clean", *(f"oblivious {eps}" for eps in EPS_255), f"bpda_eot {MAIN}", f"differentiated {MAIN}"]
    out = []
    for name in ("none", *names):
        found = [scores.get(f"{name} | {column}") for column in columns]
        cost = clean - scores[f"{name} | clean"]
        back = 100 * (scores[f"{name} | oblivious {MAIN}"] - attacked) / (clean - attacked)
        out.append([name, *("" if one is None else interval(one) for one in (*found, cost, back))])
    return out


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = _report.parser("threats", __doc__)
    parser.add_argument("run", type=Path, help="output folder of a finished run of fedrobust.simulate")
    parser.add_argument("--purifiers", type=_report.names, default=list(GRIDS), help=f"of {','.join(GRIDS)} (all)")
    parser.add_argument("--images", type=_report.count, default=1000, help="at most so many validation and test images (1000)")
    parser.add_argument("--steps", type=_report.count, default=20, help="of PGD (20)")
    parser.add_argument("--draws", type=_report.count, default=20, help="of MDDA's noise a step, for those who know it (20)")
    parser.add_argument("--bootstrap", type=_report.count, default=2000, help="draws of the intervals (2000)")
    parser.add_argument("--batch", type=_report.count, default=64, help="images at once (64)")
    options = parser.parse_args(words)
    _report.check_names("--purifiers", options.purifiers, list(GRIDS))
    _report.check_writable("--json", options.json)
    if options.quick:
        options.images, options.steps, options.draws, options.bootstrap = 16, 2, 1, 10
    return options


def main(words: Sequence[str]) -> int:
    """The command line."""
    options, facts = parse(words), _report.machine()
    study, model = open_run(options.run)
    best, tried, plain = tune(scene(study, model, VALIDATION, options.images, options.batch), options.purifiers, options.steps)
    choice = [["none", "", *(f"{value:.1f}" for value in plain)]]
    for name, one in best.items():
        words_of = " ".join(f"{key}={value:g}" for key, value in one.settings.items())
        choice.append([name, words_of, f"{one.clean:.1f}", f"{one.attacked:.1f}"])
    _report.show("chosen on validation images", ["purifier", "settings", "clean", f"oblivious {MAIN}/255"], choice)
    tests = scene(study, model, TEST, options.images, options.batch)
    purifiers = {name: built(name, one.settings) for name, one in best.items()}
    table = rows(tests.resampled(judge(tests, purifiers, options.steps, options.draws), options.bootstrap), options.purifiers)
    head = ["purifier", "clean", *(f"eps {eps}" for eps in EPS_255), f"BPDA+EOT {MAIN}", f"differentiated {MAIN}", "cost", "% back"]
    _report.show(f"{len(tests.samples)} test images, 95 % intervals", head, table)
    if options.json is not None:
        found = {name: [[dict(one.settings), one.clean, one.attacked] for one in many] for name, many in tried.items()}
        parts = {"validation": found, "undefended": plain, "chosen": {name: dict(one.settings) for name, one in best.items()}}
        _report.write_json(options.json, _report.document("threats", words, facts, **parts, columns=head, test=table))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
