"""One simulation from a resolved configuration to a filled output folder; `simulate` is its command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrobust import config as settings
from fedrobust import device, experiment
from fedrobust.display import Display, summary_table
from fedrobust.experiment import Experiment
from fedrobust.html import write_html
from fedrobust.manifest import write_manifest
from fedrobust.pictures import draw_data, draw_results
from fedrobust.records import Observers, Recorder
from strategies.conduct import conduct

CLIENT_APP = "clients.app:app"


def run_job(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything of one run; the manifest and the pictures of the data are written before anything is trained."""
    study = experiment.from_text(settings.to_json(config))
    engine = settings.build(config, "engine")
    computes = device.name(device.resolve(config["device"]))
    write_manifest(folder, config, seed=study.seed, data=data_facts(study), device=computes, command_line=sys.argv)
    draw_data(study, folder)
    console = Console()
    recorder = Recorder(folder, study.kinds)
    with Display(console) as display, engine.open(CLIENT_APP, study.num_clients, {"simulation": True}) as grid:
        report, scores = conduct(study, grid, folder, Observers([recorder, display]), grid.description)
    draw_results(study, report, scores.test, folder)
    write_html(folder)
    console.print(summary_table(report, extra_data(study)))
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    return report


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
