"""Models on disk: whole or not at all, and only for the model they came from."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from fedrobust.errors import DataError
from fedrobust.learning.model_files import load_state, save_state
from fedrobust.state import Layout, State, read
from tests.helpers import models


def test_a_state_comes_back_bit_by_bit_with_its_notes(tmp_path: Path) -> None:
    net = models.resnet()
    layout, path = Layout.of(net), tmp_path / "deep" / "model.safetensors"
    state = read(net, layout)
    save_state(path, layout, state, net.anchors, {"class_names": "a|b"})
    loaded, notes = load_state(path, layout)
    assert torch.equal(loaded.parameters, state.parameters)
    assert torch.equal(loaded.buffers, state.buffers)
    assert notes == {"class_names": "a|b"}
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("etf.anchors"), net.anchors)
        assert torch.equal(
            file.get_tensor("backbone.conv1.weight"), net.state_dict()["backbone.conv1.weight"]
        )
    assert [one.name for one in path.parent.iterdir()] == ["model.safetensors"]


def test_without_buffers_and_without_notes(tmp_path: Path) -> None:
    net = nn.Linear(2, 3)
    save_state(tmp_path / "m", Layout.of(net), read(net, Layout.of(net)))
    loaded, notes = load_state(tmp_path / "m", Layout.of(net))
    assert (loaded.parameters.shape, loaded.buffers.shape, notes) == ((9,), (0,), {})


@pytest.mark.parametrize("other", ["fewer", "more", "another shape"])
def test_another_model_s_file_is_refused(tmp_path: Path, other: str) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    reader = {
        "fewer": nn.Sequential(nn.Linear(2, 2)),
        "more": nn.Sequential(*[nn.Linear(2, 2) for _ in range(3)]),
    }.get(other, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4)))
    save_state(tmp_path / "m", Layout.of(net), read(net, Layout.of(net)))
    with pytest.raises(DataError, match=r"m: holds .* it belongs to another model") as error:
        load_state(tmp_path / "m", Layout.of(reader))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "text", "header"])
def test_a_damaged_file_ends_in_one_line_that_names_it(tmp_path: Path, damage: str) -> None:
    net, path = nn.Linear(2, 3), tmp_path / "model.safetensors"
    save_state(path, Layout.of(net), read(net, Layout.of(net)))
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "half": content[: len(content) - 4],
                "text": b"hello",
                "header": b"\xff" * 8 + content[8:],
            }[damage]
        )
    with pytest.raises(
        DataError,
        match=r"model\.safetensors: not a readable checkpoint \(.*\); delete it and run again",
    ) as error:
        load_state(path, Layout.of(net))
    assert "\n" not in str(error.value)


def test_an_old_file_survives_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, path = nn.Linear(2, 3), tmp_path / "model.safetensors"
    layout, state = Layout.of(net), read(net, Layout.of(net))
    save_state(path, layout, state)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(path, layout, State(state.parameters + 1, state.buffers))
    monkeypatch.undo()
    assert torch.equal(load_state(path, layout)[0].parameters, state.parameters)
    # no partial file is left
    assert [one.name for one in tmp_path.iterdir()] == ["model.safetensors"]


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    net = models.resnet()
    for name in ("one", "two"):
        save_state(
            tmp_path / name,
            Layout.of(net),
            read(net, Layout.of(net)),
            net.anchors,
            {"b": "1", "a": "2"},
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
