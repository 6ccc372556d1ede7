"""The token of a Ray of our own: in the environment while it runs, and not a moment longer."""

from __future__ import annotations

import os

import pytest

from fedrobust.runtime.engines import ray_cluster
from fedrobust.runtime.engines.ray_cluster import LOCAL, LOOPBACK, MODE, TOKEN, Workers

ONE = Workers(1, cpus=1, gpus=0, threads=1)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Ray's start, with what it was asked and found in the environment."""
    started: list[dict[str, object]] = []
    for name in (MODE, TOKEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        ray_cluster, "_init", lambda **asked: started.append({**asked, **os.environ})
    )
    monkeypatch.setattr(ray_cluster, "TOKENS", object())
    monkeypatch.setattr(ray_cluster, "_read_environment", lambda: None)
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_cluster.ray.util, "get_node_ip_address", lambda: LOOPBACK)
    return started


@pytest.mark.parametrize("address", [None, "local"])
def test_a_ray_of_our_own_gets_a_token_and_the_loopback_interface(
    fake: list[dict[str, object]], address: str | None
) -> None:
    tokens = set()
    for _ in range(2):
        ray_cluster.connect(ray_cluster.Cluster(address, 2), ONE)
        assert fake[-1]["_node_ip_address"] == LOOPBACK
        assert fake[-1][MODE] == "token"
        tokens.add(fake[-1][TOKEN])
        ray_cluster.disconnect()
        assert MODE not in os.environ
        assert TOKEN not in os.environ
    assert len(tokens) == 2
    assert all(len(str(one)) == 64 for one in tokens)
    assert not LOCAL["include_dashboard"]


def test_a_mode_that_somebody_chose_stays(
    fake: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODE, "disabled")
    ray_cluster.connect(ray_cluster.Cluster(None, 2), ONE)
    assert (fake[-1][MODE], TOKEN in fake[-1]) == ("disabled", False)
    ray_cluster.disconnect()
    assert os.environ[MODE] == "disabled"


def test_a_ray_without_tokens_starts_all_the_same(
    fake: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "TOKENS", None)
    ray_cluster.connect(ray_cluster.Cluster(None, 2), ONE)
    assert MODE not in fake[-1]


def test_what_fails_to_start_leaves_no_token(
    fake: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(ray_cluster, "_init", fail)
    with pytest.raises(RuntimeError, match="no room"):
        ray_cluster.connect(ray_cluster.Cluster(None, 2), ONE)
    assert TOKEN not in os.environ


def test_a_ray_that_listens_elsewhere_is_said(
    fake: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ray_cluster.ray.util, "get_node_ip_address", lambda: "192.0.2.2")
    ray_cluster.connect(ray_cluster.Cluster(None, 2), ONE)
    assert "listens beyond 127.0.0.1" in capsys.readouterr().err
    ray_cluster.disconnect()
