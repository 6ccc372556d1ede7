"""The engine of many processes: two workers, one Ray for all tests, also for those of the real
client app, whose models are bit-equal on both engines."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import psutil
import pytest
import ray
import torch

from fedrobust.errors import ConfigError, RunError
from fedrobust.runtime.engines import inline_engine, ray_cluster, ray_engine, ray_scheduler
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.engines.ray_cluster import Cluster, Workers
from fedrobust.runtime.engines.ray_grid import RayGrid
from fedrobust.runtime.engines.ray_scheduler import AHEAD
from fedrobust.runtime.server.loop import evaluate_clients, run_rounds
from fedrobust.state import State
from tests.helpers import federations
from tests.helpers.engine_messages import by_client, meeting, messages
from tests.helpers.processes import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.slow
CLIENTS = 6
TWO = Workers(2, cpus=1, gpus=0, threads=1)


@pytest.fixture(scope="session")
def grid(client_app):
    """An open RayGrid of two workers; Ray counts two cores for others' tests more."""
    with RayGrid(
        client_app, CLIENTS, TWO, node_config={"site": "north"}, cluster=Cluster(cores=4)
    ) as opened:
        yield opened


def calls(grid):
    good, bad = by_client(grid.send_and_receive(messages(range(CLIENTS))))
    assert not bad
    return {client: reply.metrics["calls"] for client, reply in good.items()}


@pytest.fixture
def clock(monkeypatch):
    """Of the scheduler; `clock.now` is its time in seconds, which stands still."""
    one = SimpleNamespace(now=0.0, monotonic=lambda: one.now)
    monkeypatch.setattr(ray_scheduler, "time", one)
    return one


def test_every_client_answers_once_with_what_the_inline_engine_gives_bit_by_bit(grid, client_app):
    good, bad = by_client(grid.send_and_receive(messages(range(CLIENTS))))
    assert not bad
    with InlineGrid(client_app, CLIENTS, {"site": "north"}, threads=1) as inline:
        expected, _ = by_client(inline.send_and_receive(messages(range(CLIENTS))))
    assert set(good) == set(expected) == set(grid.get_node_ids())
    for client, reply in good.items():
        assert torch.equal(reply.state.parameters, expected[client].state.parameters)
        assert torch.equal(reply.state.buffers, expected[client].state.buffers)
        assert reply.num_examples == expected[client].num_examples
        assert (reply.info["site"], reply.info["nice"], reply.metrics["threads"]) == (
            "north",
            os.nice(0),
            1,
        )


def test_clients_prefer_their_worker_where_the_apps_cache_lies(grid, tmp_path):
    """Each has something to do of its own, since the two clients run at the same time."""
    first, second = meeting(tmp_path / "first", 0, 1), meeting(tmp_path / "second", 0, 1)
    before, after = (
        by_client(grid.send_and_receive(sent, timeout=PATIENCE_SECONDS))[0]
        for sent in (messages([0, 1], first), messages([1, 0], second))
    )
    for client in (0, 1):
        assert after[client].metrics["calls"] == before[client].metrics["calls"] + 1
        assert after[client].metrics["cache"] == before[client].metrics["cache"] + 1
        assert after[client].info["pid"] == before[client].info["pid"] != os.getpid()
    assert after[0].info["pid"] != after[1].info["pid"]


def test_no_worker_idles_while_another_has_a_backlog(grid, tmp_path):
    """All three at home in worker 0, where the first one waits until the others have been answered:
    by worker 1."""
    before = calls(grid)
    replies = grid.send_and_receive(
        messages([0, 2, 4], {0: f"wait {tmp_path} 0"}), timeout=PATIENCE_SECONDS
    )
    early = [next(replies), next(replies)]
    (tmp_path / "go").touch()
    good, bad = by_client([*early, *replies])
    assert [reply.metadata.src_node_id for reply in early] == [2, 4]
    assert not bad
    assert {client: good[client].metrics["calls"] - before[client] for client in good} == {
        0: 1,
        2: 1,
        4: 1,
    }


