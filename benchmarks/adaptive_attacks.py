"""Purifiers on the models of finished runs: settings chosen on validation images, then evaluated on
test images under three threat models.

Chosen is, of each purifier's grid, the setting with the best balanced accuracy on validation images
that PGD-20 has attacked with eps = 4/255 without knowing of a purifier, among those that cost at
most 3 points on the unattacked images (where none does: the cheapest). Several runs are those of
several seeds: one setting is chosen for all by its means, and intervals resample runs as well as
lesions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.common import report
from benchmarks.common.scene import EvaluatedModel, balanced_accuracy, evaluated_model, open_run
from fedrobust.contamination.base import AdaptiveAttack, Attack
from fedrobust.contamination.evasion.adaptive import Effort, bpda_eot, differentiate_through
from fedrobust.contamination.evasion.pgd import pgd
from fedrobust.data import TEST, VALIDATION
from fedrobust.evaluation.statistics import Replicates, mean_over_seeds, sample_seeds
from fedrobust.experiment import compose, factories
from fedrobust.types import NO_PURIFIER, Purifier
from fedrobust.utils.counting import format_count
from fedrobust.utils.seeding import generator

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "mdda": {
        "std": (0.01, 0.02, 0.04),
        "blocks": (1, 2, 4),
        "weight": (0.02, 0.05, 0.1),
        "smoothing": (1, 0),
    },
    "tv": {"weight": (0.02, 0.05, 0.1, 0.2)},
    "gaussian": {"std": (0.4, 0.6, 0.8, 1.2)},
    "median_filter": {"size": (3, 5)},
    "jpeg": {"quality": (25, 50, 75, 90)},
}
EPS_255 = (1, 2, 4, 8)
MAIN = 4  # of EPS_255: where settings are chosen, and where attackers know the purifier
# the bare model with BatchNorm statistics estimated like those behind purifiers
CONTROL = "none, its own statistics"
POINTS = 3.0  # of balanced accuracy that a purifier may cost on unattacked images


@dataclass(frozen=True, slots=True)
class Candidate:
    """A setting of a purifier and its balanced accuracies in percent, on unattacked images and on
    attacked ones."""

    settings: Mapping[str, float]
    clean: float
    attacked: float


def choose(candidates: Sequence[Candidate], undefended: float) -> Candidate:
    """The setting of the rule above; of equals the first. undefended: balanced accuracy without a
    purifier on unattacked images."""
    cheap = [one for one in candidates if undefended - one.clean <= POINTS]
    return (
        max(cheap, key=lambda one: one.attacked)
        if cheap
        else max(candidates, key=lambda one: one.clean)
    )


def build_purifier(name: str, settings: Mapping[str, float]) -> Purifier:
    """The purifier of configs/purifier with some settings changed."""
    made: Purifier = factories.build_group(
        {"purifier": {**compose.compose(f"purifier={name}")["purifier"], **settings}}, "purifier"
    )
    return made


def try_settings(
    one: EvaluatedModel, names: Sequence[str], steps: int
) -> dict[str, list[Candidate]]:
    """All settings of each purifier on one run's images, "none" without one first."""
    labels, attacked = one.samples.labels, one.attack(blind(steps), MAIN)

    def candidate(
        there: EvaluatedModel, purifier: Purifier, settings: Mapping[str, float]
    ) -> Candidate:
        scores = [
            balanced_accuracy(there.predict(purifier, images), labels)
            for images in (one.samples.images, attacked)
        ]
        return Candidate(settings, *scores)

    found = {"none": [candidate(one, NO_PURIFIER, {})]}
    for name in names:
        found[name] = []
        for values in product(*GRIDS[name].values()):
            settings = dict(zip(GRIDS[name], values, strict=True))
            purifier = build_purifier(name, settings)
            found[name].append(candidate(one.with_purifier(purifier), purifier, settings))
        report.say(f"{name}: {format_count(len(found[name]), 'setting')} tried")
    return found


def average_runs(runs: Sequence[Mapping[str, Sequence[Candidate]]]) -> dict[str, list[Candidate]]:
    """Means over the runs, by setting."""
    return {
        name: [
            Candidate(
                settings.settings,
                fmean(one.clean for one in same),
                fmean(one.attacked for one in same),
            )
            for settings, same in zip(
                candidates, zip(*(run[name] for run in runs), strict=True), strict=True
            )
        ]
        for name, candidates in runs[0].items()
    }


