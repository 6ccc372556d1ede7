"""Teachers: brute force, numbers by hand, and the pull they exert."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fedrobust.strategies.distillation import teachers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch import Tensor


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("teacher", ["median", "mean"])
@settings(max_examples=20)
@given(st.integers(2, 7), st.integers(0, 2**32))
def test_peer_probabilities_agree_with_brute_force(teacher: str, members: int, seed: int) -> None:
    scores = normal(seed, members, 3, 4)
    found = teachers.peer_probabilities(scores, 16.0, 2.0, teacher).numpy()
    probabilities = softmax(scores.numpy().astype(np.float64) * 16 / 2, axis=2)
    for i in range(members):
        others = [probabilities[j] for j in range(members) if j != i]
        merged = np.median(others, axis=0) if teacher == "median" else np.mean(others, axis=0)
        np.testing.assert_allclose(
            found[i], merged / merged.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6
        )


def test_one_attacker_cannot_leave_the_range_of_the_honest() -> None:
    honest = normal(1, 4, 5, 3)
    attacked = torch.cat([honest, torch.full((1, 5, 3), 1e6)])
    merged = teachers.merge_peers(attacked, "median")[0]
    assert (merged <= honest.amax(0)).all()
    assert (merged >= honest.amin(0)).all()


def test_peers_that_agree_on_nothing_teach_nothing() -> None:
    # one-hot probabilities on three classes: the median of any three different ones is 0 everywhere
    scores = 1e4 * torch.eye(3)[torch.tensor([0, 0, 1, 2])][:, None]
    found = teachers.peer_probabilities(scores, 1.0, 1.0, "median")
    assert found[0].tolist() == [[0, 0, 0]]
    assert found[2].tolist() == [[1, 0, 0]]


def test_ensemble_by_hand() -> None:
    # weights .75 and .25 on scores (1, 0) and (0, 1): mean (.75, .25); scale 4, T 2: softmax(1.5,
    # .5) = 1/(1 + e^-1); the third member has no weight
    scores = torch.tensor([[[1.0, 0]], [[0, 1]], [[torch.nan, torch.nan]]])
    first = 1 / (1 + np.exp(-1))
    found = teachers.ensemble(scores, torch.tensor([[0.75], [0.25], [0]]).expand(-1, 2), 4.0, 2.0)
    torch.testing.assert_close(found, torch.tensor([[first, 1 - first]], dtype=torch.float32))


def test_every_class_may_have_shares_of_its_own() -> None:
    # scores (1, 0) and (0, 1); the first alone speaks for class 0, both equally for class 1: (1,
    # .5); scale 4, T 2: softmax(2, 1) = 1/(1 + e^-1)
    scores = torch.tensor([[[1.0, 0]], [[0, 1]]])
    shares = torch.tensor([[1.0, 0.5], [0, 0.5]])
    torch.testing.assert_close(teachers.mean_scores(scores, shares), torch.tensor([[1.0, 0.5]]))
    first = 1 / (1 + np.exp(-1))
    found = teachers.ensemble(scores, shares, 4.0, 2.0)
    torch.testing.assert_close(found, torch.tensor([[first, 1 - first]], dtype=torch.float32))


def test_peers_are_weighed_without_the_member() -> None:
    # class 0: shares .5, .25, .25; class 1: .2, .2, .6. To the first the others are (.5, .5) and
    # (.25, .75), to the third (2/3, 1/3) and (.5, .5)
    shares = torch.tensor([[0.5, 0.2], [0.25, 0.2], [0.25, 0.6]], dtype=torch.float64)
    scores = torch.tensor([[[1.0, 1.0]], [[2.0, 4.0]], [[4.0, 8.0]]])
    found = teachers.peer_scores(scores, shares)
    torch.testing.assert_close(found[0], torch.tensor([[3.0, 7.0]]))
    torch.testing.assert_close(found[2], torch.tensor([[4 / 3, 2.5]]))


def test_a_prior_by_hand() -> None:
    # odds 1 and 4 for class 0, prior 1/2: a factor of 1/2 for them gives 1/3 and 2/3
    teacher = torch.tensor([[0.5, 0.5], [0.8, 0.2]])
    found = teachers.match_prior(teacher, torch.tensor([0.5, 0.5]))
    expected = torch.tensor([[1 / 3, 2 / 3], [2 / 3, 1 / 3]])
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert torch.equal(teachers.match_prior(teacher, teacher.mean(dim=0)), teacher)


@settings(max_examples=20)
@given(st.integers(2, 5), st.integers(0, 2**32))
def test_a_prior_is_met_and_odds_within_a_class_stay(classes: int, seed: int) -> None:
    teacher = normal(seed, 2, 20, classes).softmax(dim=-1)
    prior = (0.5 * normal(seed + 1, 2, classes)).softmax(dim=-1)
    found = teachers.match_prior(teacher, prior)
    torch.testing.assert_close(found.mean(dim=1), prior, atol=2e-4, rtol=0)
    ratios = (found / teacher)[..., :1] / (found / teacher)  # the same for all images
    torch.testing.assert_close(ratios, ratios[:, :1].expand_as(ratios), rtol=1e-3, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(0, 2**32))
def test_equal_shares_make_the_mean_of_the_peers(members: int, seed: int) -> None:
    scores = normal(seed, members, 3, 4)
    found = teachers.peer_scores(scores, torch.full((members, 4), 1 / members))
    expected = (scores.sum(dim=0) - scores) / (members - 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_lessons_pull_towards_the_teacher() -> None:
    teacher = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    rows = torch.tensor([1])
    student = torch.zeros(1, 3, requires_grad=True)
    teachers.kl_loss(teacher, 16.0, 2.0)(student, rows).backward()
    # T^2 KL has the gradient T scale (softmax(student) - teacher)
    torch.testing.assert_close(student.grad, 32 * (1 / 3 - teacher[rows]))
    student = torch.zeros(1, 3, requires_grad=True)
    teachers.true_class_loss(teacher, torch.tensor([0, 2]))(student, rows).backward()
    # 1/2 (a_y - t_y)^2 has the gradient a_y - t_y = -.1 at the label, else 0
    torch.testing.assert_close(student.grad, torch.tensor([[0, 0, -0.1]]))
