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

from fedrobust import atomic, batchnorm, etf, experiment
from fedrobust import config as settings
from fedrobust.cli import leave
from fedrobust.data import TEST, TRAIN, VALIDATION
from fedrobust.device import resolve
from fedrobust.display import Display
from fedrobust.ensembles import from_states, fuse
from fedrobust.errors import ConfigError
from fedrobust.experiment import Experiment
from fedrobust.job import CLIENT_APP, work_seconds
from fedrobust.meff_scores import Answers, answers, plain, summary, table, tried
from fedrobust.models import Classifier
from fedrobust.types import Samples, Shard, Task
from strategies.adapter import Server
from strategies.rounds import make_server, run_rounds

EVERYBODY = ("evaluation.twin=false", "evaluation.adversarial_clients=true")  # the client models of the last round are kept


def federated(study: Experiment, console: Console) -> dict[str, Classifier]:
    """The global model after the last round, the client models of that round fused, and these with a trained classifier on top."""
    if study.evasion.attack is None:
        raise ConfigError("evasion=none: the client models are kept only where they are attacked; set evasion=pgd or evasion=fgsm")
    server = make_server(study)
    opener = settings.build(study.config, "engine")
    with opener.open(CLIENT_APP, study.num_clients, {"simulation": True}, work_seconds(server)) as grid, Display(console) as display:
        finished = run_rounds(server, grid, display)
        states = [state for _, state in finished.members]
    everybody = from_states(server.model, server.layout, [finished.state, *states])
    for member in everybody:
        _recalibrated(server, member)
    return {"global model": everybody[0], **fusions(study, everybody[1:], server.root)}


def _recalibrated(server: Server, model: Classifier) -> None:
    if server.experiment.config["server"]["buffers"] == "recalibrate":
        batchnorm.recalibrate(model, server.proxy.images)


def central(studies: Sequence[Experiment]) -> dict[str, Classifier]:
    """Every study's model trained by its trainer on all training images but the server's own; then as `federated`."""
    trained = {f"member {place}": _trained(study, place) for place, study in enumerate(studies)}
    whole = _whole(studies[0])
    return {**trained, **fusions(studies[0], list(trained.values()), whole.train)}


def _trained(study: Experiment, place: int) -> Classifier:
    anchors = None
    if study.model.head == "etf":
        anchors = etf.simplex_etf(study.model.dimension, study.num_classes, study.generator("etf"))
    model = study.model.build(study.num_classes, anchors, study.generator("init", place)).to(resolve(study.config["device"]))
    study.trainer(Task(model, _whole(study), 1, {}, {}, study.generator("meff", place)))
    return model


def _whole(study: Experiment) -> Shard:
    """All hospitals' images as one shard."""
    rows = torch.cat(list(study.parts)).sort().values
    splits = study.dataset.splits[rows]
    return Shard(*(study.samples(rows[splits == split]) for split in (TRAIN, VALIDATION, TEST)))


def fusions(study: Experiment, members: Sequence[Classifier], labelled: Samples) -> dict[str, Classifier]:
    """The members' fusion as it is (fixed anchors only), and with a classifier on top that is trained by the study's trainer on labelled
    images. Members are shared, not copied: they are frozen. Raises ConfigError for members that do not go together."""
    try:
        top = fuse(members, "concatenate")
        found = {} if top.anchors is None else {"fusion": fuse(members, "mean")}
    except ValueError as error:
        raise ConfigError(f"--member: {error}; give all the same model.head and model.dimension") from error
    empty = labelled.take(torch.zeros(0, dtype=torch.int64))
    study.trainer(Task(top, Shard(labelled, empty, empty), 1, {}, {}, study.generator("meff", "top")))
    return {**found, "fusion, trained top": top}


def _built(*words: str) -> Experiment:
    return experiment.from_text(settings.to_json(settings.compose(*words, *EVERYBODY)))


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
        atomic.write(given.json, [text.encode(), b"\n"])


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
