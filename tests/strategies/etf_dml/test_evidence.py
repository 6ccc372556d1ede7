"""Evidence against clients: numbers by hand, laws, and what no attacker can reach."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from fedrobust.strategies.etf_dml import evidence as ev
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

seeds = st.integers(0, 2**31)


def wide(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def means(**parts: Tensor) -> ev.Evidence:
    """Ten clients that nothing is known against, but for `parts`."""
    plain = dict.fromkeys((one.name for one in fields(ev.Evidence)), torch.zeros(10).double())
    return ev.Evidence(**{**plain, "length_N": torch.ones(10).double(), **parts})


def named(found: Tensor) -> list[int]:
    return [int(n) for n in found.nonzero().reshape(-1)]


def test_centered_cosines_by_hand() -> None:
    # rows (1, 0), (0, 1), (-1, 0), (0, -1): mean 0, all of one length
    rows = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    expected = wide(1, 0, -1, 0, 0, 1, 0, -1, -1, 0, 1, 0, 0, -1, 0, 1).reshape(4, 4)
    torch.testing.assert_close(ev.centered_cosines(rows @ rows.T), expected)
    assert ev.closest_cosines(rows @ rows.T).tolist() == [0, 0, 0, 0]
    # (4, 0) in place of (1, 0): for the mean it is as long as the median update, (1, 0)
    rows[0] *= 4
    torch.testing.assert_close(ev.centered_cosines(rows @ rows.T), expected)


@settings(max_examples=30)
@given(seeds, st.integers(2, 8))
def test_centered_cosines_agree_with_those_of_the_vectors(seed: int, n: int) -> None:
    rows = drawn(seed, n, 6)
    lengths = rows.norm(dim=1)
    rows_short = rows * (lengths.quantile(0.5) / lengths).clamp(max=1)[:, None]
    apart = rows_short - rows_short.mean(dim=0)
    expected = torch.nn.functional.cosine_similarity(apart[:, None], apart[None], dim=2)
    torch.testing.assert_close(ev.centered_cosines(rows @ rows.T), expected, atol=1e-8, rtol=0)


def test_an_honest_majority_is_no_crowd_of_copies() -> None:
    # seven honest updates that are much alike and three reversed ones, which move the mean so far
    # that the honest ones are copies of each other after it is taken off
    common, own = drawn(0, 50), drawn(1, 10, 50)
    rows = 8 * common + own
    rows[7:] *= -1
    gram = rows @ rows.T
    assert ev.centered_cosines(gram)[0, 1] > ev.COPIED_AT
    assert ev.closest_cosines(gram)[:7].tolist() == [0] * 7
    assert ev.closest_cosines(gram)[7:].min() > ev.COPIED_AT


def test_equal_updates_are_their_mean_and_no_copies() -> None:
    rows = drawn(0, 1, 30).expand(10, 30)
    assert ev.closest_cosines(rows @ rows.T).abs().max() == 0
    found = ev.find_evidence(rows @ rows.T, torch.zeros(10, 2, 2), None)
    assert named(ev.find_suspects(found)) == []


def test_hospitals_that_stay_where_they_were_are_not_the_measure_of_length() -> None:
    rows = torch.zeros(10, 30)
    rows[:2] = drawn(0, 2, 30)
    found = ev.find_evidence(rows @ rows.T, torch.zeros(10, 2, 2), None)
    assert found.length_N[2:].tolist() == [0] * 8
    assert named(ev.find_suspects(found)) == []


def test_scores_that_are_not_finite_are_too_long_an_update() -> None:
    rows, scores = drawn(0, 6, 30), drawn(1, 6, 4, 3)
    scores[4, 0, 0] = math.nan
    found = ev.find_evidence(rows @ rows.T, scores, None)
    assert found.length_N[4] == math.inf
    assert 4 in named(ev.find_suspects(found))


def test_direction_by_hand() -> None:
    # cosines of (1, 0) with (0, 1), (-1, 0), (1, 1)/sqrt 2: 0, -1, .7071; their median 0
    rows = wide(1, 0, 0, 1, -1, 0, 1, 1).reshape(4, 2)
    everyone = torch.ones(4, dtype=torch.bool)
    found = ev.direction(rows @ rows.T, everyone)
    # (0, 1): 0, 0, .7071; (-1, 0): -1, 0, -.7071; (1, 1): .7071, .7071, -.7071
    torch.testing.assert_close(found, wide(0, 0, -math.sqrt(0.5), math.sqrt(0.5)))
    # compared with the first two alone, each without itself: (1, 0) with (0, 1) and so on
    found = ev.direction(rows @ rows.T, torch.tensor([True, True, False, False]))
    torch.testing.assert_close(found, wide(0, 0, -0.5, math.sqrt(0.5)))


def test_label_agreement_by_hand() -> None:
    # two images of classes 0 and 1; the members deviate from the median one (all 0) by nothing, by
    # the labels, by half of them, by the opposite, and by a score that all images share
    labels = torch.tensor([0, 1])
    right = torch.tensor([[1.0, 0], [0, 1]])
    shared = torch.tensor([[3.0, -3], [3, -3]])
    scores = torch.stack([torch.zeros(2, 2), right, 0.5 * right, -right, shared])
    median = scores.quantile(0.5, dim=0)  # of 0, 1, .5, -1, 3: .5; of 0, 0, 0, 0, -3: 0 ...
    assert median.tolist() == [[0.5, 0], [0, 0]]
    found = ev.label_agreement(scores, labels)
    # centred labels: ((1, -1), (-1, 1)) / 2. What a member and the median share is taken off:
    # 0 - median = (-.5, 0; 0, 0), centred ((-1, 1), (1, -1)) / 8: correlation -1
    # right - median = (.5, 0; 0, 1), centred ((3, -3), (-3, 3)) / 8: +1
    # half - median = (0, 0; 0, .5), centred ((1, -1), (-1, 1)) / 8: +1
    # -right - median = (-1.5, 0; 0, -1): -1; shared - median = (2.5, -3; 3, -3), centred
    # ((-1, 1), (1, -1)) / 8: -1, as what is shared is gone
    torch.testing.assert_close(found, wide(-1, 1, 1, -1, -1))


def test_label_agreement_without_labels_takes_the_members_own() -> None:
    labels = torch.arange(30) % 3
    truth = torch.eye(3, dtype=torch.float64)[labels]
    honest = truth + 0.3 * drawn(0, 6, 30, 3)
    wrong = torch.eye(3, dtype=torch.float64)[(labels + 1) % 3] + 0.3 * drawn(1, 2, 30, 3)
    scores = torch.cat([honest, wrong]) + drawn(2, 8, 1, 3)  # each with frequent classes of its own
    found = ev.label_agreement(scores)
    torch.testing.assert_close(found, ev.label_agreement(scores, labels))
    assert found[:6].min() > found[6:].max() + 0.3


@settings(max_examples=30)
@given(seeds, st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_label_agreement_is_a_correlation(seed: int, n: int, p: int, k: int) -> None:
    scores = drawn(seed, n, p, k)
    found = ev.label_agreement(scores)
    assert ((found >= -1 - 1e-9) & (found <= 1 + 1e-9)).all()
    # scores that all images, or all classes of an image, share change nothing
    moved = scores + drawn(seed + 1, 1, 1, k) + drawn(seed + 2, 1, p, 1)
    labels = torch.arange(p) % k
    torch.testing.assert_close(
        ev.label_agreement(moved, labels), ev.label_agreement(scores, labels), atol=1e-6, rtol=0
    )


def test_scores_that_are_not_finite_agree_with_nothing() -> None:
    scores = torch.stack([*drawn(0, 4, 5, 3), torch.full((5, 3), math.nan).double()])
    found = ev.label_agreement(scores)
    assert found[4] == 0
    torch.testing.assert_close(found[:4], ev.label_agreement(scores[:4]))
    assert ev.label_agreement(scores[4:]).tolist() == [0]
    assert ev.label_agreement(torch.zeros(3, 0, 2)).tolist() == [0, 0, 0]


def test_evidence_of_one_client_and_of_broken_ones() -> None:
    one = ev.find_evidence(torch.ones(1, 1), torch.zeros(1, 2, 2), None)
    assert [float(getattr(one, part.name)) for part in fields(one)] == [0, 1, 0, 0]
    gram = torch.eye(3) * 4
    gram[2] = gram[:, 2] = torch.inf
    found = ev.find_evidence(gram, torch.zeros(3, 2, 2), None)
    assert found.length_N.tolist() == [1, 1, math.inf]
    assert all(getattr(found, part.name)[:2].isfinite().all() for part in fields(found))
    nobody = ev.find_evidence(torch.zeros(3, 3), torch.zeros(3, 2, 2), None)
    assert nobody.length_N.tolist() == [0, 0, 0]


def test_merge_by_hand() -> None:
    first = ev.Evidence(wide(0.2, 0.4), wide(1, 50), wide(0.1, 0.3), wide(-0.2, 0))
    same, memory = ev.merge_evidence(first, (7, 3), {})
    assert same.direction_N.tolist() == [0.1, 0.3]
    assert same.length_N.tolist() == [1, 10]  # at most 10
    assert memory[7] == pytest.approx((1, 0.2, 1, 0.1, -0.2))
    # client 3 is absent, 5 is new: 7 has (.2 + .4)/2 = .3 and so on
    second = ev.Evidence(wide(0.4, 0), wide(3, 1), wide(0.3, 0.5), wide(0, 0.6))
    found, memory = ev.merge_evidence(second, (7, 5), memory)
    torch.testing.assert_close(found.copies_N, wide(0.3, 0))
    torch.testing.assert_close(found.length_N, wide(2, 1))
    torch.testing.assert_close(found.agreement_N, wide(-0.1, 0.6))
    assert memory[3] == pytest.approx((1, 0.4, 10, 0.3, 0))
    assert memory[7] == pytest.approx((2, 0.6, 4, 0.4, -0.2))


def test_suspects_by_hand() -> None:
    assert named(ev.find_suspects(means())) == []
    assert named(ev.find_suspects(means(copies_N=wide(0.95, 0.95, *[0.1] * 8)))) == [0, 1]
    assert named(ev.find_suspects(means(length_N=wide(*[1] * 9, 3.1)))) == [9]
    # direction: median of 0 .1 ... .9 is .45, those above it lie .05 .15 .25 .35 .45 away, median
    # .25: a standard deviation is .371; agreement alike, so 0 is .45/.371 = 1.21 below, .1 only .94
    tenths = torch.arange(10).double() / 10
    assert named(ev.find_suspects(means(direction_N=tenths, agreement_N=tenths))) == [0]
    # one comparison alone has to be twice as clear: .45/.371/2 < 1
    assert named(ev.find_suspects(means(direction_N=tenths))) == []


def test_copies_do_not_shift_what_others_are_compared_with() -> None:
    # four that send the same look best. Of the other six the median is .25, those above it lie .15
    # .25 .35 away: .1 is (.25 - .1)/(1.4826 * .25) = .40 below; with the four it would be more
    honest = [0.1, 0.1, 0.1, 0.4, 0.5, 0.6]
    parts = wide(*honest, 0.9, 0.9, 0.9, 0.9)
    found = ev.find_suspects(
        means(direction_N=parts, agreement_N=parts, copies_N=wide(*[0.2] * 6, *[1.0] * 4))
    )
    assert named(found) == [6, 7, 8, 9]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_at_most_half_are_named(count: int) -> None:
    everyone = ev.Evidence(*(torch.full((count,), x).double() for x in (1.0, 9.0, -1.0, -1.0)))
    assert len(named(ev.find_suspects(everyone))) == count // 2


@settings(max_examples=30)
@given(seeds, st.integers(1, 12))
def test_nobody_is_named_for_the_order_of_clients(seed: int, n: int) -> None:
    found = ev.Evidence(*(drawn(seed + i, n) for i in range(4)))
    turned = torch.randperm(n, generator=Generator().manual_seed(seed))
    moved = ev.Evidence(*(getattr(found, one.name)[turned] for one in fields(found)))
    original, after = ev.find_suspects(found), ev.find_suspects(moved)
    assert int(original.sum()) == int(after.sum())
    if len(set(found.copies_N.gt(ev.COPIED_AT).tolist())) == 1:
        assert original[turned].tolist() == after.tolist()


def test_three_of_ten_with_wrong_labels_or_signs_are_found() -> None:
    labels = torch.arange(70) % 7
    truth = torch.eye(7, dtype=torch.float64)

    def case(kind: str, seed: int) -> dict[str, Any]:
        common = drawn(seed, 50)
        updates = common + 1.2 * drawn(seed + 1, 10, 50)
        scores = truth[labels] + 0.5 * drawn(seed + 2, 10, 70, 7)
        if kind == "sign":
            updates[:3] *= -1
            scores[:3] -= truth[labels]
        if kind == "labels":
            updates[:3] -= 0.8 * common
            scores[:3] += truth[(labels + 1) % 7] - truth[labels]
        if kind == "copies":
            updates[:3] = updates[0]
        return {"gram_NN": updates @ updates.T, "scores_NPK": scores, "labels_P": None}

    for kind in ("sign", "labels", "copies"):
        memory: dict[int, tuple[float, ...]] = {}
        for round in range(5):
            now = ev.find_evidence(**case(kind, 10 * round))
            found, memory = ev.merge_evidence(now, tuple(range(10)), memory)
        assert set(named(ev.find_suspects(found))) >= {0, 1, 2}
        assert len(named(ev.find_suspects(found))) <= 4
