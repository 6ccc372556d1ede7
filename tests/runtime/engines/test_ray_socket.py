"""Ray's sockets lie below the temporary folder, whose path may be too long for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray

from fedrobust.errors import ConfigError
from fedrobust.runtime.engines import ray_cluster
from fedrobust.runtime.engines.ray_cluster import Workers


@pytest.mark.parametrize(("name", "letter"), [("TMPDIR", "a"), ("RAY_TMPDIR", "\u00e4")])
def test_a_temporary_folder_that_is_too_long_is_refused_before_ray_starts(
    name: str, letter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, str(tmp_path / (letter * 60)))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests leave theirs running
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(ConfigError) as caught:
        ray_cluster.connect(ray_cluster.Cluster(), Workers(1, 1.0, 0.0, 1))
    assert str(caught.value).startswith(f"{name}={tmp_path}")
    assert "too long for the sockets of Ray; set RAY_TMPDIR to a shorter folder" in str(
        caught.value
    )


def test_the_limit_is_that_of_ray_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it may be: Ray's own check accepts the longest folder that passes ours."""
    from ray._private.utils import validate_socket_filepath

    session = f"session_2026-01-01_00-00-00_123456_{os.getpid()}"
    longest = ray_cluster.SOCKET_BYTES - len(f"/ray/{session}/sockets/plasma_store")
    for excess in (0, 1):
        folder = "/" + "t" * (longest - 1 + excess)
        monkeypatch.setenv("RAY_TMPDIR", folder)
        path = f"{folder}/ray/{session}/sockets/plasma_store"
        if excess:
            with pytest.raises(OSError, match="AF_UNIX"):
                validate_socket_filepath(path)
            with pytest.raises(ConfigError, match="1 byte too long"):
                ray_cluster.check_socket_path()
        else:
            validate_socket_filepath(path)
            ray_cluster.check_socket_path()
