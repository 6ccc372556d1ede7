"""Joining contaminations and applying them to samples."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from fedrobust.contamination.apply import chain, contaminate, trigger_samples
from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.base import CLEAN, Backdoor, Contamination, keep_data, keep_update
from fedrobust.contamination.corruptions.gaussian_noise import gaussian_noise
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.contamination.updates.independent import sign_flip
from fedrobust.state import State
from fedrobust.types import Samples
from fedrobust.utils.seeding import generator

SAMPLES = Samples(
    torch.full((6, 3, 4, 4), 100, dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])
)


def half(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return images / 2, labels


def brighter(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return images + 0.25, labels


def test_clean_keeps_the_very_same_object() -> None:
    assert contaminate(SAMPLES, CLEAN, generator(0)) is SAMPLES
    assert contaminate(SAMPLES, sign_flip(), generator(0)) is SAMPLES


def test_wrong_labels_alone_keep_the_stored_bytes() -> None:
    changed = contaminate(SAMPLES, label_flip(num_classes=3), generator(0))
    assert changed.images is SAMPLES.images
    assert changed.labels.tolist() == [1, 2, 0, 1, 2, 0]


def test_changed_images_are_unit_floats() -> None:
    changed = contaminate(SAMPLES, gaussian_noise(std=0.1), generator(0))
    assert changed.images.dtype == torch.float32
    assert changed.labels is SAMPLES.labels
    assert float(changed.images.mean()) == pytest.approx(100 / 255, abs=0.05)


def test_steps_follow_one_another() -> None:
    # x / 2 + 1/4, not (x + 1/4) / 2
    joined = chain(
        "joined", Contamination("half", data=half), Contamination("brighter", data=brighter)
    )
    assert joined.name == "joined"
    assert joined.data(torch.ones(1), torch.zeros(1), generator(0))[0].item() == 0.75


def test_updates_are_joined_and_the_backdoor_survives() -> None:
    trained, reference = (
        State(torch.tensor([3.0]), torch.zeros(0)),
        State(torch.tensor([1.0]), torch.zeros(0)),
    )
    door = backdoor_patch(num_classes=3)
    joined = chain("joined", door, sign_flip(scale=2.0), sign_flip(scale=3.0))
    # 2 -> -4 -> 12, plus 1
    assert joined.update(trained, reference, generator(0)).parameters.tolist() == [13.0]
    assert joined.backdoor is door.backdoor


def test_nothing_joined_is_the_identity() -> None:
    nothing = chain("nothing")
    assert (nothing.data, nothing.update, nothing.backdoor) == (keep_data, keep_update, None)
    only_update = chain("one", sign_flip())
    assert only_update.data is keep_data


def test_two_backdoors_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="only one"):
        chain("two", backdoor_patch(num_classes=3), backdoor_patch(target=1, num_classes=3))


def test_triggered_takes_all_but_the_target() -> None:
    victims = trigger_samples(SAMPLES, Backdoor(lambda images: images * 0, target=1))
    assert victims.labels.tolist() == [0, 2, 0, 2]
    assert victims.images.dtype == torch.float32
    assert not victims.images.any()