def pool_runs(runs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """(1 + draws,) of each condition: the mean over the runs, and its replicates, in which runs are
    resampled as well."""
    counts = sample_seeds(
        len(runs), len(next(iter(runs[0].values()))) - 1, generator(0, "benchmark", "runs")
    )
    out = {}
    for name in runs[0]:
        values = torch.stack([run[name] for run in runs])
        mean, draws = mean_over_seeds(Replicates(values[:, 0], values[:, 1:]), counts)
        out[name] = torch.cat([mean.reshape(1), draws])
    return out


def against_the_blind(
    one: EvaluatedModel, purifiers: Mapping[str, Purifier], steps: int
) -> dict[str, Tensor]:
    """(N,) predictions by "<purifier> | <condition>": unattacked, and attacked at every eps
    without knowing of a purifier."""
    out = {}
    for eps in (0, *EPS_255):
        images = one.attack(blind(steps), eps) if eps else one.samples.images
        for name, made in {"none": NO_PURIFIER, **purifiers}.items():
            what = f"{name} | oblivious {eps}" if eps else f"{name} | clean"
            there = one if name == "none" else one.with_purifier(made)
            out[what] = _said(what, one, there.predict(made, images))
    return out


def against_the_informed(
    one: EvaluatedModel, purifiers: Mapping[str, Purifier], steps: int, draws: int
) -> dict[str, Tensor]:
    """(N,) predictions by "<purifier> | <threat> <eps>": attacked at the main eps by those who know
    the purifier."""
    out = {}
    for name, made in purifiers.items():
        there = one.with_purifier(made)
        for threat in (bpda_eot, differentiate_through)[: 1 + made.differentiable]:
            what = f"{name} | {threat.__name__} {MAIN}"
            # the others have no noise
            knowing = informed(
                partial(threat, effort=Effort(steps, draws if name == "mdda" else 1)), made
            )
            out[what] = _said(what, one, there.predict(made, there.attack(knowing, MAIN)))
    return out


def _said(what: str, one: EvaluatedModel, predicted: Tensor) -> Tensor:
    report.say(f"{what}: {balanced_accuracy(predicted, one.samples.labels):.1f}")
    return predicted


def blind(steps: int) -> Attack:
    """PGD without knowledge of a purifier."""
    attack = pgd(steps=steps).attack
    assert attack is not None
    return attack


def informed(threat: AdaptiveAttack, purifier: Purifier) -> Attack:
    """The attack with knowledge of this purifier."""

    def attack(
        model: Any, images: Tensor, labels: Tensor, eps: float, generator: Generator
    ) -> Tensor:
        return threat(model, images, labels, eps, purifier, generator)

    return attack


def interval(values: Tensor, digits: int = 1) -> str:
    """`51.2 (47.9 to 54.4)` of (1 + draws,) values; the measured one alone without draws."""
    if len(values) == 1:
        return f"{float(values[0]):.{digits}f}"
    low, high = values[1:].quantile(values.new_tensor([0.025, 0.975])).tolist()
    return f"{float(values[0]):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rows(scores: Mapping[str, Tensor], names: Sequence[str]) -> list[list[str]]:
    """Rows of the purifiers: balanced accuracy in every condition, cost on clean images, and
    recovered share of the loss."""
    clean, attacked = scores["none | clean"], scores[f"none | oblivious {MAIN}"]
    columns = [
        "clean",
        *(f"oblivious {eps}" for eps in EPS_255),
        f"bpda_eot {MAIN}",
        f"differentiated {MAIN}",
    ]
    out = []
    for name in ("none", *names):
        found = [scores.get(f"{name} | {column}") for column in columns]
        cost = clean - scores[f"{name} | clean"]
        back = 100 * (scores[f"{name} | oblivious {MAIN}"] - attacked) / (clean - attacked)
        out.append([name, *("" if one is None else interval(one) for one in (*found, cost, back))])
    return out


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("threats", __doc__)
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        help="output folders of finished runs of fedrobust.simulate, one of each seed",
    )
    parser.add_argument(
        "--purifiers", type=report.names, default=list(GRIDS), help=f"of {','.join(GRIDS)} (all)"
    )
    parser.add_argument(
        "--validation",
        type=report.count,
        default=1000,
        help="at most so many validation images (1000)",
    )
    parser.add_argument(
        "--test", type=report.count, default=1000, help="at most so many test images (1000)"
    )
    parser.add_argument(
        "--adaptive",
        type=report.count,
        default=1000,
        help="of the test images, for those who know the purifier (1000)",
    )
    parser.add_argument("--steps", type=report.count, default=20, help="of PGD (20)")
    parser.add_argument(
        "--draws",
        type=report.count,
        default=20,
        help="of MDDA's noise a step, for those who know it (20)",
    )
    parser.add_argument(
        "--statistics",
        type=report.count,
        default=0,
        help="training images for BatchNorm statistics behind purifiers (none)",
    )
    parser.add_argument(
        "--bootstrap", type=report.count, default=2000, help="draws of the intervals (2000)"
    )
    parser.add_argument("--batch", type=report.count, default=64, help="images at once (64)")
    options = parser.parse_intermixed_args(words)
    report.check_names("--purifiers", options.purifiers, list(GRIDS))
    report.check_writable("--json", options.json)
    if options.quick:
        (
            options.validation,
            options.test,
            options.adaptive,
            options.steps,
            options.draws,
            options.bootstrap,
        ) = 16, 16, 8, 2, 1, 10
    return options


