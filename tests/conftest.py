"""All tests: how they share two processes, and a cache of the session's own, never the user's."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

PROCESSES = 2
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded: several threads each are slower
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("no-time-limits", deadline=None)
settings.load_profile("no-time-limits")


def pytest_configure() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and with them every
    process that they start; tests of Ctrl-C need it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Several processes for folders, where they save more than their start costs; none for single
    files and tests."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return PROCESSES if any(Path(word).is_dir() for word in config.args) else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process waits long for the other one at the end."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDROBUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
