"""Fault injection: real processes on loopback, killed, stopped, lying and
started again. The table in docs/faults.md.

Ten minutes and more, most of them spent in waiting for Flower's heartbeats, so only with
FEDROBUST_FAULTS=1 in the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from safetensors.torch import load_file

from fedrobust.data import DataSource
from fedrobust.experiment import compose, factories
from fedrobust.federation import flower_commands, operator
from fedrobust.federation.demo import share_out
from fedrobust.federation.local_federation import LocalFederation
from fedrobust.federation.operator import COMPLETED
from fedrobust.federation.processes import free_ports
from tests.helpers.federations import SMALL_RUN
from tests.helpers.forks import fork_programs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("FEDROBUST_FAULTS"), reason="FEDROBUST_FAULTS=1 runs it"),
]
SECONDS = 900.0
FAULTY = Path(__file__).parent / "faulty"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    # each look is a process that takes its share of the machine
    monkeypatch.setattr(operator, "POLL_SECONDS", 15.0)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("faults")
    source: DataSource = factories.build_group(
        compose.compose("data.size=16", "data.num_images=600"), "data"
    )
    dataset = source.load()
    names = share_out(dataset, folder / "data")
    nodes: dict[str, dict[str, Any]] = {
        name: {
            "site": name,
            "data-root": str(folder / "data" / f"{name}.npz"),
            "data-format": "npz",
            "data-classes": ",".join(dataset.class_names),
            "allow-contamination": True,
        }
        for name in names
    }
    one = LocalFederation(folder / "all", nodes)
    (folder / "faulty").mkdir()
    one.processes.environment |= {
        "PYTHONPATH": str(FAULTY),
        "FEDROBUST_FAULTY": str(folder / "faulty"),
    }
    with fork_programs(one.processes.environment), one:
        yield one
    assert one.processes.alive() == {}


def submit(federation: LocalFederation, folder: str, *words: str) -> str:
    classes = next(iter(federation.sites.values()))["data-classes"]
    own = [
        "data=npz",
        f"data.path={federation.folder.parent / 'data' / 'server.npz'}",
        "data.size=16",
        f"data.classes=[{classes}]",
    ]
    tiny = [
        *(word for word in SMALL_RUN if not word.startswith("data.")),
        "model=small",
        "strategy=fedavg",
        "evaluation.bootstrap_samples=0",
    ]
    few = ["num_clients=3", "server.root_per_class=1", "server.proxy_images=32"]
    return federation.operator.submit(
        [*own, *tiny, *few, *words], folder=str(federation.folder / folder)
    )


def go_on(federation: LocalFederation, folder: str) -> str:
    """Resume the run of that folder as soon as nothing of the one before works on it; the status
    that it ends with."""
    until(lambda: not running(federation, "flwr-serverapp", federation.server / "home"))
    state = federation.operator.wait(
        federation.operator.submit([], resume=str(federation.folder / folder)), SECONDS
    )
    print(f"{folder}, resumed: {state['status']}: {state['status-details']}", flush=True)
    return str(state["status"])


def rounds(federation: LocalFederation, folder: str) -> list[dict[str, Any]]:
    path = federation.folder / folder / "rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(found: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Result of `found` as soon as it is not empty."""
    limit = time.monotonic() + seconds
    while not (something := found()):
        assert time.monotonic() < limit
        time.sleep(0.1)
    return something


def running(federation: LocalFederation, program: str, home: Path) -> list[int]:
    """The processes of one of Flower's programs with this FLWR_HOME."""
    needle = f"FLWR_HOME={home}".encode()
    found = [pid for pid, command in federation.processes.alive().items() if program in command]
    with contextlib.suppress(OSError):
        return [
            pid for pid in found if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ]
    return []


def at_work(federation: LocalFederation, name: str) -> bool:
    """Whether a ClientApp works at a site just now."""
    return bool(running(federation, "flwr-clientapp", federation.folder / name / "home"))


def stop(federation: LocalFederation, name: str) -> None:
    """End a node as `systemctl stop` does; one that is killed cannot be started again before the
    server has missed its heartbeats."""
    os.kill(federation.processes.pid(name), signal.SIGTERM)
    federation.processes.wait(name, 60)


def wait_for_round(federation: LocalFederation, folder: str, number: int, name: str) -> None:
    """Until a site is at work in the given round."""
    until(lambda: len(rounds(federation, folder)) >= number)
    until(lambda: at_work(federation, name))


def failures(federation: LocalFederation, folder: str) -> list[list[tuple[int, str]]]:
    """(client, reason) of the failures of each round, the first round first."""
    return [
        [(one["client"], one["reason"]) for one in line["failures"]]
        for line in rounds(federation, folder)[1:]
    ]


