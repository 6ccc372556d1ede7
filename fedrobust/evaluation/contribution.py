"""Contributions of players to the value of a cooperative game: leave-one-out and Shapley values.

A game is a function v of coalitions, sets of players 0 ... n - 1. A coalition is a bit mask: bit i
says whether player i is in it. Values may be tensors: a game for each of their entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

MOST_EXACT = 8  # players up to which all coalitions are affordable
Game = Mapping[int, Tensor]  # the value (...) of a coalition


def players_of(coalition: int) -> tuple[int, ...]:
    """The players of a coalition, ascending."""
    return tuple(one for one in range(coalition.bit_length()) if coalition >> one & 1)


def coalition_of(players: Sequence[int]) -> int:
    """The coalition of these players."""
    return sum(1 << one for one in set(players))


def exact_coalitions(players: int) -> list[int]:
    """All coalitions of so many players, the empty one first."""
    return list(range(1 << players))


def sample_orders(players: int, pairs: int, generator: Generator) -> list[tuple[int, ...]]:
    """Orders in which players enter, in pairs of an order and its reverse.

    Args:
        players: number of them.
        pairs: number of pairs, at least 1.
        generator: source of the orders.

    Returns:
        2 `pairs` orders. A player late in one is early in the other, which makes the mean of their
        marginal values vary less.

    Reference:
        Mitchell, Cooper, Frank, Holmes, JMLR 23:43, 2022 (antithetic sampling).
    """
    orders = []
    for _ in range(pairs):
        order = tuple(torch.randperm(players, generator=generator).tolist())
        orders += [order, order[::-1]]
    return orders


def order_coalitions(orders: Sequence[Sequence[int]]) -> list[int]:
    """The coalitions that players form as they enter in these orders, each once, and those that
    lack one player, for `leave_one_out`."""
    found = {coalition_of(order[:size]) for order in orders for size in range(len(order) + 1)}
    whole = max(found)
    return sorted(found | {whole ^ 1 << one for one in players_of(whole)})


def leave_one_out(game: Game, players: int) -> Tensor:
    """(n, ...) v(all) - v(all without player i)."""
    whole = (1 << players) - 1
    return torch.stack([game[whole] - game[whole ^ 1 << one] for one in range(players)])


def shapley_values(game: Game, players: int) -> Tensor:
    """Exact Shapley values from the values of all coalitions.

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S with i) - v(S)).

    Args:
        game: the values of all 2^n coalitions.
        players: n.

    Returns:
        (n, ...); they add up to v(all) - v(empty).

    Reference:
        Shapley, A value for n-person games, 1953.
    """
    rows = []
    for player in range(players):
        bit = 1 << player
        parts = [
            _weight(players, coalition.bit_count()) * (game[coalition | bit] - game[coalition])
            for coalition in range(1 << players)
            if not coalition & bit
        ]
        rows.append(torch.stack(parts).sum(dim=0))
    return torch.stack(rows)


def _weight(players: int, size: int) -> float:
    return 1 / (players * math.comb(players - 1, size))


def marginal_values(game: Game, orders: Sequence[Sequence[int]]) -> Tensor:
    """(orders, n, ...) what each player adds to those that entered before it, whose mean over all
    orders is the Shapley value. Of each order they add up to v(all) - v(empty)."""
    rows = []
    for order in orders:
        added: dict[int, Tensor] = {}
        before = 0
        for player in order:
            after = before | 1 << player
            added[player] = game[after] - game[before]
            before = after
        rows.append(torch.stack([added[player] for player in sorted(added)]))
    return torch.stack(rows)


def sampled_shapley(marginals: Tensor, picks: Tensor | None = None) -> Tensor:
    """(n, ...) means of the marginal values of sampled orders.

    Args:
        marginals: (orders, n, 1 + B) of `marginal_values`, an order and its reverse one after the
            other; the first of the last axis is the measured value, the others are replicates.
        picks: (B, pairs) which pairs each replicate takes, with replacement; None: all once.

    Returns:
        (n, 1 + B); replicate b is the mean over its pairs. The part that comes from the picks is
        stretched by sqrt(pairs / (pairs - 1)), as in `statistics.mean_over_seeds`.
    """
    pairs = (marginals[0::2] + marginals[1::2]) / 2  # (pairs, n, 1 + B)
    mean = pairs.mean(dim=0)
    if picks is None or len(pairs) < 2:
        return mean
    counts = torch.nn.functional.one_hot(picks, len(pairs)).sum(dim=1).to(pairs)  # (B, pairs)
    picked = torch.einsum("bp,pnb->nb", counts / len(pairs), pairs[..., 1:])
    stretch = math.sqrt(len(pairs) / (len(pairs) - 1))
    drawn = mean[:, 1:] + stretch * (picked - mean[:, 1:])
    return torch.cat([mean[:, :1], drawn], dim=1)
