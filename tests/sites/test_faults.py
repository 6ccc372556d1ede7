"""What happens when something breaks: real processes on loopback, killed, stopped and started again. The table in docs/faults.md.

Minutes of work, so only with FEDROBUST_FAULTS=1 in the environment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedrobust import config
from fedrobust.data import DataSource
from fedrobust.federation.demo import share_out
from fedrobust.federation.local import LocalFederation
from fedrobust.federation.operating import COMPLETED
from tests.federation import TINY

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not os.environ.get("FEDROBUST_FAULTS"), reason="FEDROBUST_FAULTS=1 runs it")]
SECONDS = 900.0


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("faults")
    source: DataSource = config.build(config.compose("data.size=16", "data.num_images=600"), "data")
    dataset = source.load()
    names = share_out(dataset, folder / "data")
    nodes: dict[str, dict[str, Any]] = {
        name: {"site": name, "data-root": str(folder / "data" / f"{name}.npz"), "data-format": "npz", "allow-contamination": True}
        for name in names
    }
    with LocalFederation(folder / "all", nodes) as one:
        yield one
    assert one.processes.alive() == {}


def submit(federation: LocalFederation, folder: str, *words: str, **settings: str) -> str:
    own = ["data=npz", f"data.path={federation.folder.parent / 'data' / 'server.npz'}", "data.size=16"]
    tiny = [*(word for word in TINY if not word.startswith("data.")), "model=small", "strategy=fedavg", "evaluation.draws=0"]
    few = ["num_clients=3", "server.root_per_class=1", "server.proxy=32"]
    return federation.operator.submit([*own, *tiny, *few, *words], folder=str(federation.folder / folder), **settings)


def rounds(federation: LocalFederation, folder: str) -> list[dict[str, Any]]:
    path = federation.folder / folder / "rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(found: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What `found` returns as soon as that is something."""
    limit = time.monotonic() + seconds
    while not (something := found()):
        assert time.monotonic() < limit
        time.sleep(0.1)
    return something


def at_work(federation: LocalFederation, name: str) -> bool:
    """Whether a ClientApp works at a site just now."""
    home = f"FLWR_HOME={federation.folder / name / 'home'}".encode()
    found = [pid for pid, command in federation.processes.alive().items() if "flwr-clientapp" in command]
    return any(home in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in found)


def wait_for_round(federation: LocalFederation, folder: str, number: int, name: str) -> None:
    """Until a site is at work in the given round."""
    until(lambda: len(rounds(federation, folder)) >= number)
    until(lambda: at_work(federation, name))


def failures(federation: LocalFederation, folder: str) -> list[list[tuple[int, str]]]:
    """(client, reason) of the failures of each round, the first round first."""
    return [[(one["client"], one["reason"]) for one in line["failures"]] for line in rounds(federation, folder)[1:]]


def number_of(federation: LocalFederation, name: str) -> int:
    return sorted(federation.sites).index(name)


def test_a_node_killed_in_mid_round_costs_one_reply_and_comes_back(federation: LocalFederation) -> None:
    name = next(iter(federation.sites))
    run = submit(federation, "killed", "rounds=4", "server.max_failures=1", "server.round_timeout=300")
    wait_for_round(federation, "killed", 2, name)
    federation.processes.kill(name)
    until(lambda: len(rounds(federation, "killed")) >= 3)
    federation.start_site(name)
    state = federation.operator.wait(run, SECONDS)
    assert state["status"] == COMPLETED, state
    found = failures(federation, "killed")
    print(f"killed: {found}; seconds {[sum(line['seconds'].values()) for line in rounds(federation, 'killed')[1:]]}")
    assert [one[0] for one in found[1]] == [number_of(federation, name)]
    assert found[0] == found[-1] == []
