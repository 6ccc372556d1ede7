"""AlignIns and LASA, which count signs: by hand, and what they promise."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from fedrobust.strategies.alignins import alignins, mz_scores, principal_sign_shares
from fedrobust.strategies.lasa import lasa
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from fedrobust.state import Layout
from fedrobust.testing import check_rule
from tests.helpers.rounds import apply_rule, matrix_round, normal

laws = settings(max_examples=20)
seeds = st.integers(0, 2**32)


def test_mz_scores_by_hand() -> None:
    # median 2, mean 4, squares 9 4 1 36 / ... of (1, 2, 9): mean 4, variance (9 + 4 + 25)/3 = 12.67
    found = mz_scores(torch.tensor([[1.0, 2, 9], [4, 4, 4]]))
    wanted = torch.tensor([[1 / 3.559026, 0, 7 / 3.559026], [0, 0, 0]]).double()
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_alignins_by_hand() -> None:
    # cosines with (1, 0): 3/3.1623 = .9487, 4/4.1231 = .9701, -.9487, 5/5.0990 = .9806; median
    # .9594, deviation .8294: scores .01 .01 2.30 .03. Of each row's larger value the sign is +, as
    # in most rows, but for the third: shares 1 1 0 1, median 1, deviation .4330: 0 0 2.31 0.
    # Lengths of the three 3.1623 4.1231 5.0990: the last is shortened to 4.1231: (4.0430, .8086)
    matrix = torch.tensor([[3.0, 1], [4, 1], [-3, 1], [5, 1]])
    reference = torch.tensor([1.0, 0])
    result = apply_rule(alignins(top_share=0.5), matrix, reference_D=reference)
    update = result.state.parameters - reference
    torch.testing.assert_close(update, torch.tensor([11.0430, 2.8086]) / 3, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.weights_N, torch.tensor([1, 1, 0, 1]).double() / 3)
    assert result.extras["mpsa"] == [1, 1, 0, 1]
    assert result.extras["tda"] == pytest.approx([0.9487, 0.9701, -0.9487, 0.9806], abs=1e-4)
    assert result.extras["clipping_bound"] == pytest.approx(4.1231, abs=1e-4)


def test_where_nobody_passes_alignins_keeps_the_model() -> None:
    # two clients: each is one deviation from their median
    matrix = torch.tensor([[3.0, 1], [-3, 1]])
    result = apply_rule(alignins(), matrix, reference_D=torch.ones(2))
    assert result.state.parameters.tolist() == [1, 1]
    assert result.weights_N.tolist() == [0, 0]
    assert alignins().min_clients == 3


@laws
@given(seeds, st.integers(1, 12))
def test_principal_signs_agree_with_counting(seed: int, width: int) -> None:
    matrix = normal(seed, 5, 12)
    major = matrix.sign().sum(dim=0).sign()
    wanted = []
    for row in matrix:
        top = row.abs().topk(3).indices
        wanted.append(float((row.sign() == major)[top].double().mean()))
    blocks = Updates.blocks
    with patch.object(Updates, "blocks", lambda self: blocks(self, width)):
        found = principal_sign_shares(Updates.of(matrix), 0.25)
    assert found.tolist() == pytest.approx(wanted)


@laws
@given(seeds, st.floats(1, 1e9))
def test_turned_updates_do_not_pass(seed: int, scale: float) -> None:
    honest = 1 + 0.3 * normal(seed, 7, 60)
    matrix = torch.cat([honest, -scale * honest[:3]])
    for rule in (alignins(), lasa()):
        result = apply_rule(rule, matrix, reference_D=torch.ones(60))
        assert result.weights_N[7:].sum() == 0
        assert (result.state.parameters >= 1).all()
        assert (result.state.parameters - 1).norm() <= honest.norm(dim=1).max() * (1 + 1e-4)


def test_lasa_by_hand() -> None:
    # lengths 3.1623 4.4721 10.0499: the last is shortened by .4450. The larger half of the values:
    # (3, 0), (4, 0), (-4.4499, 0); lengths 3 4 4.4499, median 4, deviation .6060: scores 1.65 0
    # .74; balances of signs 1 1 -1, deviation .9428: 0 0 2.12
    matrix = torch.tensor([[3.0, -1], [4, -2], [-10, 1]])
    result = apply_rule(lasa(sparsity=0.5), matrix)
    assert result.state.parameters.tolist() == [4, 0]
    assert result.weights_N.tolist() == [0, 1, 0]
    result = apply_rule(lasa(sparsity=0.5, length_radius=2), matrix)
    assert result.state.parameters.tolist() == [3.5, 0]
    # whom nobody passes, all do: 2/3 (3 + 4 - 4.4499)/2 ...
    result = apply_rule(lasa(sparsity=0.5, sign_radius=1e-3, length_radius=1e-3), matrix[[0, 2]])
    assert result.weights_N.tolist() == [0.5, 0.5]


def test_lasa_judges_each_layer_alone_and_leaves_biases_whole() -> None:
    model = nn.Linear(2, 1)  # two weights and a bias
    matrix = torch.tensor([[2.0, 1, 0.1], [2, 1, 0.1], [2, 1, -0.1], [-2, -1, 0.1]])
    updates = replace(Updates.of(matrix), layout=Layout.of(model))
    result = lasa(sparsity=0.5).rule(matrix_round(updates))
    # all lengths are equal; the weights of client 3 and the bias of client 2 have other signs
    torch.testing.assert_close(result.state.parameters, torch.tensor([2, 0, 0.1]))
    assert result.extras["accepted_layers"] == [1, 1, 0.5, 0.5]
    # shares 1/3 1/3 1/3 0 of two columns, 1/3 1/3 0 1/3 of one
    torch.testing.assert_close(result.weights_N, torch.tensor([3, 3, 2, 1]).double() / 9)
    blocks = Updates.blocks
    with patch.object(Updates, "blocks", lambda self: blocks(self, 1)):
        cut = lasa(sparsity=0.5).rule(matrix_round(updates))
    assert torch.equal(cut.state.parameters, result.state.parameters)


def test_without_sparsity_lasa_keeps_all_laws_but_one() -> None:
    check_rule(lasa(sparsity=0), without=["shift"], seeds=range(3))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: alignins(direction_radius=0), "strategy.direction_radius=0"),
        (lambda: alignins(sign_radius=-1), "strategy.sign_radius=-1"),
        (lambda: alignins(top_share=1.5), "strategy.top_share=1.5"),
        (lambda: lasa(sparsity=1), "strategy.sparsity=1"),
        (lambda: lasa(length_radius=0), "strategy.length_radius=0"),
    ],
)
def test_wrong_settings_are_named(make: object, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()  # type: ignore[operator]
