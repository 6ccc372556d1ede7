"""Fixtures of all tests: a cache of the session's own, never the user's."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("no-time-limits", deadline=None)
settings.load_profile("no-time-limits")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDROBUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
