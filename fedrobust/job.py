"""One simulation from a resolved configuration to a filled output folder; `simulate` is its command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from fedrobust import config as settings
from fedrobust import device, experiment
from fedrobust.data import TRAIN
from fedrobust.display import Display, summary_table
from fedrobust.engines import cores
from fedrobust.evaluation import predict
from fedrobust.experiment import Experiment
from fedrobust.html import write_html
from fedrobust.manifest import write_manifest
from fedrobust.pictures import draw_data, draw_results
from fedrobust.records import Observers, Recorder
from strategies.adapter import Server
from strategies.conduct import conduct
from strategies.rounds import make_server

CLIENT_APP = "clients.app:app"
PASSES = 3.0  # forward, and backward at twice its cost
CORE_SPEED = 5e10  # floating-point operations a second that a CPU core reaches in a ResNet, in round numbers


def run_job(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything of one run; the manifest and the pictures of the data are written before anything is trained."""
    study = experiment.from_text(settings.to_json(config))
    engine = settings.build(config, "engine")
    server = make_server(study)
    console, recorder = Console(), Recorder(folder, study.kinds)
    with engine.open(CLIENT_APP, study.num_clients, {"simulation": True}, work_seconds(server)) as grid, Display(console) as display:
        # Nothing is written before everything that can be refused has been built.
        computes = device.name(device.resolve(config["device"]))
        write_manifest(folder, config, seed=study.seed, data=data_facts(study), device=computes, command_line=sys.argv)
        draw_data(study, folder)
        if skipped := study.dataset.skipped:
            display.stage("run", f"{len(skipped)} unreadable images left out, the first is {skipped[0]}")
        report, scores = conduct(server, grid, folder, Observers([recorder, display]), grid.description)
    draw_results(study, report, scores.test, folder)
    write_html(folder, extra_data(study))
    console.print(summary_table(report, extra_data(study)))
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    return report


def work_seconds(server: Server) -> float:
    """An estimate of all clients' training of the run and its twin in one process, by which `engine=auto` decides.

    Counted, not timed: a choice that hung on the machine's mood would change the threads per client and with them the last
    bits, and equal seeds must give equal results. Settings that are no plain epochs count as one epoch.
    """
    study = server.experiment
    with FlopCounterMode(display=False) as counter:
        predict(server.model, study.dataset.images[:1])
    images = sum(len(study.rows(client, TRAIN)) for client in range(study.num_clients))
    epochs, rounds = float(study.config["client"].get("epochs", 1)), float(study.config["rounds"])
    runs = 2 if study.evaluation.twin else 1
    return PASSES * float(counter.get_total_flops()) * images * epochs * rounds * runs / (CORE_SPEED * cores())


def data_facts(study: Experiment) -> dict[str, Any]:
    """What the manifest says of the data."""
    dataset = study.dataset
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "classes": list(dataset.class_names),
        "splits": [int((dataset.splits == split).sum()) for split in range(3)],
        "root": len(study.root),
        "proxy": len(study.proxy),
        "skipped": list(dataset.skipped),
    }


def extra_data(study: Experiment) -> dict[str, int]:
    """The server's extra images that this run really used, and how many."""
    sizes = {"root": len(study.root), "proxy": len(study.proxy)}
    used = set(study.strategy.uses) | ({"proxy"} if study.config["server"]["buffers"] == "recalibrate" else set())
    return {name: size for name, size in sizes.items() if name in used and size}
