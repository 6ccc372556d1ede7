"""Partitioners of Flower Datasets on our labels and sites."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrobust.data import Dataset
from fedrobust.data.flower_partitioners import NAMES
from fedrobust.data.partition import class_table, flwr_datasets
from fedrobust.errors import ConfigError
from fedrobust.utils.seeding import generator
from tests.helpers.datasets import one_pixel_dataset

CLIENTS, CLASSES, SITES = 4, 5, 2


def made_up(per_cell: int = 8) -> Dataset:
    """`per_cell` images of every (split, class, site), of which two show one patient."""
    cells = torch.cartesian_prod(
        torch.arange(3), torch.arange(CLASSES), torch.arange(SITES), torch.arange(per_cell)
    )
    groups = torch.arange(len(cells)) // 2
    return one_pixel_dataset(cells[:, 1], splits=cells[:, 0], sites=cells[:, 2], groups=groups)


DATA = made_up()
# what each partitioner asks for; a row of it is one of the 40 patients of the training images
OPTIONS: dict[str, dict[str, Any]] = {
    "ContinuousPartitioner": {"strictness": 0.7},
    "DirichletPartitioner": {"alpha": 0.7, "min_partition_size": 2},
    "DistributionPartitioner": {
        "distribution_array": np.full((CLASSES, CLASSES), 2.0).tolist(),
        "num_unique_labels_per_partition": CLASSES,
        "preassigned_num_samples_per_label": 0,
    },
    "GroupedNaturalIdPartitioner": {"group_size": 1},
    "InnerDirichletPartitioner": {"partition_sizes": [5, 10, 10, 15], "alpha": 1.0},
    "PathologicalPartitioner": {
        "num_classes_per_partition": 2,
        "class_assignment_mode": "deterministic",
    },
    "ShardPartitioner": {"num_shards_per_partition": 2},
    "SizePartitioner": {"partition_sizes": [5, 10, 10, 15]},
}
CLIENTS_OF = {
    "DistributionPartitioner": CLASSES,
    "GroupedNaturalIdPartitioner": SITES,
    "NaturalIdPartitioner": SITES,
}


def share(
    name: str, options: dict[str, Any], clients: int = CLIENTS, seed: int = 0, data: Dataset = DATA
) -> list[Tensor]:
    rule = flwr_datasets(name=name, options=options)
    return rule(data, torch.arange(len(data)), clients, generator(seed, "test"))


@pytest.mark.parametrize("name", NAMES)
def test_every_partitioner_gives_each_image_to_one_client_and_keeps_patients(name: str) -> None:
    clients = CLIENTS_OF.get(name, CLIENTS)
    parts = share(name, OPTIONS.get(name, {}), clients)
    assert torch.cat(parts).sort().values.tolist() == list(range(len(DATA)))
    of_client = [set(DATA.groups[part].tolist()) for part in parts]
    assert sum(len(groups) for groups in of_client) == len(set(DATA.groups.tolist()))
    for split in range(3):
        assert (class_table(DATA, parts, split).sum(1) > 0).all()


def test_pathological_classes_hold_in_all_three_splits() -> None:
    parts = share("PathologicalPartitioner", OPTIONS["PathologicalPartitioner"])
    for split in range(3):
        there = class_table(DATA, parts, split) > 0
        # client i has the classes i and i + 1
        assert [row.nonzero().reshape(-1).tolist() for row in there] == [
            [client, client + 1] for client in range(CLIENTS)
        ]


def test_sizes_are_those_of_the_partitioner() -> None:
    parts = share("SizePartitioner", {"partition_sizes": [5, 10, 10, 15]})
    assert class_table(DATA, parts, 0).sum(1).tolist() == [10, 20, 20, 30]  # two images a patient


def test_natural_ids_are_the_sites() -> None:
    parts = share("NaturalIdPartitioner", {}, SITES)
    assert [DATA.sites[part].unique().tolist() for part in parts] == [[0], [1]]


@pytest.mark.parametrize("name", ["DirichletPartitioner", "IidPartitioner"])
def test_equal_seeds_give_equal_parts(name: str) -> None:
    options = OPTIONS.get(name, {})
    first, again = share(name, options), share(name, options)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    other = share(name, options, seed=1)
    assert any(not torch.equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("os", {}, r"partition\.name=os: must be one of ContinuousPartitioner, Dirichlet"),
        ("VerticalEvenPartitioner", {}, "must be one of"),
        ("DirichletPartitioner", {}, r"options\.alpha: is missing; set partition\.options\.alpha"),
        ("DirichletPartitioner", {"alphas": 1}, "alphas=1: unknown setting; did you mean alpha?"),
        (
            "DirichletPartitioner",
            {"alpha": -1},
            "Alpha values should be strictly greater than zero",
        ),
        ("IidPartitioner", {"num_partitions": 3}, "comes from num_clients; leave it out and set"),
        ("PathologicalPartitioner", {"num_classes_per_partition": 9}, "is greater than the number"),
        (
            "PathologicalPartitioner",
            {"num_classes_per_partition": 1, "class_assignment_mode": "deterministic"},
            r"leaves 16 of 80 train images to no client \(of class 4\); change partition\.options",
        ),
        ("NaturalIdPartitioner", {}, "makes 2 parts for num_clients=4; set num_clients=2 or"),
        ("NaturalIdPartitioner", {"partition_by": "hospital"}, "must be one of label, site"),
        ("SizePartitioner", {"partition_sizes": [10, 10, 10, 5]}, "leaves 10 of 80 train images"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        share(name, options)
    assert "\n" not in str(caught.value)


def test_too_small_parts_are_refused() -> None:
    rule = flwr_datasets(name="SizePartitioner", options={"partition_sizes": [5, 35]}, min_size=12)
    with pytest.raises(ConfigError, match=r"client 0 10 train images, and partition\.min_size=12"):
        rule(DATA, torch.arange(len(DATA)), 2, generator(0, "test"))


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    with pytest.raises(ConfigError, match=r'pip install "fedrobust\[partitioners\]"'):
        share("IidPartitioner", {})
