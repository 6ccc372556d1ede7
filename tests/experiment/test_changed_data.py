"""A second run in one process, after the files of its data set have changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedrobust.experiment import build
from fedrobust.experiment.compose import compose
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.features import ModelInputs
from fedrobust.runtime.client import handlers
from fedrobust.types import Shard
from tests.helpers.datasets import picture

COLOURS = {"melanoma": (10, 10, 200), "nevus": (200, 10, 10)}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Of a run on twenty pictures of each class, shared out among two clients."""
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    for name, colour in COLOURS.items():
        for number in range(20):
            picture(tmp_path / "images" / name / f"{number:02}.png", colour)
    return compose(
        "experiment=smoke",
        "strategy=fedavg",
        "data=image_folder",
        f"data.root={tmp_path / 'images'}",
        "data.size=8",
        "num_clients=2",
        "poisoned=0",
        "server.root_per_class=0",
        "server.proxy_images=0",
        "server.batchnorm=mean",
    )


def paint(folder: Path) -> None:
    for number in range(20):
        picture(folder / "images" / "nevus" / f"{number:02}.png", (0, 99, 0))


def shard(experiment: Experiment) -> Shard:
    """What client 0 trains on."""
    return handlers._shard(ModelInputs(experiment, experiment.new_model()), 0)


def test_the_data_are_read_again_only_after_a_change(
    config: dict[str, object], tmp_path: Path
) -> None:
    first = build.build_experiment(config)
    assert build.build_experiment(config).dataset is first.dataset
    paint(tmp_path)
    second = build.build_experiment(config)
    assert second.dataset.digest != first.dataset.digest
    assert (second.text, second.seed) == (first.text, first.seed)
    # an added file as well, though the others stay
    picture(tmp_path / "images" / "nevus" / "more.png")
    assert len(build.build_experiment(config).dataset) == len(second.dataset) + 1


def test_a_hospital_s_images_are_those_of_its_run(
    config: dict[str, object], tmp_path: Path
) -> None:
    """Both runs have the very same configuration, and with it the same text."""
    first = build.build_experiment(config)
    before = shard(first)
    assert shard(build.from_text(first.text)) is before
    paint(tmp_path)
    second = build.build_experiment(config)
    after = shard(build.from_text(second.text))
    assert not torch.equal(after.train.images, before.train.images)


def test_a_node_whose_files_change_between_two_messages(
    config: dict[str, object], tmp_path: Path
) -> None:
    text = build.build_experiment(config).text
    found = build.load_data(config["data"])
    kept = build.from_text(text, found)
    assert build.from_text(text, build.load_data(config["data"])) is kept
    paint(tmp_path)
    now = build.load_data(config["data"])
    assert now is not found
    assert build.from_text(text, now).dataset is now


def test_what_a_process_kept_of_runs_can_be_forgotten(config: dict[str, object]) -> None:
    study = build.build_experiment(config)
    kept = shard(study)
    assert shard(study) is kept
    handlers.forget_runs()
    assert shard(study) is not kept
    again = build.from_text(study.text)
    assert again is not study
    assert again.dataset is study.dataset
