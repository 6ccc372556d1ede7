"""MEFF, ensemble feature fusion: `python -m fedrobust.meff evasion=pgd <overrides>` fuses the client models of a federation;
with `--member "client=adversarial" --member "model=resnet18 client=sgd" ...` it trains the members centrally, one by one, and fuses those.

Shown are the global model or the members, their fusion, and the fusion with a trained classifier on top: on the clean test images and
under the attack, which knows each of these models; with intervals over test images, and over seeds
with `--seeds 0,1,2`. Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fedrobust.errors import ConfigError
from fedrobust.experiment import build, compose, settings
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.classifier import Classifier
from fedrobust.studies.meff.run import EVERYBODY, central, federated
from fedrobust.studies.meff.scores import Answers, answers, plain, summary, table, tried
from fedrobust.utils import files
from fedrobust.utils.cli import leave


def _built(*words: str) -> Experiment:
    return build.from_text(settings.to_json(compose.compose(*words, *EVERYBODY)))


def _run(given: argparse.Namespace, console: Console) -> None:
    if given.json is not None and not given.json.parent.is_dir():
        raise ConfigError(f"--json={given.json}: its folder does not exist; make it first")
    found: list[Answers] = []
    first: Experiment | None = None
    for seed in [[f"seed={seed}"] for seed in given.seeds] or [[]]:
        study, models = _fused([*given.overrides, *seed], given.member, console)
        first = first or study
        if not torch.equal(first.test_rows(), study.test_rows()):
            raise ConfigError(f"--seeds: with {seed[0]} the test images are others; set data.seed")
        found.append(answers(study, models, tried(first)))
        console.print(table(summary(first, tried(first), found)))
    assert first is not None
    if given.json is not None:
        text = json.dumps(_document(given, first, tried(first), found), indent=2, allow_nan=False)
        files.write(given.json, [text.encode(), b"\n"])


def _fused(words: Sequence[str], members: Sequence[str], console: Console) -> tuple[Experiment, dict[str, Classifier]]:
    """The first member's study, or the federation's, and all models by name."""
    if not members:
        study = _built(*words)
        return study, federated(study, console)
    studies = [_built(*words, *member.split()) for member in members]
    return studies[0], central(studies)


def _document(given: argparse.Namespace, study: Experiment, rows: Tensor, found: Sequence[Answers]) -> dict[str, Any]:
    return {
        "schema": 1,
        "overrides": list(given.overrides),
        "members": list(given.member),
        "seeds": given.seeds or [study.seed],
        "images": len(rows),
        "draws": study.evaluation.draws,
        "attack": study.evasion.name,
        "results": plain(summary(study, rows, found)),
    }


def _seeds(text: str) -> list[int]:
    """`0,1,2`; for argparse."""
    words = text.split(",")
    if not all(word.isdigit() for word in words) or len(set(words)) != len(words):
        raise argparse.ArgumentTypeError(f"{text}: must be different whole numbers, as in 0,1,2")
    return [int(word) for word in words]


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    parser = argparse.ArgumentParser(prog="python -m fedrobust.meff", description="Ensemble feature fusion (docs/meff.md).")
    parser.add_argument("overrides", nargs="*", help="settings as of fedrobust.simulate")
    parser.add_argument("--member", action="append", default=[], metavar="OVERRIDES", help="a centrally trained member: its own settings")
    parser.add_argument("--seeds", type=_seeds, default=[], help="as in 0,1,2: all of it with each of these seeds (that of the settings)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the results there too")
    given = parser.parse_intermixed_args(words)  # settings may stand between the options
    try:
        _run(given, Console())
    except (KeyboardInterrupt, Exception) as error:
        leave(error)


if __name__ == "__main__":
    main()
