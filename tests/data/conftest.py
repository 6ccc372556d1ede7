"""Small data sets on disk, a cache of its own for every test session, and the real images where
they are."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDROBUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder named by FEDROBUST_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("FEDROBUST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "ham10000_sites_trainval.csv").is_file():
        pytest.skip(f"no real images in {folder}; set FEDROBUST_DATA to their folder")
    return folder