def number_of(federation: LocalFederation, name: str) -> int:
    return sorted(federation.sites).index(name)


@contextlib.contextmanager
def faults(federation: LocalFederation, name: str, **what: dict[str, str]) -> Iterator[None]:
    """Faults of a site: by type of message and round."""
    path = federation.folder.parent / "faulty" / f"{name}.json"
    path.write_text(json.dumps(what))
    try:
        yield
    finally:
        path.unlink()


def shown(federation: LocalFederation, folder: str, *more: object) -> None:
    """Source of the table in docs/faults.md."""
    seconds = [round(sum(line["seconds"].values()), 1) for line in rounds(federation, folder)[1:]]
    print(f"{folder}: {failures(federation, folder)}; seconds {seconds}", *more, flush=True)


def complete(federation: LocalFederation, folder: str, number: int) -> None:
    """Nothing is lost: every round is on record, the model is whole and finite, the report was
    written."""
    out = federation.folder / folder
    assert [line["round"] for line in rounds(federation, folder)] == list(range(number + 1))
    assert all(
        bool(torch.isfinite(one).all()) for one in load_file(out / "model.safetensors").values()
    )
    assert (out / "report.html").stat().st_size > 0


def test_a_node_killed_in_mid_round_costs_one_reply_and_comes_back(
    federation: LocalFederation,
) -> None:
    name = next(iter(federation.sites))
    run = submit(
        federation, "killed", "rounds=4", "server.max_failures=1", "server.round_timeout=300"
    )
    wait_for_round(federation, "killed", 2, name)
    federation.processes.kill(name)
    until(lambda: len(rounds(federation, "killed")) >= 3)
    federation.start_site(name)
    state = federation.operator.wait(run, SECONDS)
    assert state["status"] == COMPLETED, state
    found = failures(federation, "killed")
    shown(federation, "killed")
    assert [one[0] for one in found[1]] == [number_of(federation, name)]
    assert found[0] == found[-1] == []


def test_a_census_that_lies_ends_the_run_before_anything_is_trained(
    federation: LocalFederation,
) -> None:
    name = list(federation.sites)[1]
    with faults(federation, name, query={"0": "census"}):
        state = federation.operator.wait(submit(federation, "census", "rounds=1"), SECONDS)
    print(f"census: {state['status']}: {state['status-details']}", flush=True)
    assert state["status"] == "finished:failed"
    assert "must be printable words" in state["status-details"]
    assert rounds(federation, "census") == []


def test_whatever_a_site_sends_costs_it_that_round_and_nobody_else(
    federation: LocalFederation,
) -> None:
    name = list(federation.sites)[1]
    with faults(federation, name, train={"1": "nan", "2": "shape", "3": "gigabytes", "4": "die"}):
        run = submit(
            federation, "liar", "rounds=5", "server.max_failures=1", "server.round_timeout=300"
        )
        state = federation.operator.wait(run, SECONDS)
    shown(federation, "liar")
    assert state["status"] == COMPLETED, state
    found = failures(federation, "liar")
    assert [[client for client, _ in one] for one in found] == [
        [number_of(federation, name)]
    ] * 4 + [[]]
    for (_, reason), words in zip(
        [one[0] for one in found[:4]], ("not finite", "shape", "shape", ""), strict=True
    ):
        assert words in reason
    complete(federation, "liar", 5)


def test_a_site_lost_under_secure_aggregation_is_made_good_for(federation: LocalFederation) -> None:
    """Once in training, when the others have masked with it: their shares take its masks off; once
    before the last answer."""
    name = list(federation.sites)[1]
    words = (
        "privacy=secure_aggregation",
        "rounds=2",
        "server.max_failures=1",
        "server.round_timeout=300",
    )
    with faults(federation, name, **{"train": {"1": "die"}, "train.unmask": {"2": "die"}}):
        state = federation.operator.wait(submit(federation, "masked", *words), SECONDS)
    shown(federation, "masked")
    assert state["status"] == COMPLETED, state
    lost = number_of(federation, name)
    assert [[client for client, _ in one] for one in failures(federation, "masked")] == [
        [lost],
        [lost],
    ]
    took_part = [
        [one["client"] for one in line["clients"]] for line in rounds(federation, "masked")[1:]
    ]
    assert took_part == [sorted({0, 1, 2} - {lost}), [0, 1, 2]]
    assert (
        json.loads((federation.folder / "masked" / "report.json").read_text())["privacy"]["dropped"]
        == 2
    )
    complete(federation, "masked", 2)


