"""The command line on Ray's workers when it is interrupted, and when a worker process is killed
while a client runs in it.

Each test takes about 20 seconds: a Ray of the program's own starts, and two workers, which load
torch; it must be the program's own, since nothing of it may be left.
"""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from fedrobust import simulate
from tests.helpers.processes import (
    PATIENCE_SECONDS,
    alive,
    left_after,
    started,
    stopped,
    title,
    wait_until,
)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
SIMULATE = [
    sys.executable,
    "-m",
    "fedrobust.simulate",
    "experiment=smoke",
    "strategy=fedavg",
    "poisoned=0",
    "evaluation.twin=false",
]
SMALL = [
    "data.num_images=300",
    "model.dimension=8",
    "model.options.channels=[8,8,16,16]",
    "server.batchnorm=mean",
]
LONG = "client.steps=20"  # a quarter of a second and more, for a client to be caught at work
AT_WORK = "ray::Worker.answer"  # what Ray calls a worker in which a client is running
TRIES = 5
RAY = ["engine=ray", "engine.workers=2", "engine.threads=1"]


def command(folder, *words):
    return [*SIMULATE, *SMALL, *words, f"hydra.run.dir={folder}"]


def rounds(folder):
    path = folder / "rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def at_work(session):
    """Workers in which a client has been running a moment ago."""
    return [one for one, name in alive(session).items() if name.startswith(AT_WORK)]


def finish(process):
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert left_after(process.pid) == {}
    return process.returncode, output, errors


def test_ctrl_c_in_mid_round_ends_all_processes_and_keeps_what_was_finished(tmp_path):
    with started(command(tmp_path / "out", *RAY, LONG, "rounds=500"), cwd=ROOT) as process:
        wait_until(lambda: len(rounds(tmp_path / "out")) >= 3, process)
        wait_until(lambda: at_work(process.pid), process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        code, _, errors = finish(process)
    assert code == 130
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("interrupted: ")
    assert [record["round"] for record in rounds(tmp_path / "out")] == list(
        range(len(rounds(tmp_path / "out")))
    )
    assert not (tmp_path / "out" / "report.json").exists()


def kill_a_worker(tmp_path):
    """A run of two rounds; in the second one a worker is killed while a client runs in it. Its exit
    code, output and errors. On a busy machine the round may be over before it is seen: then there
    is another run."""
    for _ in range(TRIES):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with started(command(tmp_path / "out", *RAY, LONG, "rounds=2"), cwd=ROOT) as process:
            wait_until(lambda: len(rounds(tmp_path / "out")) >= 2, process)
            if kill_at_work(process.pid, 1, lambda: len(rounds(tmp_path / "out")) == 2):
                return finish(process)
    return pytest.fail(f"no client was caught at work in {TRIES} runs")


def kill_at_work(session, count, goes_on):
    """Kill so many workers of the session in which clients are running at once, while something
    goes on; whether there were so many. Workers that are looked at are stopped, so that they cannot
    finish meanwhile."""
    while goes_on():
        found = at_work(session)[:count]
        with contextlib.ExitStack() as stack:
            for worker in found:
                stack.enter_context(stopped(worker))
            caught = [one for one in found if title(one).startswith(AT_WORK)]
            if len(caught) == count and goes_on():
                for worker in caught:
                    os.kill(worker, signal.SIGKILL)
                return True
    return False


def test_a_killed_worker_changes_no_bit_of_the_result(tmp_path, monkeypatch):
    code, _, errors = kill_a_worker(tmp_path)
    assert code == 0, errors
    assert errors.count("\n") == 1
    assert errors.startswith("the worker process died while client ")
    assert f"WARNING {errors}" in (tmp_path / "out" / "run.log").read_text()
    alone = ["engine=inline", "engine.threads=1", LONG, "rounds=2"]
    monkeypatch.setattr(sys, "argv", command(tmp_path / "undisturbed", *alone)[2:])
    simulate.main()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "undisturbed" / "model.safetensors"
    ).read_bytes()


def test_without_retries_clients_are_lost_until_there_are_too_many(tmp_path):
    out, limits = tmp_path / "out", ["engine.retries=0", "server.max_failures=1"]
    with started(command(out, *RAY, LONG, "rounds=500", *limits), cwd=ROOT) as process:
        wait_until(lambda: len(rounds(out)) >= 2, process)
        assert kill_at_work(process.pid, 1, lambda: process.poll() is None)
        wait_until(lambda: any(record["failures"] for record in rounds(out)), process)
        assert kill_at_work(process.pid, 2, lambda: process.poll() is None)
        code, _, errors = finish(process)
    [lost] = [record for record in rounds(out)[:-1] if record["failures"]]
    [failure] = lost["failures"]
    assert (
        failure["reason"]
        == f"the worker process died while client {failure['client']} was running (attempts: 1)"
    )
    with (out / "clients.csv").open() as file:
        listed = [
            int(row["client"]) for row in csv.DictReader(file) if row["round"] == str(lost["round"])
        ]
    assert listed == [client for client in range(3) if client != failure["client"]]
    # the run goes on with the others, and ends with one line where more are lost than it may
    last = rounds(out)[-1]
    assert (code, last["round"] > lost["round"], len(last["failures"])) == (1, True, 2)
    assert re.match(
        rf"error: round {last['round']}: 2 clients failed, server\.max_failures=1 \(client (\d): "
        r"the worker process died while client \1 was running",
        errors,
    ), errors
    assert errors.count("\n") == 1