def test_a_client_with_two_messages_gets_them_one_after_the_other(grid):
    before = calls(grid)
    replies = list(grid.send_and_receive(messages([3, 3, 3], {3: "sleep 0.05"})))
    assert [reply.content["metrics"]["calls"] - before[3] for reply in replies] == [1, 2, 3]


def test_failures_of_clients_are_reported_and_the_others_go_on(grid):
    good, bad = by_client(grid.send_and_receive(messages([0, 1, 2, 9], {1: "raise", 2: "leave"})))
    assert set(good) == {0}
    assert "in misbehave" in bad[1]
    assert "ValueError: the scanner is broken" in bad[1]
    assert "SystemExit: 3" in bad[2]
    assert bad[9] == "there is no client 9"
    (silent,) = grid.send_and_receive(messages([3], kind="train.empty"))
    assert silent.error.reason == "client 3 answered with NoneType instead of a Message"


def test_a_client_whose_worker_dies_is_tried_again_with_the_same_result(
    grid, client_app, tmp_path, capsys
):
    grid.restore({})
    calls(grid)
    good, bad = by_client(
        grid.send_and_receive(
            messages(range(CLIENTS), {2: f"die-once {tmp_path} 2"}), timeout=PATIENCE_SECONDS
        )
    )
    assert (tmp_path / "2").exists()
    assert capsys.readouterr().err == (
        "the worker process died while client 2 was running: trying it again\n"
    )
    assert not bad
    with InlineGrid(client_app, CLIENTS, {"site": "north"}, threads=1) as inline:
        calls(inline)
        expected, _ = by_client(inline.send_and_receive(messages(range(CLIENTS))))
        assert grid.states == inline.states
    for client in range(CLIENTS):
        assert torch.equal(good[client].state.parameters, expected[client].state.parameters)
        assert good[client].metrics["calls"] == expected[client].metrics["calls"] == 2


def test_a_client_over_which_every_worker_dies_costs_one_reply_and_nobodys_memory(grid):
    before = calls(grid)
    good, bad = by_client(
        grid.send_and_receive(messages(range(CLIENTS), {2: "die"}), timeout=PATIENCE_SECONDS)
    )
    assert set(good) == {0, 1, 3, 4, 5}
    assert (
        bad[2].splitlines()[-1]
        == "the worker process died while client 2 was running (attempts: 2)"
    )
    after = calls(grid)
    assert {client: after[client] - before[client] for client in range(CLIENTS)} == {
        0: 2,
        1: 2,
        2: 1,
        3: 2,
        4: 2,
        5: 2,
    }


def test_a_worker_that_a_signal_ended_is_reported_as_such(grid):
    calls(grid)
    _, bad = by_client(grid.send_and_receive(messages([2], {2: "crash"}), timeout=PATIENCE_SECONDS))
    assert (
        bad[2].splitlines()[-1]
        == "the worker process died (Segmentation fault) while client 2 was running (attempts: 2)"
    )


def test_a_worker_that_died_unused_costs_nobody_anything(grid, capsys):
    (reply,) = by_client(grid.send_and_receive(messages([0])))[0].values()
    os.kill(reply.info["pid"], signal.SIGKILL)
    calls(grid)
    assert not capsys.readouterr().err


def test_a_hanging_client_is_given_up_after_the_timeout(grid, tmp_path, clock):
    before = calls(grid)
    sent = messages(range(CLIENTS), {3: f"wait {tmp_path} 3"})
    replies = grid.send_and_receive(sent, timeout=2)
    early = [next(replies) for _ in range(CLIENTS - 1)]
    clock.now = 2.0
    good, bad = by_client([*early, *replies])
    assert set(good) == {0, 1, 2, 4, 5}
    assert bad == {3: "timed out after 2 s; its worker was replaced"}
    assert calls(grid)[3] == before[3] + 1