def test_a_site_that_hangs_is_waited_for_until_the_deadline_and_comes_back(
    federation: LocalFederation,
) -> None:
    name = list(federation.sites)[2]
    with faults(federation, name, train={"1": "hang"}):
        run = submit(
            federation, "hung", "rounds=3", "server.max_failures=1", "server.round_timeout=120"
        )
        state = federation.operator.wait(run, SECONDS)
    shown(federation, "hung", f"still at work: {at_work(federation, name)}")
    assert state["status"] == COMPLETED, state
    found = failures(federation, "hung")
    assert found[0] == [(number_of(federation, name), f"no reply of site {name} within 120 s")]
    assert found[-1] == []
    complete(federation, "hung", 3)


def test_a_server_s_process_that_is_killed_goes_on_where_it_was(
    federation: LocalFederation,
) -> None:
    name = next(iter(federation.sites))
    whole = federation.operator.wait(submit(federation, "whole", "rounds=2"), SECONDS)
    assert whole["status"] == COMPLETED, whole
    run = submit(federation, "cut", "rounds=2")
    wait_for_round(federation, "cut", 2, name)
    [pid] = running(federation, "flwr-serverapp", federation.server / "home")
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    state = federation.operator.wait(run, SECONDS)
    print(
        f"cut: {state['status']}: {state['status-details']} after "
        f"{time.monotonic() - killed:.0f} s",
        flush=True,
    )
    assert state["status"] == "finished:failed"
    assert len(rounds(federation, "cut")) == 2
    assert go_on(federation, "cut") == COMPLETED
    shown(federation, "cut")
    complete(federation, "cut", 2)
    one, other = (
        load_file(federation.folder / "whole" / "model.safetensors"),
        load_file(federation.folder / "cut" / "model.safetensors"),
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_superlink_that_is_killed_and_started_again_with_its_database(
    federation: LocalFederation,
) -> None:
    name = next(iter(federation.sites))
    run = submit(federation, "link", "rounds=2", "server.round_timeout=300")
    wait_for_round(federation, "link", 2, name)
    federation.processes.kill("superlink")
    print(
        "link: server processes left: "
        f"{running(federation, 'flwr-serverapp', federation.server / 'home')}",
        flush=True,
    )
    federation.start_superlink()
    started = time.monotonic()
    state = federation.operator.wait(run, SECONDS)
    print(
        f"link: {state['status']}: {state['status-details']} after "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    # Flower gives a run up whose server it does not know any more
    assert state["status"] == "finished:failed"
    assert len(rounds(federation, "link")) >= 2
    assert go_on(federation, "link") == COMPLETED
    shown(federation, "link")
    complete(federation, "link", 2)


def test_a_full_disk_on_the_server_and_on_it_goes_when_there_is_room(
    federation: LocalFederation,
) -> None:
    folder = federation.folder / "full"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)],
        check=False,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("only root may mount a file system that is full soon")
    try:
        state = federation.operator.wait(submit(federation, "full/run", "rounds=1"), SECONDS)
        print(
            f"full: {state['status']}: {state['status-details']}; "
            f"{shutil.disk_usage(folder).free} bytes free",
            flush=True,
        )
        assert state["status"] == "finished:failed"
        assert "No space left on device" in state["status-details"]
        assert f"fedrobust.federation run --resume {folder / 'run'}" in state["status-details"]
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        assert go_on(federation, "full/run") == COMPLETED
        shown(federation, "full/run")
        complete(federation, "full/run", 1)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_node_that_takes_signed_apps_only_takes_no_bundle_from_a_checkout(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """Flower 1.41 knows signatures of apps in its own public store only: what `flwr run .` sends
    can carry none."""
    name = next(iter(federation.sites))
    public = (
        Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        .decode()
    )
    (tmp_path / "trusted.yaml").write_text(f"consortium: {public}\n")
    stop(federation, name)
    words = flower_commands.supernode(
        federation.link, federation.folder / name, federation.sites[name], free_ports(1)[0]
    )
    words += ["--trusted-entities", str(tmp_path / "trusted.yaml")]
    federation.processes.start(
        name, words, federation.folder / name, FLWR_HOME=str(federation.folder / name / "home")
    )
    state = federation.operator.wait(submit(federation, "signed", "rounds=1"), SECONDS)
    print(f"signed: {state['status']}: {state['status-details']}", flush=True)
    stop(federation, name)
    federation.start_site(name)
    assert state["status"] == "finished:failed"
    assert f"site {name} cannot take part" in state["status-details"]
