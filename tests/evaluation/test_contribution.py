"""Leave-one-out and Shapley values: by hand, and the laws that define them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.evaluation.contribution import (
    coalition_of,
    exact_coalitions,
    leave_one_out,
    marginal_values,
    order_coalitions,
    players_of,
    sample_orders,
    sampled_shapley,
    shapley_values,
)
from fedrobust.utils.seeding import generator

FEW = settings(max_examples=30, deadline=None)


@st.composite
def games(draw: st.DrawFn) -> tuple[int, dict[int, Tensor]]:
    """A number of players and a game with any values."""
    players = draw(st.integers(1, 5))
    values = st.lists(st.floats(-100, 100), min_size=1 << players, max_size=1 << players)
    return players, dict(enumerate(torch.tensor(draw(values), dtype=torch.float64)))


def test_golden_gloves() -> None:
    # players 0 and 1 own a left glove each, 2 a right one; a pair is worth 1. Of the six orders the
    # right glove completes a pair in four (whenever it is not first): 4/6; each left one in 1/6
    worth = {mask: float(bool(mask & 3) and bool(mask & 4)) for mask in range(8)}
    game = {mask: torch.tensor(value) for mask, value in worth.items()}
    assert shapley_values(game, 3).tolist() == pytest.approx([1 / 6, 1 / 6, 4 / 6])
    assert leave_one_out(game, 3).tolist() == [0, 0, 1]


def test_coalitions_are_bit_masks() -> None:
    assert players_of(0b1011) == (0, 1, 3)
    assert coalition_of([3, 0, 1, 1]) == 0b1011
    assert exact_coalitions(2) == [0, 1, 2, 3]
    # 0, then 0 and 2, then all; of the reverse 1, then 1 and 2; and all pairs for leave-one-out
    assert order_coalitions([(0, 2, 1), (1, 2, 0)]) == [0, 1, 2, 3, 5, 6, 7]


@FEW
@given(games())
def test_efficiency(found: tuple[int, dict[int, Tensor]]) -> None:
    players, game = found
    total = game[(1 << players) - 1] - game[0]
    assert shapley_values(game, players).sum() == pytest.approx(float(total), abs=1e-9)
    orders = sample_orders(players, 2, generator(0, "orders"))
    assert marginal_values(game, orders).sum(dim=1).tolist() == pytest.approx(
        [float(total)] * 4, abs=1e-9
    )


@FEW
@given(games(), st.data())
def test_symmetry_and_the_dummy(found: tuple[int, dict[int, Tensor]], data: st.DataObject) -> None:
    players, game = found
    if players < 2:
        return
    one, other = data.draw(st.permutations(range(players)))[:2]
    a, b = 1 << one, 1 << other

    def swapped(mask: int) -> int:
        return mask ^ (a | b) if bool(mask & a) != bool(mask & b) else mask

    symmetric = {mask: game[mask] + game[swapped(mask)] for mask in game}
    values = shapley_values(symmetric, players)
    assert values[one] == pytest.approx(float(values[other]), abs=1e-9)
    without = {mask: game[mask & ~a] for mask in game}  # `one` adds nothing to anybody
    assert shapley_values(without, players)[one] == pytest.approx(0, abs=1e-9)
    assert leave_one_out(without, players)[one] == 0


@FEW
@given(games())
def test_all_orders_give_the_exact_values(found: tuple[int, dict[int, Tensor]]) -> None:
    players, game = found
    orders = list(itertools.permutations(range(players)))
    mean = marginal_values(game, orders).mean(dim=0)
    assert mean.tolist() == pytest.approx(shapley_values(game, players).tolist(), abs=1e-9)


def test_games_are_values_of_tensors_entry_by_entry() -> None:
    g = generator(0, "games")
    game = {mask: torch.rand(4, generator=g) for mask in range(8)}
    whole = shapley_values(game, 3)
    for place in range(4):
        part = {mask: values[place] for mask, values in game.items()}
        assert torch.allclose(whole[:, place], shapley_values(part, 3))


def test_orders_come_in_pairs_and_their_means_do_not_vary_in_an_additive_game() -> None:
    orders = sample_orders(6, 3, generator(0, "orders"))
    assert all(orders[k] == orders[k + 1][::-1] for k in (0, 2, 4))
    worth = torch.arange(6.0)
    game = {
        mask: worth[list(players_of(mask))].sum().expand(21) for mask in order_coalitions(orders)
    }
    picks = torch.randint(3, (20, 3), generator=generator(0, "picks"))
    found = sampled_shapley(marginal_values(game, orders), picks)
    assert torch.allclose(found, worth[:, None].expand(6, 21))


def test_replicates_of_sampled_orders_spread_as_the_mean_of_the_pairs_does() -> None:
    # 40 pairs whose means are 0 or 1, half each: standard error sqrt(0.25 / 39) = 0.0801
    marginals = (torch.arange(80) // 2 % 2).double()[:, None, None].expand(80, 1, 4001)
    picks = torch.randint(40, (4000, 40), generator=generator(0, "picks"))
    found = sampled_shapley(marginals, picks)
    assert found[0, 0] == 0.5
    assert float(found[0, 1:].std()) == pytest.approx(0.0801, rel=0.05)
