"""Order of the messages, and retries of lost ones: the scheduler alone, with workers
that answer on command."""

import functools
from types import SimpleNamespace

import pytest
import ray
from flwr.app import Message, MetricRecord, RecordDict

from fedrobust.errors import RunError
from fedrobust.runtime.engines import ray_scheduler
from fedrobust.runtime.engines.ray_scheduler import MessageScheduler
from tests.helpers.engine_messages import messages


class Workers:
    """Pool, workers and Ray in one: `finish` lists which worker answers next ("lost 1": worker 1
    dies instead)."""

    def __init__(self, number, finish=(), states=None):
        self.usable, self.promises = list(range(number)), {}
        self.finish, self.states = list(finish), dict(states or {})
        self.given, self.replaced, self.checks = [], [], 0
        self.exceptions = ray.exceptions

    def __len__(self):
        return 2

    def check(self):
        self.checks += 1

    def patience(self):
        if not self.usable:
            raise RunError("no worker is left")

    def replace(self, number):
        self.replaced.append(number)

    def crash(self, number):
        return None

    def worker(self, number):
        return SimpleNamespace(
            answer=SimpleNamespace(remote=lambda *given: self.start(number, *given))
        )

    def start(self, number, message, state, names, *arrays):
        self.given.append((number, message.metadata.dst_node_id))
        promise = SimpleNamespace(worker=number, message=message, state=state)
        return functools.partial(lambda: promise)  # unlike a namespace, it can be the key of a dict

    def put(self, value):
        return value

    def wait(self, promises, num_returns, timeout):
        at_work = [
            promise
            for promise in promises
            if not self.finish or promise().worker == int(self.finish[0].split()[-1])
        ]
        return at_work[:1], promises

    def get(self, promise, timeout):
        message, state = promise().message, promise().state
        if self.finish and self.finish.pop(0).startswith("lost"):
            raise ray.exceptions.ObjectLostError("ref", "owner", "site")
        count = 1 if state is None else state["seen"]["calls"] + 1
        return Message(RecordDict(), reply_to=message), RecordDict(
            {"seen": MetricRecord({"calls": count})}
        )

    def load_memory(self, client):
        return self.states.get(client)

    def save_memory(self, client, state):
        self.states[client] = state


@pytest.fixture
def run(monkeypatch):
    """The replies to messages for these clients; they come with the error's last line where they
    are errors."""

    def run(workers, clients, retries=1, timeout=None):
        monkeypatch.setattr(ray_scheduler, "ray", workers)
        replies = MessageScheduler(workers, workers, 10, retries, timeout).replies(
            messages(clients)
        )
        return [
            (r.metadata.src_node_id, r.error.reason.splitlines()[-1] if r.has_error() else "")
            for r in replies
        ]

    return run


def test_a_worker_takes_its_own_clients_first_and_then_from_the_longest_queue(run):
    workers = Workers(2, finish=["1", "1", "1", "0", "1", "0"])
    assert [client for client, _ in run(workers, [0, 2, 4, 6, 1, 3])] == [1, 3, 2, 0, 4, 6]
    # worker 1 has answered 1 and 3, then helps with 2 and 4, which wait behind 0
    assert workers.given == [(0, 0), (1, 1), (1, 3), (1, 2), (1, 4), (0, 6)]
    assert workers.checks == 1


def test_a_worker_that_is_gone_leaves_its_clients_to_the_others(run):
    workers = Workers(1)
    assert [client for client, _ in run(workers, [0, 1, 2, 3])] == [0, 2, 1, 3]
    assert {number for number, _ in workers.given} == {0}


def test_a_client_is_never_at_work_twice_and_remembers_in_order(run):
    workers = Workers(2, states={4: RecordDict({"seen": MetricRecord({"calls": 7})})})
    assert len(run(workers, [4, 4, 4, 6])) == 4
    assert workers.given == [(0, 4), (1, 6), (0, 4), (0, 4)]
    assert workers.states[4]["seen"]["calls"] == 10


def test_a_lost_answer_is_given_again_with_the_memory_from_before(run):
    before = RecordDict({"seen": MetricRecord({"calls": 7})})
    workers = Workers(2, finish=["lost 0", "1", "0", "1"], states={0: before})
    assert run(workers, [0, 1, 2]) == [(1, ""), (0, ""), (2, "")]
    assert workers.given == [(0, 0), (1, 1), (0, 0), (1, 2)]
    assert workers.replaced == [0]
    assert workers.states[0]["seen"]["calls"] == 8


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_message_is_tried_so_often_and_then_an_error(run, retries):
    workers = Workers(1, finish=["lost 0"] * (retries + 1))
    line = f"the worker process died while client 4 was running (attempts: {retries + 1})"
    assert run(workers, [4, 5], retries) == [(4, line), (5, "")]
    assert workers.replaced == [0] * (retries + 1)
    assert 4 not in workers.states


def test_with_no_worker_left_the_exchange_ends(run):
    with pytest.raises(RunError, match="no worker is left"):
        run(Workers(0), [0])


def test_nobody_is_asked_after_the_time_is_up(run):
    workers = Workers(2)
    assert run(workers, [0, 1], timeout=0.0) == [
        (client, "timed out after 0 s, before it was started") for client in (0, 1)
    ]
    assert workers.given == []
