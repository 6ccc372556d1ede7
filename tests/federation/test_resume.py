"""The whole ServerApp over a made-up Flower whose nodes are our ClientApp: a run, the same run
interrupted, and its result after resuming."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file

from fedrobust.errors import ConfigError, RunError
from fedrobust.federation.server_run import federation_resume_command
from fedrobust.reporting.report import read_report
from fedrobust.runtime.simulation import exclusive_folder
from tests.helpers.flower import FakeFlower
from tests.helpers.sites import NODES, serve, sites


class CutError(Exception):
    """The moment at which the server's process is killed."""


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, cut, trained = tmp_path / "whole", tmp_path / "cut", [0]
    serve(sites(tmp_path, lambda _: None), folder=str(whole))

    def kill(message: Message) -> None:
        trained[0] += message.metadata.message_type == "train"
        if trained[0] == 5:  # the second site in the second round
            raise CutError

    with pytest.raises(CutError):
        serve(sites(tmp_path, kill), folder=str(cut))
    assert not (cut / "report.json").exists()
    serve(sites(tmp_path, lambda _: None), resume=str(cut))
    one, other = load_file(whole / "model.safetensors"), load_file(cut / "model.safetensors")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert read_report(cut).evaluations == read_report(whole).evaluations
    assert [client.site for client in read_report(cut).clients] == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="this run is finished"):
        serve(sites(tmp_path, lambda _: None), resume=str(cut))


def test_a_full_disk_ends_in_a_line_that_says_how_to_go_on_over_sites(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    words = (
        r"No space left on device\); once it can, resume with python -m "
        rf"fedrobust\.federation run --resume {tmp_path}$"
    )
    with (
        pytest.raises(RunError, match=words),
        exclusive_folder(tmp_path, federation_resume_command(tmp_path)),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "rounds.jsonl"))


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="already holds files"):
        serve(FakeFlower(dict(NODES), lambda _: []), folder=str(tmp_path / "used"))
