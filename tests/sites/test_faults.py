"""What happens when something breaks: real processes on loopback, killed, stopped and started again. The table in docs/faults.md.

Minutes of work, so only with FEDROBUST_FAULTS=1 in the environment.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedrobust import config
from fedrobust.data import DataSource
from fedrobust.federation.demo import share_out
from fedrobust.federation.local import LocalFederation
from fedrobust.federation.operating import COMPLETED
from fedrobust.reporting import read_report
from tests.federation import TINY

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not os.environ.get("FEDROBUST_FAULTS"), reason="FEDROBUST_FAULTS=1 runs it")]
SECONDS = 400.0


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


def at_work(federation: LocalFederation, name: str) -> int | None:
    """The youngest process of a ClientApp at a site."""
    home = f"FLWR_HOME={federation.folder / name / 'home'}".encode()
    found = [pid for pid, command in federation.processes.alive().items() if "flwr-clientapp" in command]
    return max((pid for pid in found if home in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")), default=None)


def in_round(federation: LocalFederation, run: str, number: int, name: str) -> int:
    """The ClientApp of a site that has just been started for the given round."""
    started = re.compile(rf"\[RUN {run}\]\n[^\n]*Receiving: train message.*?Start `flwr-clientapp` process", re.DOTALL)
    until(lambda: len(started.findall(federation.processes.log(name).read_text())) >= number)
    time.sleep(2)  # its predecessor may still be leaving, and it may not be there yet
    pid: int = until(lambda: at_work(federation, name))
    return pid


def failures(federation: LocalFederation, folder: str) -> list[list[tuple[int, str]]]:
    """(client, reason) of the failures of each round, the first round first."""
    return [[(one["client"], one["reason"]) for one in line["failures"]] for line in rounds(federation, folder)[1:]]


def number_of(federation: LocalFederation, name: str) -> int:
    return sorted(federation.sites).index(name)


def test_a_node_killed_in_mid_round_costs_one_reply_and_comes_back(federation: LocalFederation) -> None:
    name = next(iter(federation.sites))
    run = submit(federation, "killed", "rounds=4", "server.max_failures=1", "server.round_timeout=120")
    in_round(federation, run, 2, name)
    federation.processes.kill(name)
    until(lambda: len(rounds(federation, "killed")) >= 3)
    federation.start_site(name)
    state = federation.operator.wait(run, SECONDS)
    assert state["status"] == COMPLETED, state
    found = failures(federation, "killed")
    print(f"killed: {found}; seconds {[sum(line['seconds'].values()) for line in rounds(federation, 'killed')[1:]]}")
    assert [one[0] for one in found[1]] == [number_of(federation, name)]
    assert found[0] == found[-1] == []


def test_a_clientapp_that_dies_costs_one_reply(federation: LocalFederation) -> None:
    name = next(iter(federation.sites))
    run = submit(federation, "died", "rounds=2", "server.max_failures=1", "server.round_timeout=120")
    os.kill(in_round(federation, run, 1, name), signal.SIGKILL)
    state = federation.operator.wait(run, SECONDS)
    assert state["status"] == COMPLETED, state
    found = failures(federation, "died")
    print(f"died: {found}; seconds {[sum(line['seconds'].values()) for line in rounds(federation, 'died')[1:]]}")
    assert [one[0] for one in found[0]] == [number_of(federation, name)]
    assert found[1] == []


def test_a_site_that_hangs_misses_the_deadline_and_too_many_end_the_run(federation: LocalFederation) -> None:
    name = next(iter(federation.sites))
    run = submit(federation, "hung", "rounds=3", "server.max_failures=0", "server.round_timeout=40")
    pid = in_round(federation, run, 2, name)
    os.kill(pid, signal.SIGSTOP)
    try:
        state = federation.operator.wait(run, SECONDS)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert state["status"] == "finished:failed", state
    assert f"no reply of site {name} within 40 s" in state["status-details"]
    assert "server.max_failures=0" in state["status-details"]
    print(f"hung: {state['status-details']}")


def test_a_site_that_sends_nan_is_left_out(federation: LocalFederation) -> None:
    run = submit(federation, "nan", "rounds=1", "server.max_failures=1", "contamination=not_finite", "poisoned=[1]")
    state = federation.operator.wait(run, SECONDS)
    assert state["status"] == COMPLETED, state
    print(f"nan: {failures(federation, 'nan')}")
    assert [one[0] for one in failures(federation, "nan")[0]] == [1]


def test_a_killed_superlink_and_its_run_go_on_to_the_same_weights(federation: LocalFederation) -> None:
    """The SuperLink takes its ServerApp along; started again with its database it knows the sites, and the run is resumed."""
    undisturbed = submit(federation, "whole", "rounds=3")
    assert federation.operator.wait(undisturbed, SECONDS)["status"] == COMPLETED
    first = submit(federation, "cut", "rounds=3")
    in_round(federation, first, 3, next(iter(federation.sites)))
    federation.processes.kill("superlink")
    assert not (federation.folder / "cut" / "report.json").exists()
    time.sleep(3)
    federation.start_superlink()
    run = federation.operator.submit([], resume=str(federation.folder / "cut"))
    state = federation.operator.wait(run, SECONDS)
    assert state["status"] == COMPLETED, state
    one, other = (load_file(federation.folder / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert [line["round"] for line in rounds(federation, "cut")] == [0, 1, 2, 3]
    assert read_report(federation.folder / "cut")["evaluations"] == read_report(federation.folder / "whole")["evaluations"]


def test_too_few_sites_end_the_run_before_it_begins(federation: LocalFederation) -> None:
    run = submit(federation, "few", "num_clients=4")
    federation.operator.flwr("stop", run, federation.operator.connection)
    assert federation.operator.wait(run, SECONDS)["status"] == "finished:stopped"
    names = " ".join([*federation.sites, "absent"])
    late = federation.operator.submit([], sites=names, wait=5, folder=str(federation.folder / "late"))
    state = federation.operator.wait(late, SECONDS)
    assert state["status"] == "finished:failed"
    assert "3 of 4 sites are connected (missing: absent" in state["status-details"]
