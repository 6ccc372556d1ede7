"""FLDetector: its parts by hand and against other computations, and whole federations of rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fedrobust.strategies.fldetector import (
    clusters,
    fldetector,
    hessian_product,
    suspects,
    within_clusters,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Generator, Tensor

from fedrobust.aggregation.round import Aggregate
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from fedrobust.utils import nested
from tests.helpers.rounds import matrix_round, normal

laws = settings(max_examples=20)
seeds = st.integers(0, 2**32)


def test_the_hessian_by_hand() -> None:
    # s = (1, 0), y = (-.5, 0): sigma = y's / s's = -.5; along s the change is y's, elsewhere sigma
    pair = [torch.tensor([1.0, 0]).double()], [torch.tensor([-0.5, 0]).double()]
    assert hessian_product(*pair, torch.tensor([2.0, 0]).double()).tolist() == pytest.approx(
        [-1, 0]
    )
    assert hessian_product(*pair, torch.tensor([0.0, 1]).double()).tolist() == [0, -0.5]
    # a model that never moved
    still = [torch.zeros(2).double()], [torch.zeros(2).double()]
    assert hessian_product(*still, torch.ones(2).double()).tolist() == [0, 0]


@laws
@given(seeds, st.integers(1, 4))
def test_the_hessian_agrees_with_the_authors_formula(seed: int, pairs: int) -> None:
    draw = np.random.default_rng(seed)
    root = draw.normal(size=(12, 12))
    true = root @ root.T / 12 + np.eye(12)
    s = draw.normal(size=(12, pairs))
    y, v = true @ s, draw.normal(size=12)
    below, sigma = np.tril(s.T @ y, -1), y[:, -1] @ s[:, -1] / (s[:, -1] @ s[:, -1])
    middle = np.block([[sigma * s.T @ s, below], [below.T, -np.diag(np.diag(s.T @ y))]])
    sides = np.concatenate([s.T @ (sigma * v), y.T @ v])
    wanted = sigma * v - np.hstack([sigma * s, y]) @ np.linalg.inv(middle) @ sides
    found = hessian_product(list(torch.tensor(s.T)), list(torch.tensor(y.T)), torch.tensor(v))
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    # the secant equation of the last pair
    last = hessian_product(list(torch.tensor(s.T)), list(torch.tensor(y.T)), torch.tensor(s[:, -1]))
    np.testing.assert_allclose(last, y[:, -1], atol=1e-7)


@settings(max_examples=5)
@given(seeds)
def test_clusters_of_numbers_are_k_means_best(seed: int) -> None:
    values = normal(seed, 2, 9).double()
    found = within_clusters(values, 3)
    for row, values_N in zip(found.tolist(), values.numpy(), strict=True):
        best = [
            KMeans(k, n_init=20, random_state=0).fit(values_N[:, None]).inertia_ for k in (1, 2, 3)
        ]
        assert row == pytest.approx(best)


def test_suspects_by_hand() -> None:
    generator = Generator().manual_seed(0)
    apart = {4: 0.05, 7: 0.06, 1: 0.055, 2: 0.052, 9: 0.3, 3: 0.31, 5: 0.058, 6: 0.054}
    assert suspects(apart, generator) == {9, 3}
    assert suspects(dict.fromkeys(range(8), 0.125), generator) == set()
    assert clusters(torch.linspace(0, 1, 9).double(), generator) == 1
    assert (
        clusters(torch.tensor([0.0, 0.01, 0.02, 0.03, 0.97, 0.98, 0.99, 1]).double(), generator) > 1
    )


Client = Callable[[Tensor, int], Tensor]


def federate(clients: Mapping[int, Client], rounds: int, columns: int = 100) -> list[Aggregate]:
    """Rounds in which each client answers the model with its update; memory is kept as a checkpoint
    keeps it."""
    rule, model, memory, results = fldetector(columns=columns), torch.zeros(6), {}, []
    for number in range(1, rounds + 1):
        matrix = torch.stack([client(model, number) for client in clients.values()])
        updates = replace(Updates.of(matrix), clients=tuple(clients))
        case = replace(matrix_round(updates, model, memory, seed=number), number=number)
        results.append(rule.rule(case))
        memory = nested.unflatten(*nested.flatten(dict(results[-1].memory)))
        model = results[-1].state.parameters
    return results


def honest(target_D: Tensor) -> Client:
    return lambda model_D, number: 0.3 * (target_D - model_D)


def erratic(seed: int) -> Client:
    return lambda model_D, number: normal(seed + number, 6)


def test_clients_whose_updates_do_not_follow_are_left_out_for_good() -> None:
    clients = {n: honest(normal(n, 6)) for n in range(7)} | {n: erratic(100 * n) for n in (7, 8, 9)}
    results = federate(clients, 8)
    # rounds 1 and 2 have no score, as H needs two movements of the model; the third is round 5's
    for result in results[:4]:
        assert result.weights_N.tolist() == pytest.approx([0.1] * 10)
    assert all(np.isnan(one) for one in results[1].extras["inconsistency"])
    assert sum(results[2].extras["inconsistency"]) == pytest.approx(1)
    for result in results[4:]:
        assert result.weights_N.tolist() == pytest.approx([1 / 7] * 7 + [0] * 3)
    # of three of the six columns the same is seen
    for result in federate(clients, 8, columns=3)[4:]:
        assert result.weights_N.tolist() == pytest.approx([1 / 7] * 7 + [0] * 3)


def test_steady_clients_are_all_kept_and_steady_attackers_too() -> None:
    clients = {n: honest(normal(n, 6)) for n in range(5)}
    for result in federate(clients | {9: honest(-50 * torch.ones(6))}, 7):
        assert result.weights_N.tolist() == pytest.approx([1 / 6] * 6)


def test_absent_clients_keep_their_scores() -> None:
    rule, memory = fldetector(window=2), {}
    for number, present in enumerate([(0, 1, 2), (0, 1, 2), (0, 1, 2), (0, 2), (0, 1, 2)]):
        updates = replace(Updates.of(normal(number, len(present), 4)), clients=present)
        case: Any = matrix_round(updates, normal(50 + number, 4), memory)
        result = rule.rule(case)
        memory = dict(result.memory)
    # client 1 sent nothing in the round before the last: no score there, its former one stays
    assert [len(memory["scores"][client]) for client in (0, 1, 2)] == [2, 1, 2]
    assert np.isfinite(result.extras["inconsistency"]).all()
    assert len(memory["models"]) == 4


@pytest.mark.parametrize("key", ["window", "columns"])
def test_wrong_settings_are_named(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"strategy\.{key}=0"):
        fldetector(**{key: 0})
