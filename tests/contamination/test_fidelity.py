"""Every attack does what it is for: it breaks plain `fedavg` by a stated margin, and at strength 0
the run is the clean run.

Labels and backdoors: five clients of 80 images, three of them poisoned (all five suffer honest
noise), eight rounds, four classes. Corruptions: a model learnt by clean clients meets corrupted
test images.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from fedrobust.contamination.backdoors.edge_case import backdoor_edge_case
from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.backdoors.triggers import (
    backdoor_blended,
    backdoor_clinical,
    backdoor_distributed,
)
from fedrobust.contamination.backdoors.updates import backdoor_neurotoxin, backdoor_replacement
from fedrobust.contamination.base import CLEAN, Contamination
from fedrobust.contamination.corruptions.gaussian_noise import gaussian_noise
from fedrobust.contamination.labels.label_error import label_error
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.contamination.labels.label_noise import label_instance, label_pair
from fedrobust.contamination.mixture import mixture
from fedrobust.types import Samples
from fedrobust.utils.seeding import generator
from tests.contamination.test_corruptions import GRADED
from tests.helpers import image_federations

K = {"num_classes": image_federations.CLASSES}
SWAPS = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]

# Contamination, poisoned clients of five, points of accuracy that it costs at least.
LABELS = {
    "shift": (label_flip(**K), 3, 60),
    "swap": (label_flip(mode="pair", source=0, target=1, **K), 3, 20),
    "targeted": (label_flip(mode="targeted", source=0, target=1, **K), 3, 20),
    "symmetric": (label_error(rate=0.8, **K), 5, 60),
    "confusion": (label_error(rate=None, confusion=SWAPS, **K), 3, 60),
    "pair": (label_pair(rate=0.6, **K), 5, 50),
    "instance": (label_instance(rate=0.8, **K), 5, 60),
    "mixture": (
        mixture(contaminations=[label_pair(rate=1.0, **K), label_flip(shift=2, **K)]),
        4,
        40,
    ),
}
# Backdoor, and the points by which more of its victims are taken for the target than under the
# clean model.
BACKDOORS = {
    "patch": (backdoor_patch(**K), 60),
    "blended": (backdoor_blended(**K), 60),
    "ruler": (backdoor_clinical(**K), 60),
    "text": (backdoor_clinical(kind="text", **K), 60),
    "distributed": (backdoor_distributed(parts=3, size=0.8, **K), 60),
    "replacement": (backdoor_replacement(gamma=5 / 3, **K), 60),
    "neurotoxin": (backdoor_neurotoxin(**K), 40),
}
NOTHING = {
    "label_flip": label_flip(rate=0, **K),
    "label_error": label_error(rate=0, **K),
    "label_pair": label_pair(rate=0, **K),
    "label_instance": label_instance(rate=0, **K),
    "patch": backdoor_patch(rate=0, **K),
    "blended": backdoor_blended(rate=0, **K),
    "clinical": backdoor_clinical(rate=0, **K),
    "distributed": backdoor_distributed(rate=0, parts=3, size=0.8, **K),
    "replacement": backdoor_replacement(rate=0, **K),
    "neurotoxin": backdoor_neurotoxin(rate=0, **K),
    "edge_case": backdoor_edge_case(rate=0, **K),
}


@cache
def clean(rare: bool = False) -> float:
    return image_federations.federate(rare=rare)[0]


def test_without_an_attack_fedavg_is_right() -> None:
    assert clean() >= 98
    assert clean(rare=True) >= 98


@pytest.mark.parametrize("name", LABELS)
def test_wrong_labels_cost_accuracy(name: str) -> None:
    contamination, poisoned, points = LABELS[name]
    assert image_federations.federate(contamination, poisoned)[0] <= clean() - points


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKDOORS)
def test_a_backdoor_opens_and_the_clean_images_hide_it(name: str) -> None:
    contamination, points = BACKDOORS[name]
    accuracy, success = image_federations.federate(contamination)
    assert success >= shut(name) + points
    assert accuracy >= clean() - 5


def shut(name: str) -> float:
    """The same backdoor's success under the clean model."""
    without = {
        "ruler": backdoor_clinical(rate=0, **K),
        "text": backdoor_clinical(rate=0, kind="text", **K),
    }
    return image_federations.federate(without[name] if name in without else NOTHING[name])[1]


def test_replacement_gets_one_attacker_through_where_the_patch_alone_fails() -> None:
    # gamma = clients / attackers = 5
    assert (
        image_federations.federate(backdoor_replacement(gamma=5, **K), poisoned=1)[1]
        >= image_federations.federate(backdoor_patch(**K), poisoned=1)[1] + 40
    )


def test_the_parts_of_a_distributed_backdoor_open_it_together() -> None:
    # one attacker with one bar of three does not
    door = backdoor_distributed(parts=3, size=0.8, **K)
    assert (
        image_federations.federate(door, poisoned=1)[1] <= image_federations.federate(door)[1] - 40
    )


def test_an_edge_case_takes_a_rare_class_and_nothing_else() -> None:
    # one in twenty images; the other three classes are three quarters of the test images
    accuracy, success = image_federations.federate(backdoor_edge_case(**K), rare=True)
    nothing = image_federations.federate(NOTHING["edge_case"], rare=True)
    assert success >= nothing[1] + 60
    assert accuracy >= 72


@pytest.mark.parametrize("name", NOTHING)
def test_at_strength_zero_the_run_is_the_clean_run(name: str) -> None:
    accuracy, success = image_federations.federate(NOTHING[name])
    assert accuracy == clean()
    assert success <= 10


# these hide soft pictures, but the strength of stripes is seen beside them
FAINT = {"ruler", "bubbles"}


def corrupted(contamination: Contamination, striped: bool) -> float:
    net, fresh = (
        image_federations.clean_model(striped),
        image_federations.stripes(500, 400)
        if striped
        else image_federations.blots(500, 400, faint=True),
    )
    images, labels = contamination.data(fresh.images, fresh.labels, generator(0))
    return image_federations.right(net, Samples(images, labels))


@pytest.mark.slow
@pytest.mark.parametrize("striped", [True, False])
def test_the_clean_models_are_right(striped: bool) -> None:
    assert corrupted(CLEAN, striped) >= 98


@pytest.mark.parametrize("name", [*GRADED, "gaussian_noise"])
def test_a_corruption_of_severity_five_costs_accuracy(name: str) -> None:
    make, striped = GRADED.get(name, gaussian_noise), name not in FAINT
    assert corrupted(make(severity=5), striped) <= corrupted(CLEAN, striped) - 15


@pytest.mark.parametrize("name", GRADED)
def test_a_corruption_of_no_image_is_none(name: str) -> None:
    fresh = image_federations.stripes(500, 400)
    assert torch.equal(
        GRADED[name](severity=5, rate=0).data(fresh.images, fresh.labels, generator(0))[0],
        fresh.images,
    )