def test_what_was_never_started_is_reported_too(grid, tmp_path, clock):
    orders = {0: f"wait {tmp_path} 0", 5: f"meet {tmp_path} 5 0", 1: f"wait {tmp_path} 1"}
    # as soon as client 5 has answered, both workers hang
    replies = grid.send_and_receive(messages([0, 5, 1, 2, 3], orders), timeout=1)
    assert next(replies).metadata.src_node_id == 5
    clock.now = 1.0
    _, bad = by_client(replies)
    replaced, never = (
        "timed out after 1 s; its worker was replaced",
        "timed out after 1 s, before it was started",
    )
    assert bad == {0: replaced, 1: replaced, 2: never, 3: never}


def test_a_client_that_fails_remembers_what_it_did_before(grid):
    before = calls(grid)
    _, bad = by_client(grid.send_and_receive(messages(range(CLIENTS), {1: "raise late"})))
    assert list(bad) == [1]
    assert {client: count - before[client] for client, count in calls(grid).items()} == {
        0: 2,
        1: 1,
        2: 2,
        3: 2,
        4: 2,
        5: 2,
    }


def test_large_arrays_that_clients_remember_lie_in_this_processs_own_memory(grid):
    grid.restore({})
    size = 100_000
    for number, known in ((1.0, -1.0), (2.0, 1.0 * size), (3.0, 2.0 * size)):
        sent = messages(
            [0, 1], kind="query.keep", state=State(torch.full((size,), number), torch.zeros(1))
        )
        assert [reply.content["info"]["known"] for reply in grid.send_and_receive(sent)] == [
            known,
            known,
        ]
    for state in grid.states.values():
        vector = state["own"]["parameters"].vector
        # not a view that would hold the answer in Ray's memory
        assert vector.flags.owndata or vector.base.flags.owndata
        assert vector.tolist() == [3.0] * size


def test_the_broadcast_model_is_stored_once(grid, monkeypatch):
    puts = []
    monkeypatch.setattr(ray, "put", lambda value, put=ray.put: puts.append(value) or put(value))
    state = State(torch.zeros(100_000), torch.zeros(1))
    sent = messages(range(CLIENTS), kind="query.address", state=state)
    seen = [dict(reply.content["info"]) for reply in grid.send_and_receive(sent)]
    assert len(puts) == 1
    # one address per worker: all read the same memory
    addresses = {(info["pid"], info["address"]) for info in seen}
    assert len(addresses) == len({info["pid"] for info in seen})
    assert not any(info["writeable"] for info in seen)
    list(
        grid.send_and_receive(
            messages([0], kind="query.address") + messages([1], kind="query.address")
        )
    )
    assert len(puts) == 3  # two further records


def test_many_messages_are_drawn_as_workers_get_free(grid):
    drawn = []
    sent = messages([number % CLIENTS for number in range(200)], kind="query.address")

    def source():
        for message in sent:
            drawn.append(message)
            yield message

    replies = grid.send_and_receive(source())
    next(replies)
    assert len(drawn) <= AHEAD + 3  # two at work, one taken by the caller
    assert sum(1 for _ in replies) == 199


def test_ctrl_c_reaches_the_caller_and_the_grid_stays_usable(grid, tmp_path):
    def interrupt():
        wait_until((tmp_path / "0").exists)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        interrupter.start()
        list(grid.send_and_receive(messages(range(CLIENTS), {0: f"wait {tmp_path} 0"})))
    interrupter.join()
    (tmp_path / "go").touch()
    assert set(calls(grid)) == set(range(CLIENTS))


def test_pushed_messages_are_answered_when_pulled_under_their_ids(grid):
    ids = grid.push_messages(messages([0, 1, 2]))
    assert {reply.metadata.reply_to_message_id for reply in grid.pull_messages(ids)} == set(ids)


def test_fifty_clients_on_two_workers_of_a_ray_that_is_running(grid, client_app, tmp_path):
    with RayGrid(client_app, 50, TWO) as second:
        with pytest.raises(RuntimeError, match="open already"):
            second.__enter__()
        sent = messages(range(50), meeting(tmp_path / "two", 0, 1))
        good, bad = by_client(second.send_and_receive(sent, timeout=PATIENCE_SECONDS))
        assert set(good) == set(range(50))
        assert not bad
        assert len({reply.info["pid"] for reply in good.values()}) == 2
    assert ray.is_initialized()  # it was not ours to stop
    with pytest.raises(RuntimeError, match="not open"):
        list(second.send_and_receive(messages([0])))


