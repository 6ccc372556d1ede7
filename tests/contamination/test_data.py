"""Contaminations of images and labels: values worked by hand and exact shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.base import Contamination
from fedrobust.contamination.corruptions.gaussian_noise import SEVERITIES, gaussian_noise
from fedrobust.contamination.labels.label_error import label_error
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.contamination.noisy_hospital import clinical_noise
from fedrobust.errors import ConfigError
from fedrobust.utils.seeding import generator

GREY = torch.full((40, 3, 20, 20), 0.5)
RATES = st.floats(0, 1)


def relabelled(contamination: Contamination, labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    images = torch.zeros(len(labels), 3, 1, 1)
    kept, changed = contamination.data(images, labels, generator(seed))
    assert kept is images
    return changed


def test_noise_has_the_asked_mean_and_deviation() -> None:
    # 40 * 3 * 400 = 48000 values: the mean's standard error is .05 / sqrt(48000) = .00023, the
    # deviation's about .00016
    noise = gaussian_noise(mean=0.1, std=0.05).data(GREY, torch.zeros(40), generator(0))[0] - GREY
    assert float(noise.mean()) == pytest.approx(0.1, abs=0.001)
    assert float(noise.std()) == pytest.approx(0.05, abs=0.0008)


def test_noise_is_clipped() -> None:
    images = gaussian_noise(std=1.0).data(GREY, torch.zeros(40), generator(0))[0]
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_severities(severity: int) -> None:
    by_severity = gaussian_noise(severity=severity).data(GREY, torch.zeros(40), generator(0))[0]
    by_std = gaussian_noise(std=SEVERITIES[severity - 1]).data(GREY, torch.zeros(40), generator(0))[
        0
    ]
    assert torch.equal(by_severity, by_std)
    assert SEVERITIES[0] == 0.01  # the poster's noise
    assert list(SEVERITIES) == sorted(SEVERITIES)


def test_symmetric_errors_reach_every_other_class_alike() -> None:
    changed = relabelled(label_error(rate=1.0, num_classes=4), torch.ones(9000, dtype=torch.int64))
    counts = torch.bincount(changed, minlength=4)
    assert counts[1] == 0
    assert torch.allclose(
        counts[[0, 2, 3]].float(), torch.tensor(3000.0), atol=5 * (9000 * 2 / 9) ** 0.5
    )


@settings(max_examples=40)
@given(rate=RATES, n=st.integers(0, 50), seed=st.integers(0, 2**31))
def test_symmetric_errors_hit_an_exact_share(rate: float, n: int, seed: int) -> None:
    labels = torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed))
    changed = relabelled(label_error(rate=rate, num_classes=3), labels, seed)
    assert int((changed != labels).sum()) == round(rate * n)


def test_errors_by_a_confusion_matrix() -> None:
    # class 0 is always right, class 1 becomes 2, class 2 is right in 3 of 4 cases
    matrix = [[1, 0, 0], [0, 0, 1], [0.25, 0, 0.75]]
    labels = torch.arange(3).repeat_interleave(4000)
    changed = relabelled(label_error(rate=None, confusion=matrix, num_classes=3), labels)
    table = torch.bincount(3 * labels + changed, minlength=9).view(3, 3) / 4000
    assert torch.allclose(table, torch.tensor(matrix), atol=5 * (0.25 * 0.75 / 4000) ** 0.5)
    assert torch.equal(table[:2], torch.tensor(matrix)[:2])
    same = relabelled(
        label_error(rate=None, confusion=torch.eye(3).tolist(), num_classes=3), labels
    )
    assert same is labels


@pytest.mark.parametrize(
    "wrong",
    [
        5,
        "abc",
        [[1, 0]],
        [[1, 0], [0.5, 0.6]],
        [[1.5, -0.5], [0, 1]],
        [["a", "b"], [0, 1]],
        [[1, 0], [1]],
        [[float("nan")] * 2] * 2,
    ],
)
def test_a_confusion_matrix_must_be_one(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"contamination\.confusion"):
        label_error(rate=None, confusion=wrong, num_classes=2)


def test_rate_and_confusion_exclude_each_other() -> None:
    for rate, confusion in ((None, None), (0.1, [[1, 0], [0, 1]])):
        with pytest.raises(ConfigError, match="exactly one"):
            label_error(rate=rate, confusion=confusion, num_classes=2)


def test_flips_golden() -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    assert relabelled(label_flip(num_classes=4), labels).tolist() == [1, 2, 3, 0, 1, 2]
    assert relabelled(label_flip(shift=-1, num_classes=4), labels).tolist() == [3, 0, 1, 2, 3, 0]
    assert relabelled(
        label_flip(mode="pair", source=0, target=3, num_classes=4), labels
    ).tolist() == [3, 1, 2, 0, 3, 1]
    assert relabelled(
        label_flip(mode="targeted", source=1, target=2, num_classes=4), labels
    ).tolist() == [0, 2, 2, 3, 0, 2]


@settings(max_examples=40)
@given(
    rate=RATES,
    n=st.integers(0, 50),
    seed=st.integers(0, 2**31),
    mode=st.sampled_from(["shift", "pair", "targeted"]),
)
def test_flips_hit_an_exact_share_of_the_eligible(
    rate: float, n: int, seed: int, mode: str
) -> None:
    labels = torch.randint(4, (n,), generator=torch.Generator().manual_seed(seed))
    pair = {} if mode == "shift" else {"source": 1, "target": 3}
    changed = relabelled(label_flip(mode=mode, rate=rate, num_classes=4, **pair), labels, seed)
    eligible = {
        "shift": labels >= 0,
        "pair": (labels == 1) | (labels == 3),
        "targeted": labels == 1,
    }[mode]
    assert int((changed != labels).sum()) == round(rate * int(eligible.sum()))
    assert torch.equal(changed[~eligible], labels[~eligible])


@pytest.mark.parametrize(
    ("given_settings", "words"),
    [
        ({"mode": "mirror"}, r"contamination\.mode=mirror"),
        ({"shift": 8}, r"contamination\.shift=8"),
        ({"source": 1}, r"contamination\.source=1"),
        ({"mode": "pair", "source": 1}, r"contamination\.target=null"),
        ({"mode": "pair", "source": 1, "target": 1}, r"contamination\.target=1"),
        ({"mode": "targeted", "source": 4, "target": 1}, r"contamination\.source=4"),
    ],
)
def test_flips_that_make_no_sense(given_settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        label_flip(num_classes=4, **given_settings)


def test_backdoor_golden() -> None:
    # 20 pixels * .1 = a square of 2 in the corner; on 30 pixels a board of 3 x 3 cells of one
    # pixel, colour first
    solid = backdoor_patch(rate=1.0, pattern="solid", colour=[1, 0, 0.25], target=2, num_classes=3)
    images, labels = solid.data(GREY, torch.zeros(40, dtype=torch.int64), generator(0))
    assert labels.eq(2).all()
    assert images[0, :, -2:, -2:].reshape(3, 4).tolist() == [[1.0] * 4, [0.0] * 4, [0.25] * 4]
    images[:, :, -2:, -2:] = 0.5
    assert torch.equal(images, GREY)
    board = backdoor_patch(num_classes=3, position="top_left").backdoor
    assert board is not None
    assert board.trigger(torch.full((1, 3, 30, 30), 0.5))[0, 1, :3, :3].tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [1, 0, 1],
    ]


@pytest.mark.parametrize(
    ("position", "row", "column"),
    [
        ("top_left", 0, 0),
        ("top_right", 0, 7),
        ("bottom_left", 9, 0),
        ("bottom_right", 9, 7),
        ("centre", 4, 4),
    ],
)
def test_backdoor_positions(position: str, row: int, column: int) -> None:
    # 10 x 8 pixels, a patch of one pixel: free are 9 rows and 7 columns; the centre rounds 4.5 to 4
    # and 3.5 to 4
    backdoor = backdoor_patch(size=0.01, position=position, num_classes=2).backdoor
    assert backdoor is not None
    assert backdoor.trigger(torch.zeros(1, 3, 10, 8))[0, 0].nonzero().tolist() == [[row, column]]


@settings(max_examples=30)
@given(rate=RATES, n=st.integers(0, 40), seed=st.integers(0, 2**31))
def test_backdoor_hits_an_exact_share(rate: float, n: int, seed: int) -> None:
    images, labels = GREY[:n], torch.ones(n, dtype=torch.int64)
    changed, wanted = backdoor_patch(rate=rate, num_classes=2).data(images, labels, generator(seed))
    with_patch = (changed != images).flatten(1).any(dim=1)
    assert int(with_patch.sum()) == round(rate * n)
    assert torch.equal(wanted == 0, with_patch)


def test_backdoor_colour_must_be_one() -> None:
    for wrong in ("red", [1, 1], [0, 0, 2], 1):
        with pytest.raises(ConfigError, match=r"contamination\.colour"):
            backdoor_patch(colour=wrong, num_classes=2)  # type: ignore[arg-type]


def test_clinical_noise_is_noise_and_errors() -> None:
    labels = torch.arange(40) % 4
    images, changed = clinical_noise(std=0.04, rate=0.25, num_classes=4).data(
        GREY, labels, generator(0)
    )
    assert float((images - GREY).std()) == pytest.approx(0.04, abs=0.001)
    assert int((changed != labels).sum()) == 10
