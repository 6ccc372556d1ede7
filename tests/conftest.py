"""Fixtures of all tests: a cache of the session's own, never the user's."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("no-time-limits", deadline=None)
settings.load_profile("no-time-limits")


def pytest_configure() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and with them every
    process that they start; tests of Ctrl-C need it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDROBUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