def listening():
    """The addresses at which this process and all that it has started can be reached."""
    mine, sockets = psutil.Process(), []
    for process in (mine, *mine.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended just now
            sockets += process.net_connections(kind="inet")
    return {
        one.laddr.ip.removeprefix("::ffff:")
        for one in sockets
        if one.status == psutil.CONN_LISTEN or (one.type == socket.SOCK_DGRAM and not one.raddr)
    }


def test_a_ray_of_our_own_is_reached_from_this_machine_alone(grid):
    assert listening() == {"127.0.0.1"}


def test_a_ray_of_our_own_answers_those_only_who_know_its_token(grid):
    if ray_cluster.TOKENS is None:
        pytest.skip("this Ray has no tokens")
    address, token = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]
    look = (
        "from ray._raylet import GcsClient; GcsClient(address={!r}).get_all_node_info(timeout=20)"
    )
    ended = {
        name: subprocess.run(
            [sys.executable, "-c", look.format(address)],
            env={**os.environ, **changed},
            capture_output=True,
            text=True,
            check=False,
        )
        for name, changed in {
            "none": {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""},
            "another": {"RAY_AUTH_TOKEN": token[::-1]},
            "ours": {},
        }.items()
    }
    assert ended["ours"].returncode == 0, ended["ours"].stderr
    for name in ("none", "another"):
        assert ended[name].returncode != 0
        assert "InvalidAuthToken" in ended[name].stderr


def test_an_app_that_cannot_be_loaded_is_named(grid):
    with pytest.raises(
        RunError,
        match=r"a worker could not start: .*client app no_such_hospital:app: ModuleNotFoundError",
    ):
        RayGrid("no_such_hospital:app", 1, Workers(1, 1, 0, 1)).__enter__()


def test_more_than_the_running_ray_has_free_is_refused(grid, client_app, monkeypatch):
    monkeypatch.setattr(ray_cluster, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(
        ConfigError,
        match=r"engine.workers=9: 9 x 1 CPUs wanted, .* is free in the Ray that is running already",
    ):
        RayGrid(client_app, 1, Workers(9, 1, 0, 1)).__enter__()
    assert set(calls(grid)) == set(range(CLIENTS))


def test_what_clients_remember_lies_in_the_grid_and_goes_with_their_messages(grid):
    calls(grid)
    kept = grid.states
    assert list(kept) == list(range(CLIENTS))
    before = calls(grid)
    grid.restore(kept)
    assert calls(grid) == before
    grid.restore({})
    assert set(calls(grid).values()) == {1}


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=etf_dml", "noisy=1"),
        ("strategy=fedavg", "client=ditto"),
        ("strategy=fedavg", "poisoned=0", "privacy=secure_aggregation", "privacy.clip=0.05"),
    ],
)
@pytest.mark.usefixtures("grid")
def test_inline_and_ray_train_the_same_bits(words):
    server = federations.build_server(*words, "rounds=2")
    results = []
    for engine in (inline_engine(threads=1), ray_engine(workers=2, threads=1)):
        with engine.open(
            "fedrobust.clients.app:app", server.experiment.num_clients, {"simulation": True}
        ) as opened:
            finished = run_rounds(server, opened, federations.Memory())
            results.append(
                (finished, evaluate_clients(server, finished.state, opened, federations.Memory()))
            )
    (inline, inline_scores), (several, several_scores) = results
    assert torch.equal(inline.state.parameters, several.state.parameters)
    assert torch.equal(inline.state.buffers, several.state.buffers)
    assert not torch.equal(inline.state.parameters, server.initial.parameters)
    assert [record.clients for record in inline.records] == [
        record.clients for record in several.records
    ]
    for client, scores in inline_scores.items():
        for condition, (probabilities, labels) in scores.items():
            assert torch.equal(probabilities, several_scores[client][condition][0])
            assert torch.equal(labels, several_scores[client][condition][1])
