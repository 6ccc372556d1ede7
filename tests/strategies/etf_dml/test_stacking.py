"""Stacking and what it starts from: numbers by hand, other ways to the same minimum, and what no
attacker gains."""

from __future__ import annotations

import math

import pytest
import torch
from fedrobust.strategies.etf_dml import trust
from fedrobust.strategies.etf_dml.stacking import stack, stack_classes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import rel_entr
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy


def wide(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def drawn(seed: int, n: int = 4, images: int = 12, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Scores in [-1, 1] and labels."""
    generator = Generator().manual_seed(seed)
    return 2 * torch.rand(n, images, classes, generator=generator) - 1, torch.randint(
        classes, (images,), generator=generator
    )


def cost(
    w: Tensor, scores: Tensor, labels: Tensor, *, scale: float, prior: Tensor, strength: float
) -> float:
    """The objective, written down once more."""
    fit = cross_entropy(scale * torch.einsum("n,nrk->rk", w, scores.double()), labels)
    return float(fit) + strength * float(rel_entr(w.numpy(), prior.numpy()).sum())


def test_two_members_by_hand() -> None:
    # one image of class 0, K = 2, scores (1, -1) and (-1, 1): margin 2 (w - (1 - w)) = 2 (2 w - 1),
    # CE = log(1 + e^(-2 (2 w - 1))). strength 1, prior (1/2, 1/2): d/dw = -4 / (1 + e^(2 (2 w -
    # 1))) + log(w / (1 - w)) = 0. At w = .8: log 4 = 1.386, 4 / (1 + e^1.2) = .926; at w = .7: .847
    # and 4 / (1 + e^.8) = 1.240; the root by bisection:
    low, high = 0.7, 0.8
    for _ in range(60):
        w = (low + high) / 2
        slope = math.log(w / (1 - w)) - 4 / (1 + math.exp(2 * (2 * w - 1)))
        low, high = (w, high) if slope < 0 else (low, w)
    scores = torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]])
    torch.testing.assert_close(
        stack(scores, torch.tensor([0]), 1.0, wide(0.5, 0.5), 1.0),
        wide(low, 1 - low),
        atol=1e-6,
        rtol=0,
    )


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([0.03, 0.3, 3.0]), st.sampled_from([1.0, 16.0]))
@example(1_135_257_685, 0.03, 16.0)  # one share goes to 0
@example(308, 0.03, 1.0)  # the first step is too long
def test_another_solver_finds_nothing_better(seed: int, strength: float, scale: float) -> None:
    scores, labels = drawn(seed)
    prior = wide(0.4, 0.3, 0.2, 0.1)
    w = stack(scores, labels, scale, prior, strength)
    found = minimize(
        lambda x: cost(
            torch.as_tensor(x), scores, labels, scale=scale, prior=prior, strength=strength
        ),
        prior.numpy(),
        method="SLSQP",
        bounds=[(1e-9, 1)] * 4,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        options={"ftol": 1e-10},
    )
    assert w.sum() == pytest.approx(1)
    assert cost(w, scores, labels, scale=scale, prior=prior, strength=strength) <= found.fun + 3e-7


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_laws_of_stacking(seed: int) -> None:
    scores, labels = drawn(seed)
    prior = wide(0.4, 0.3, 0.2, 0.1)
    w = stack(scores, labels, 4.0, prior, 0.3)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        stack(scores[order], labels, 4.0, prior[order], 0.3), w[order], atol=1e-5, rtol=0
    )
    # equal members keep their prior, and so does everybody under a strong pull
    torch.testing.assert_close(
        stack(scores[:1].expand(4, -1, -1), labels, 4.0, prior, 0.3), prior, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(stack(scores, labels, 4.0, prior, 1e6), prior, atol=1e-5, rtol=0)
    # an excluded client is as if absent, for any scores of its own
    broken = torch.cat([scores, torch.full((1, *scores.shape[1:]), torch.nan)])
    torch.testing.assert_close(
        stack(broken, labels, 4.0, torch.cat([prior, wide(0)]), 0.3), torch.cat([w, wide(0)])
    )


def test_the_one_who_is_right_gains_and_the_one_who_is_wrong_loses() -> None:
    labels = torch.arange(6) % 3
    right = torch.nn.functional.one_hot(labels, 3).float()
    w = stack(torch.stack([right, torch.zeros(6, 3), -right]), labels, 8.0, wide(1, 1, 1) / 3, 0.3)
    assert w[0] > 1 / 3 > w[2]
    assert w[0] > w[1] > w[2]


def test_two_halves_of_the_classes_are_both_needed() -> None:
    # each knows two of four classes; alone each would be wrong on half of the images
    labels = torch.arange(8) % 4
    right = torch.nn.functional.one_hot(labels, 4).float()
    first, second = right * (labels < 2)[:, None], right * (labels >= 2)[:, None]
    torch.testing.assert_close(
        stack(torch.stack([first, second]), labels, 8.0, wide(0.5, 0.5), 0.1),
        wide(0.5, 0.5),
        atol=1e-5,
        rtol=0,
    )


def class_cost(
    w: Tensor, scores: Tensor, labels: Tensor, *, scale: float, prior: Tensor, strength: float
) -> float:
    """The objective with shares in every class, written down once more."""
    fit = cross_entropy(scale * torch.einsum("nk,nrk->rk", w, scores.double()), labels)
    pulls = [rel_entr(column.numpy(), prior.numpy()).sum() for column in w.T]
    return float(fit) + strength * sum(map(float, pulls)) / len(pulls)


def test_shares_in_a_class_by_hand() -> None:
    # one image of class 0, K = 2, scores (1, 0) and (-1, 0): only the shares in class 0 matter, the
    # score 2 w - 1 against 0: d/dw of log(1 + e^-(2 w - 1)) + 1/2 KL(w | 1/2) = -2 / (1 + e^(2 w -
    # 1)) + 1/2 log(w / (1 - w)) = 0
    low, high = 0.5, 0.99
    for _ in range(60):
        w = (low + high) / 2
        slope = 0.5 * math.log(w / (1 - w)) - 2 / (1 + math.exp(2 * w - 1))
        low, high = (w, high) if slope < 0 else (low, w)
    scores = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    found = stack_classes(scores, torch.tensor([0]), 1.0, wide(0.5, 0.5), 1.0)
    expected = torch.tensor([[low, 0.5], [1 - low, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_each_speaks_for_the_classes_that_it_knows() -> None:
    # one knows classes 0 and 1, the other 2 and 3; of the rest each says the opposite
    labels = torch.arange(8) % 4
    right = torch.nn.functional.one_hot(labels, 4).float()
    known = torch.tensor([1.0, 1, -1, -1])
    found = stack_classes(
        torch.stack([right * known, -right * known]), labels, 8.0, wide(0.5, 0.5), 0.1
    )
    assert (found[0, :2] > 0.8).all()
    assert (found[1, 2:] > 0.8).all()


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0]))
def test_laws_of_shares_in_every_class(seed: int, strength: float) -> None:
    scores, labels = drawn(seed)
    prior = wide(0.4, 0.3, 0.2, 0.1)
    w = stack_classes(scores, labels, 4.0, prior, strength)
    torch.testing.assert_close(w.sum(dim=0), torch.ones(3, dtype=torch.float64))
    terms = {"scale": 4.0, "prior": prior, "strength": strength}
    least = class_cost(w, scores, labels, **terms)
    same = stack(scores, labels, 4.0, prior, strength)[:, None].expand(-1, 3)
    assert least <= class_cost(same, scores, labels, **terms) + 1e-6
    for trial in torch.randn(5, 4, 3, generator=Generator().manual_seed(seed)).double():
        nearby = torch.softmax(w.clamp(min=1e-12).log() + 0.1 * trial, dim=0)
        assert least <= class_cost(nearby, scores, labels, **terms) + 1e-6
    torch.testing.assert_close(
        stack_classes(scores[:1].expand(4, -1, -1), labels, 4.0, prior, strength),
        prior[:, None].expand(-1, 3),
        atol=1e-5,
        rtol=0,
    )


def test_nobody_and_one() -> None:
    scores, labels = drawn(0, n=2)
    assert stack(scores, labels, 1.0, wide(0, 0), 0.3).tolist() == [0, 0]
    assert stack(scores, labels, 1.0, wide(0, 0.7), 0.3).tolist() == [0, 1]
    assert stack_classes(scores, labels, 1.0, wide(0, 0), 0.3).tolist() == [[0] * 3] * 2
    assert stack_classes(scores, labels, 1.0, wide(0, 0.7), 0.3).tolist() == [[0] * 3, [1] * 3]


def test_copies_by_hand() -> None:
    # lengths 3, 3, 0, 6: the median one is 3, and -6 counts as -3. 3, 3, 0, -3 less their mean .75:
    # cosines 1 between the first two and between the last two, else -1
    rows = wide(3, 3, 0, -6)[:, None]
    torch.testing.assert_close(trust.similar_update_counts(rows @ rows.T), wide(2, 2, 2, 2))
    # 3, 3, 0, -3, -3: their mean is the third, which is like none
    rows = wide(3, 3, 0, -3, -3)[:, None]
    torch.testing.assert_close(trust.similar_update_counts(rows @ rows.T), wide(2, 2, 1, 2, 2))
    # three alike among six that stand at right angles, all moved by the same: (1, 0, 0, 0) three
    # times, e_2, e_3, e_4
    points = torch.eye(4, dtype=torch.float64)[[0, 0, 0, 1, 2, 3]]
    # mean (1/2, 1/6, 1/6, 1/6): e_1 - mean = (1/2, -1/6, -1/6, -1/6), to e_2 - mean = (-1/2, 5/6,
    # -1/6, -1/6): -1/4 - 5/36 + 2/36 < 0; e_2 to e_3: 1/4 - 5/36 - 5/36 + 1/36 = 0
    torch.testing.assert_close(
        trust.similar_update_counts(points @ points.T), wide(3, 3, 3, 1, 1, 1)
    )
    moved = points + wide(100, -50, 3, 0)
    torch.testing.assert_close(
        trust.similar_update_counts(moved @ moved.T), wide(3, 3, 3, 1, 1, 1), atol=1e-6, rtol=0
    )


def test_one_huge_update_does_not_hide_the_copies_of_others() -> None:
    # six at right angles, the first direction sent three times more; beside them one that is not
    # finite in float64's squares
    points = torch.eye(6, dtype=torch.float64)[[0, 0, 0, 0, 1, 2, 3, 4, 5]]
    gram = torch.full((10, 10), torch.inf, dtype=torch.float64)
    gram[:9, :9] = points @ points.T
    found = trust.similar_update_counts(gram)
    assert found[:4].min() > 3.5
    assert found[4:9].max() < 1.5


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 8))
def test_copies_count_between_one_and_all(seed: int, n: int) -> None:
    rows = torch.randn(n, 5, generator=Generator().manual_seed(seed), dtype=torch.float64)
    found = trust.similar_update_counts(rows @ rows.T)
    assert ((found >= 1) & (found <= n)).all()
    assert trust.similar_update_counts(torch.full((n, n), torch.inf)).tolist() == [1] * n


def test_nobody_outvotes_others_by_the_length_of_its_logits() -> None:
    scores = torch.stack([torch.full((2, 2), x) for x in (1.0, 2.0, 1000.0)])
    tamed = trust.rescale_scores(scores, torch.tensor([True, True, True]))
    assert tamed[:, 0, 0].tolist() == [1, 2, 2]  # root mean squares 1, 2, 1000: the median is 2
    broken = trust.rescale_scores(
        torch.stack([*scores, torch.full((2, 2), torch.nan)]),
        torch.tensor([True, True, True, False]),
    )
    assert broken[:, 0, 0].tolist() == [1, 2, 2, 0]
    assert trust.rescale_scores(scores, torch.zeros(3, dtype=torch.bool)).abs().sum() == 0
