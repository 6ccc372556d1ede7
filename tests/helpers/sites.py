"""Three real sites over a made-up Flower: the whole ServerApp, whose nodes are our ClientApp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from fedrobust.clients.app import app
from fedrobust.strategies.app import main
from flwr.app import Context, Message, RecordDict

from fedrobust.federation.demo import write_npz
from tests.helpers import federations
from tests.helpers.federations import MEAN, SMALL_RUN
from tests.helpers.flower import FakeFlower

WORDS = (
    "experiment=smoke",
    *SMALL_RUN,
    *MEAN,
    "poisoned=0",
    "rounds=2",
    "evaluation.bootstrap_samples=0",
)
NODES = {70: "c", 30: "a", 50: "b"}


def sites(
    folder: Path,
    before: Callable[[Message], None] = lambda _: None,
    own: Mapping[str, Mapping[str, Any]] | None = None,
) -> FakeFlower:
    """Three sites with a file each, which remember what a node remembers; before(message) is called
    first. own: further settings of the nodes' configurations, by name."""
    experiment = federations.build_experiment(*MEAN, "poisoned=0")
    configs: dict[int, dict[str, Any]] = {}
    for client, node in enumerate(sorted(NODES, key=lambda one: NODES[one])):
        mask = torch.zeros(len(experiment.dataset), dtype=torch.bool)
        mask[experiment.parts[client]] = True
        write_npz(folder / f"{node}.npz", experiment.dataset, mask)
        configs[node] = {
            "data-root": str(folder / f"{node}.npz"),
            "data-format": "npz",
            "data-classes": ",".join(experiment.dataset.class_names),
            **(own or {}).get(NODES[node], {}),
        }
    states = {node: RecordDict() for node in NODES}

    def answer(message: Message) -> list[Message]:
        before(message)
        node = message.metadata.dst_node_id
        return [app(message, Context(1, node, configs[node], states[node], {}))]

    return FakeFlower(dict(NODES), answer)


def serve(flower: FakeFlower, **settings: str) -> None:
    known = {"overrides": " ".join(WORDS), "sites": "", "wait": "1", "folder": "", "resume": ""}
    main(flower, Context(1, 0, {}, RecordDict(), {**known, **settings}))
