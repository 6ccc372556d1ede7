"""MEFF, ensemble feature fusion: `python -m fedrobust.meff evasion=pgd <overrides>` fuses the
client models of a federation; with `--member "client=adversarial" --member "model=resnet18
client=sgd" ...` it trains the members centrally, one by one, and fuses those.

Shown are the global model or the members, their fusion, and the fusion with a trained classifier on
top: on the clean test images and under the attack, which knows each of these models; with intervals
over test images, and over seeds with `--seeds 0,1,2`. Exit codes: 0 done, 1 failed, 2 wrong input,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fedrobust.errors import ConfigError
from fedrobust.experiment import build, compose
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.classifier import Classifier
from fedrobust.studies.meff.run import EVERYBODY, central_models, federated_models
from fedrobust.studies.meff.scores import (
    Answers,
    predict_attacked,
    scores_table,
    summarise_scores,
    to_plain_rows,
)
from fedrobust.utils import files
from fedrobust.utils.cli import run_command
from fedrobust.utils.machine import version_line


def _built(*words: str) -> Experiment:
    return build.build_experiment(compose.compose(*words, *EVERYBODY))


def _run(given: argparse.Namespace, console: Console) -> None:
    if given.json is not None and not given.json.parent.is_dir():
        raise ConfigError(f"--json={given.json}: its folder does not exist; make it first")
    words = compose.check_command_line(given.overrides)
    found: list[Answers] = []
    first: Experiment | None = None
    for seed in [[f"seed={seed}"] for seed in given.seeds] or [[]]:
        experiment, models = _fuse_models([*words, *seed], given.member, console)
        first = first or experiment
        if not torch.equal(first.test_rows(), experiment.test_rows()):
            raise ConfigError(f"--seeds: with {seed[0]} the test images are others; set data.seed")
        found.append(predict_attacked(experiment, models, first.attacked_rows()))
        console.print(scores_table(summarise_scores(first, first.attacked_rows(), found)))
    assert first is not None
    if given.json is not None:
        text = json.dumps(
            _document(given, first, first.attacked_rows(), found), indent=2, allow_nan=False
        )
        files.write(given.json, [text.encode(), b"\n"])


def _fuse_models(
    words: Sequence[str], members: Sequence[str], console: Console
) -> tuple[Experiment, dict[str, Classifier]]:
    """The first member's experiment, or the federation's, and all models by name."""
    if not members:
        experiment = _built(*words)
        return experiment, federated_models(experiment, console)
    experiments = [_built(*words, *member.split()) for member in members]
    return experiments[0], central_models(experiments)


def _document(
    given: argparse.Namespace, experiment: Experiment, rows: Tensor, found: Sequence[Answers]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "overrides": list(given.overrides),
        "members": list(given.member),
        "seeds": given.seeds or [experiment.seed],
        "images": len(rows),
        "draws": experiment.evaluation.bootstrap_samples,
        "attack": experiment.evasion.name,
        "results": to_plain_rows(summarise_scores(experiment, rows, found)),
    }


def _seeds(text: str) -> list[int]:
    """`0,1,2`; for argparse."""
    words = text.split(",")
    if not all(word.isdigit() for word in words) or len(set(words)) != len(words):
        raise argparse.ArgumentTypeError(f"{text}: must be different whole numbers, as in 0,1,2")
    return [int(word) for word in words]


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fedrobust.meff", description="Ensemble feature fusion (docs/meff.md)."
    )
    parser.add_argument("--version", action="version", version=version_line())
    parser.add_argument("overrides", nargs="*", help="settings as of fedrobust.simulate")
    parser.add_argument(
        "--member",
        action="append",
        default=[],
        metavar="OVERRIDES",
        help="a centrally trained member: its own settings",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=[],
        help="as in 0,1,2: all of it with each of these seeds (that of the settings)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the results there too")
    given = parser.parse_intermixed_args(words)  # settings may stand between the options
    if code := run_command(lambda: _run(given, Console())):
        sys.exit(code)


if __name__ == "__main__":
    main()
