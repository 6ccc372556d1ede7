"""The report's section on what was run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.setup import describe_setup
from tests.helpers import federations


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return federations.build_experiment("poisoned=[1]", "partition=dirichlet")


def test_it_names_data_model_partition_and_contamination(experiment: Experiment) -> None:
    found = describe_setup(experiment)
    assert (found.data, found.image_size, len(found.classes)) == ("synthetic", 16, 7)
    assert sum(found.images) == 300
    assert found.client_images is not None
    assert [sum(row) for row in found.client_images] == [len(part) for part in experiment.parts]
    assert found.model.name == "resnet18"
    assert dict(found.model.settings) == {
        "head": "etf",
        "dimension": 8,
        "pretrained": False,
        "freeze": "none",
    }
    assert (found.partition.name, found.partition.settings["alpha"]) == ("dirichlet", 0.5)
    assert found.attack is not None
    assert found.attack.name == "label_flip"
    assert found.noise is None
    assert found.purifier is None
    assert found.corruption.name == "gaussian_noise"


def test_no_setting_names_a_place_on_this_machine(experiment: Experiment) -> None:
    group = {**experiment.config["contamination"], "root": "/secret/place"}
    config = {**experiment.config, "contamination": group}
    found = describe_setup(replace(experiment, config=config))
    assert "secret" not in found.model_dump_json()
