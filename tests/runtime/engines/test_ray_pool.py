"""Replacements without resources or that do not start: the rest continue, and without any worker
there is an end."""

from types import SimpleNamespace

import pytest
import ray

from fedrobust.errors import RunError
from fedrobust.runtime.engines import ray_pool
from fedrobust.runtime.engines.ray_pool import STARTS, WorkerPool


class FakeRay:
    """Promises that `spawn`ed workers make are kept, unless `broken`."""

    def __init__(self):
        self.exceptions, self.killed, self.broken = ray.exceptions, [], False

    def get(self, promises, timeout=None):
        if self.broken:
            raise ray.exceptions.RayError(
                "the creation failed\nModuleNotFoundError: No module named 'fedrobust'"
            )

    def kill(self, worker):
        self.killed.append(worker)


@pytest.fixture
def fake(monkeypatch):
    fake = FakeRay()
    monkeypatch.setattr(ray_pool, "ray", fake)
    return fake


@pytest.fixture
def two(fake):
    """An open pool of two."""
    opened = WorkerPool(lambda _: SimpleNamespace(ready=SimpleNamespace(remote=object)))
    opened.open(2)
    yield opened
    opened.close()


def test_a_replacement_works_when_it_is_up_and_the_rest_go_on_meanwhile(two, fake):
    dead = two.worker(1)
    two.replace(1)
    assert fake.killed == [dead]
    assert (two.usable, list(two.promises.values()), two.patience()) == ([0], [1], None)
    two.arrived(1)
    assert (two.usable, two.promises) == ([0, 1], {})


def test_a_worker_that_does_not_start_is_given_up_after_some_tries(two, fake):
    two.replace(1)
    fake.broken = True
    for _ in range(STARTS):
        assert list(two.promises.values()) == [1]
        two.arrived(1)
    assert (two.usable, two.promises, two.worker(1), two.patience()) == ([0], {}, None, None)
    two.replace(0)
    for _ in range(STARTS):
        two.arrived(0)
    with pytest.raises(
        RunError,
        match=r"^no worker is left and new ones do not start: ModuleNotFoundError: No "
        r"module named 'fedrobust'$",
    ):
        two.patience()


def test_a_start_that_succeeds_makes_up_for_those_that_failed(two, fake):
    for _ in range(3 * STARTS):
        two.replace(0)
        fake.broken = True
        two.arrived(0)
        fake.broken = False
        two.arrived(0)
    assert two.usable == [0, 1]


def test_where_no_replacement_finds_room_the_wait_is_bounded(two, monkeypatch):
    now = ray_pool.time.monotonic()
    monkeypatch.setattr(ray_pool, "time", SimpleNamespace(monotonic=lambda: now))
    for number in (0, 1):
        two.replace(number)
    assert two.patience() == ray_pool.START_SECONDS
    now += ray_pool.START_SECONDS - 1
    assert two.patience() == 1
    now += 1
    with pytest.raises(
        RunError,
        match=r"^no worker is left and no new one could start within 180 s; free a CPU "
        r"or GPU or add a machine$",
    ):
        two.patience()


def test_workers_are_asked_whether_they_live_before_they_get_anything(two, fake):
    two.check()
    assert (two.usable, sorted(two.promises.values())) == ([], [0, 1])
    two.arrived(0)
    fake.broken = True
    two.arrived(1)
    assert (two.usable, list(two.promises.values()), len(fake.killed)) == ([0], [1], 1)