def main(words: Sequence[str]) -> int:
    """The command line."""
    options, facts = parse(words), report.machine()
    opened = [open_run(folder) for folder in options.runs]

    def scenes(split: int, images: int) -> list[EvaluatedModel]:
        return [
            evaluated_model(*run, split, images, batch=options.batch, estimation=options.statistics)
            for run in opened
        ]

    found = average_runs(
        [
            try_settings(one, options.purifiers, options.steps)
            for one in scenes(VALIDATION, options.validation)
        ]
    )
    plain = found["none"][0]
    best = {name: choose(candidates, plain.clean) for name, candidates in found.items()}
    choice = [
        [name, _words(one.settings), f"{one.clean:.1f}", f"{one.attacked:.1f}"]
        for name, one in best.items()
    ]
    report.show(
        "chosen on validation images",
        ["purifier", "settings", "clean", f"oblivious {MAIN}/255"],
        choice,
    )
    purifiers = {name: build_purifier(name, best[name].settings) for name in options.purifiers}
    if options.statistics:
        purifiers = {CONTROL: NO_PURIFIER, **purifiers}
    tests, fewer = (
        scenes(TEST, images) for images in (options.test, min(options.test, options.adaptive))
    )
    scores = pool_runs(
        [evaluate_run(*pair, purifiers, options) for pair in zip(tests, fewer, strict=True)]
    )
    table = rows(scores, list(purifiers))
    head = [
        "purifier",
        "clean",
        *(f"eps {eps}" for eps in EPS_255),
        f"BPDA+EOT {MAIN}",
        f"differentiated {MAIN}",
        "cost",
        "% back",
    ]
    counts = (
        f"{len(tests[0].samples)} test images, {len(fewer[0].samples)} of them "
        "for those who know the purifier"
    )
    report.show(f"{counts}; {len(opened)} run(s); 95 % intervals", head, table)
    if options.json is not None:
        listed = {
            name: [[dict(one.settings), one.clean, one.attacked] for one in many]
            for name, many in found.items()
        }
        parts = {
            "validation": listed,
            "chosen": {name: dict(one.settings) for name, one in best.items()},
        }
        report.write_json(
            options.json,
            report.document("threats", words, facts, **parts, columns=head, test=table),
        )
    return 0


def evaluate_run(
    tests: EvaluatedModel,
    fewer: EvaluatedModel,
    purifiers: Mapping[str, Purifier],
    options: argparse.Namespace,
) -> dict[str, Tensor]:
    """(1 + draws,) balanced accuracies of one run under every condition. fewer: the test images for
    attackers who know the purifier."""
    scores = tests.resample(against_the_blind(tests, purifiers, options.steps), options.bootstrap)
    return scores | fewer.resample(
        against_the_informed(fewer, purifiers, options.steps, options.draws), options.bootstrap
    )


def _words(settings: Mapping[str, float]) -> str:
    return " ".join(f"{key}={value:g}" for key, value in settings.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
