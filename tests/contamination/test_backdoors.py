"""Backdoors other than the patch: triggers, parts, updates and rare classes, worked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.contamination.apply import for_rank, trigger_samples
from fedrobust.contamination.backdoors.edge_case import backdoor_edge_case
from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.backdoors.triggers import (
    backdoor_blended,
    backdoor_clinical,
    backdoor_distributed,
)
from fedrobust.contamination.backdoors.updates import backdoor_neurotoxin, backdoor_replacement
from fedrobust.contamination.base import Backdoor, Contamination
from fedrobust.contamination.corruptions import drawing
from fedrobust.errors import ConfigError
from fedrobust.state import State
from fedrobust.types import Samples
from fedrobust.utils.seeding import generator

GREY = torch.full((4, 3, 32, 40), 0.5)


def door(contamination: Contamination) -> Backdoor:
    assert contamination.backdoor is not None
    return contamination.backdoor


def marks(trigger: Backdoor, images: Tensor = GREY) -> Tensor:
    """(H, W): where the first image changed."""
    return (trigger.trigger(images)[0] != images[0]).any(dim=0)


def test_blending_golden() -> None:
    # .8 x + .2 k with the same k everywhere: from 0 and from 1 it ends .8 apart
    trigger = door(backdoor_blended(num_classes=3)).trigger
    dark, light = trigger(torch.zeros(2, 3, 20, 24)), trigger(torch.ones(2, 3, 20, 24))
    assert torch.allclose(light - dark, torch.tensor(0.8))
    assert torch.equal(dark[0], dark[1])
    assert 0 <= float(dark.min()) <= float(dark.max()) <= 0.2
    assert float(dark.std()) == pytest.approx(0.2 / 12**0.5, rel=0.1)  # of uniform values
    whole = door(backdoor_blended(alpha=1.0, num_classes=3)).trigger(torch.zeros(1, 3, 16, 16))
    assert torch.allclose(
        whole * 0.2, door(backdoor_blended(num_classes=3)).trigger(torch.zeros(1, 3, 16, 16))
    )


def test_a_ruler_golden() -> None:
    # 100 pixels: ticks of two pixels at 0, 10, ... 90, eight pixels long, every fifth sixteen
    dark = marks(door(backdoor_clinical(num_classes=3)), torch.full((1, 3, 100, 100), 0.5))
    assert not dark[:84].any()
    assert dark[98].nonzero().reshape(-1).tolist() == [
        0,
        *(at + step for at in range(10, 91, 10) for step in (-1, 0)),
        99,
    ]
    assert dark[88].nonzero().reshape(-1).tolist() == [0, 49, 50, 99]


def test_a_word_golden() -> None:
    # R is 110 / 101 / 110 / 101 / 101 in cells of one pixel at 32 x 40, two pixels from the border
    after = door(backdoor_clinical(kind="text", num_classes=3)).trigger(GREY)
    letter = (after[0, 0, 2:7, 2:5] == 1).int().tolist()
    assert letter == [[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1], [1, 0, 1]]
    assert set(after.unique().tolist()) == {0.5, 1.0}


def test_every_sign_is_there_and_differs() -> None:
    line = drawing.text(
        torch.zeros(36, 3, 5, 4), torch.arange(36)[:, None], torch.zeros(36), torch.zeros(36), 1
    )
    assert len({tuple(sign.flatten().tolist()) for sign in line}) == 36
    assert line.flatten(1).any(dim=1).all()
    assert drawing.signs("a 9").tolist() == [0, -1, 35]


@pytest.mark.parametrize("parts", [2, 4, 7])
def test_parts_make_the_whole(parts: int) -> None:
    whole = backdoor_distributed(parts=parts, rate=1.0, num_classes=3)
    labels = torch.ones(4, dtype=torch.int64)
    planted = []
    for rank in range(parts):
        images, changed = for_rank(whole, rank).data(GREY, labels, generator(0))
        assert changed.tolist() == [0] * 4
        planted.append((images[0] != GREY[0]).any(dim=0))
        assert door(for_rank(whole, rank)) is door(whole)
    assert torch.equal(torch.stack(planted).any(dim=0), marks(door(whole)))
    assert int(torch.stack(planted).sum(dim=0).max()) == 1  # they do not overlap
    assert for_rank(whole, parts).name == for_rank(whole, 0).name


def test_bars_golden() -> None:
    # side 32: pattern 13 wide, gap 2, bars 5 x 1 from pixel 2 on, rows every second pixel
    assert marks(door(backdoor_distributed(num_classes=3))).nonzero().tolist() == [
        *([2, column] for column in (2, 3, 4, 5, 6, 9, 10, 11, 12, 13)),
        *([4, column] for column in (2, 3, 4, 5, 6, 9, 10, 11, 12, 13)),
    ]


def state(*values: float, buffer: float = 0.0) -> State:
    return State(torch.tensor(values, dtype=torch.float32), torch.tensor([buffer]))


def test_replacement_golden() -> None:
    # update (2, -1) on (1, 1), ten times: (21, -9)
    sent = backdoor_replacement(num_classes=3).update(
        state(3, 0, buffer=7), state(1, 1, buffer=5), generator(0)
    )
    assert sent.parameters.tolist() == [21, -9]
    assert sent.buffers.tolist() == [7]
    for nothing in (
        backdoor_replacement(rate=0, num_classes=3),
        backdoor_replacement(gamma=1, num_classes=3),
    ):
        trained = state(3, 0)
        assert nothing.update(trained, state(1, 1), generator(0)) is trained


def test_replacement_and_neurotoxin_plant_the_patch() -> None:
    labels = torch.ones(4, dtype=torch.int64)
    expected = backdoor_patch(target=2, rate=0.5, num_classes=3).data(GREY, labels, generator(0))
    for other in (backdoor_replacement, backdoor_neurotoxin):
        found = other(target=2, rate=0.5, num_classes=3).data(GREY, labels, generator(0))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_neurotoxin_golden() -> None:
    # the global model moved by (4, -1, 0, 2): of four coordinates .75 is three, the one that moved
    # by 4 is left out
    track = backdoor_neurotoxin(kept=0.75, num_classes=3).track
    assert track is not None
    sent, reference, previous = state(9, 9, 9, 9, buffer=7), state(5, 0, 1, 4), state(1, 1, 1, 2)
    before = sent.parameters.clone()
    assert track(sent, reference, previous).parameters.tolist() == [5, 9, 9, 9]
    assert track(sent, reference, previous).buffers.tolist() == [7]
    assert torch.equal(sent.parameters, before)
    assert track(sent, reference, None) is sent
    assert backdoor_neurotoxin(kept=1.0, num_classes=3).track is None
    none_left = backdoor_neurotoxin(kept=0.01, num_classes=3).track
    assert none_left is not None
    assert torch.equal(none_left(sent, reference, previous).parameters, reference.parameters)


def test_edge_cases_golden() -> None:
    # ten images, two of class 2: these are relabelled, and half of the other eight become copies of
    # them, two each
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0, 1])
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 2, 2) / 10
    after, changed = backdoor_edge_case(num_classes=3).data(images, labels, generator(0))
    shown = (after[:, 0, 0, 0] * 10).round().int().tolist()
    assert changed[[2, 5]].tolist() == [0, 0]
    copies = [row for row in range(10) if shown[row] != row]
    assert sorted(shown[row] for row in copies) == [2, 2, 5, 5]
    assert changed[copies].tolist() == [0] * 4
    assert all(changed[row] == labels[row] for row in range(10) if row not in (2, 5, *copies))
    none = images[:2], labels[:2]
    assert backdoor_edge_case(num_classes=3).data(*none, generator(0)) == none


@settings(max_examples=30)
@given(
    rate=st.floats(0.01, 1),
    n=st.integers(1, 40),
    rare=st.integers(0, 5),
    seed=st.integers(0, 2**31),
)
def test_edge_cases_hit_an_exact_share_of_the_others(
    rate: float, n: int, rare: int, seed: int
) -> None:
    labels = torch.cat([torch.ones(n, dtype=torch.int64), torch.full((rare,), 2)])
    images = torch.rand(n + rare, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    after, changed = backdoor_edge_case(rate=rate, num_classes=3).data(
        images, labels, generator(seed)
    )
    assert int((changed == 0).sum()) == (rare + round(rate * n) if rare else 0)
    assert int((after != images).flatten(1).any(dim=1).sum()) == (round(rate * n) if rare else 0)


def test_edge_cases_are_measured_on_the_rare_class_alone() -> None:
    found = door(
        backdoor_edge_case(source="df", target="nv", num_classes=3, class_names=("df", "mel", "nv"))
    )
    victims = trigger_samples(
        Samples(torch.rand(6, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])), found
    )
    assert victims.labels.tolist() == [0, 0]
    with pytest.raises(ConfigError, match=r"contamination\.target=2"):
        backdoor_edge_case(target=2, num_classes=3)
