"""Choice of the device."""

from __future__ import annotations

import pytest
import torch

from fedrobust.errors import ConfigError
from fedrobust.utils import devices


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [devices.resolve(word).type for word in ("auto", "cpu", "cuda")] == [
        "cuda",
        "cpu",
        "cuda",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [devices.resolve(word).type for word in ("auto", "cpu")] == ["cpu", "cpu"]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError,
        match=r"^device=cuda: no CUDA device is visible here; use device=cpu or device=auto$",
    ):
        devices.resolve("cuda")


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda one: "Model X")
    assert devices.device_name(torch.device("cuda")) == "cuda (Model X)"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert devices.device_name(torch.device("cpu")) == "cpu (2 threads)"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert devices.device_name(torch.device("cpu")) == "cpu (1 thread)"
