"""MEFF, ensemble feature fusion: `python -m fedrobust.meff evasion=pgd <overrides>` fuses the client models of a federation;
with `--member "client=adversarial" --member "model=resnet18 client=sgd" ...` it trains the members centrally, one by one, and fuses those.

Shown are the global model or the members, their fusion, and the fusion with a trained classifier on top: on the clean test images and
under the attack, which knows each of these models. Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fedrobust import batchnorm, etf, evasion, experiment
from fedrobust import config as settings
from fedrobust.cli import leave
from fedrobust.data import TEST, TRAIN, VALIDATION
from fedrobust.device import resolve
from fedrobust.display import Display
from fedrobust.ensembles import from_states, fuse
from fedrobust.errors import ConfigError
from fedrobust.evaluation import predict
from fedrobust.experiment import Experiment
from fedrobust.job import CLIENT_APP, work_seconds
from fedrobust.metrics import classification_metrics
from fedrobust.models import Classifier
from fedrobust.types import Samples, Shard, Task
from fedrobust.wording import decimal
from strategies.adapter import Server
from strategies.rounds import make_server, run_rounds

METRICS = ("accuracy", "balanced_accuracy", "f1")
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


def rows_of(study: Experiment, models: Mapping[str, Classifier]) -> list[list[str]]:
    """One row a model and condition: name, condition, METRICS in percent as text."""
    test = study.samples(_tried(study))
    found = []
    for name, model in models.items():
        conditions: dict[str, Tensor] = {"clean": test.images}
        attack, g = study.evasion.attack, study.generator("meff", "evasion")
        if attack is not None:
            size = study.evaluation.batch_size
            for eps in study.evaluation.eps_255 if study.evasion.bounded else (0.0,):
                label = f"{study.evasion.name} {eps:g}/255" if study.evasion.bounded else study.evasion.name
                conditions[label] = evasion.attacked(attack, model, *_pair(test), eps=eps / 255, generator=g, batch_size=size)
        for condition, images in conditions.items():
            metrics = classification_metrics(predict(model, images, study.evaluation.batch_size), test.labels)
            found.append([name, condition, *(decimal(metrics[metric]) for metric in METRICS)])
    return found


def _pair(samples: Samples) -> tuple[Tensor, Tensor]:
    return samples.images, samples.labels


def _tried(study: Experiment) -> Tensor:
    rows, most = study.test_rows(), study.evaluation.adversarial_images
    if most is None or len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=study.generator("evasion", "images"))[:most].sort().values]


def table(rows: Sequence[Sequence[str]]) -> Table:
    """All of `rows_of`."""
    out = Table(box=SIMPLE_HEAD, title="Test images, in %", title_justify="left", title_style="bold", pad_edge=False)
    for place, name in enumerate(("Model", "Images", "Accuracy", "Balanced", "F1")):
        out.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows:
        out.add_row(*row)
    return out


def _built(*words: str) -> Experiment:
    return experiment.from_text(settings.to_json(settings.compose(*words, *EVERYBODY)))


def _run(words: Sequence[str], members: Sequence[str], console: Console) -> None:
    if not members:
        study = _built(*words)
        models = federated(study, console)
    else:
        studies = [_built(*words, *member.split()) for member in members]
        study, models = studies[0], central(studies)
    console.print(table(rows_of(study, models)))


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    parser = argparse.ArgumentParser(prog="python -m fedrobust.meff", description="Ensemble feature fusion (docs/meff.md).")
    parser.add_argument("overrides", nargs="*", help="settings as of fedrobust.simulate")
    parser.add_argument("--member", action="append", default=[], metavar="OVERRIDES", help="a centrally trained member: its own settings")
    given = parser.parse_args(words)
    try:
        _run(given.overrides, given.member, Console())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        leave(error)


if __name__ == "__main__":
    main()
