"""Pretrained weights without a network: one line at once."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import timm
from huggingface_hub import constants

from fedrobust.errors import ConfigError
from fedrobust.learning import hub
from fedrobust.learning.classifier import timm_model
from fedrobust.utils.seeding import generator


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Addresses to which a connection was tried; none can be made."""
    found: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        assert timeout <= hub.PATIENCE_SECONDS
        found.append(address)
        raise OSError(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_without_a_network_the_hub_is_not_asked_again_and_again(
    asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **keywords: Any) -> None:
        assert keywords["pretrained"]
        assert constants.HF_HUB_OFFLINE
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr(timm, "create_model", load)
    model = timm_model("resnet18", head="linear", pretrained=True)
    with pytest.raises(ConfigError) as caught:
        model.build(3, None, generator(0, "init"))
    assert str(caught.value) == (
        "model.pretrained=true: no weights for resnet18 (no connection to huggingface.co: "
        "Temporary failure in name resolution; none in its cache); use model.pretrained=false, "
        "or model.checkpoint=<file.safetensors>"
    )
    assert asked == [("huggingface.co", 443)]
    assert not constants.HF_HUB_OFFLINE


def test_a_proxy_is_asked_in_place_of_the_hub(
    asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    with hub.prefer_cache_if_offline() as reason:
        assert "proxy.example" in reason
    assert asked == [("proxy.example", 3128)]


def test_with_a_network_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket.socketpair()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: near)
    with hub.prefer_cache_if_offline() as reason:
        assert (reason, constants.HF_HUB_OFFLINE) == ("", False)
    far.close()
