"""Server optimizers: two steps by hand, and Flower's own as the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from fedrobust.strategies.server_optimizers.adaptive import fedadagrad, fedadam, fedyogi
from fedrobust.strategies.server_optimizers.momentum import fedavgm
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.aggregation.composition import ServerOptimizer
from tests.helpers.rounds import normal

seeds = st.integers(0, 2**32)


def steps(optimizer: ServerOptimizer, deltas: list[float]) -> list[float]:
    """Step of a single parameter in each round."""
    assert optimizer.step is not None
    memory: Mapping[str, Any] = {}
    moves = []
    for delta in deltas:
        move, memory = optimizer.step(torch.tensor([delta], dtype=torch.float64), memory)
        moves.append(move.item())
    return moves


@pytest.mark.parametrize(
    ("optimizer", "moves"),
    [
        # m: 2; .5 2 - 1 = 0; times .1
        (fedavgm(0.1, 0.5), [0.2, 0.0]),
        # v: .5^2 + 2^2 = 4.25; 4.25 + 1 = 5.25. m = delta. 2/(2.061553 + .5) = .780777;
        # -1/(2.291288 + .5) = -.358258
        (fedadagrad(learning_rate=1.0, beta1=0.0, tau=0.5), [0.780777, -0.358258]),
        # m: .5 2 = 1; .5 1 - .5 1 = 0 v: .25 - .25 4 sign(.25 - 4) = 1.25; 1.25 - .25 1 sign(1.25 -
        # 1) = 1. 1/(1.118034 + .5) = .618034
        (fedyogi(learning_rate=1.0, beta1=0.5, beta2=0.75, tau=0.5), [0.618034, 0.0]),
        # m as above; v: .75 .25 + .25 4 = 1.1875. 1/(1.089725 + .5) = .629040
        (fedadam(learning_rate=1.0, beta1=0.5, beta2=0.75, tau=0.5), [0.629040, 0.0]),
        # beta1 = 0: m = delta; v: 1.1875; .75 1.1875 + .25 1 = 1.140625. 2/1.589725 = 1.258080;
        # -1/(1.068000 + .5) = -.637755
        (fedadam(learning_rate=1.0, beta1=0.0, beta2=0.75, tau=0.5), [1.258080, -0.637755]),
    ],
    ids=lambda one: one.name if isinstance(one, ServerOptimizer) else "",
)
def test_two_steps_by_hand(optimizer: ServerOptimizer, moves: list[float]) -> None:
    assert steps(optimizer, [2.0, -1.0]) == pytest.approx(moves, abs=2e-6)


def flower(strategy: Any, deltas: list[np.ndarray], tau: float | None) -> list[np.ndarray]:
    """The models that Flower's own strategy makes of the same results, its v_{-1} set to the
    paper's tau^2."""
    model, models = np.zeros_like(deltas[0]), []
    if tau is not None:
        strategy.v_t = {"w": np.full_like(model, tau**2)}
    with pytest.MonkeyPatch.context() as patch:
        for number, delta in enumerate(deltas, 1):
            mean = ArrayRecord({"w": Array(model + delta)})
            patch.setattr(
                FedAvg,
                "aggregate_train",
                lambda self, number, replies, mean=mean: (mean, MetricRecord()),
            )
            strategy.current_arrays = (
                {"w": model} if tau is not None else ArrayRecord({"w": Array(model)})
            )
            arrays, _ = strategy.aggregate_train(number, [])
            model = arrays["w"].numpy()
            models.append(model)
    return models


@settings(max_examples=15)
@given(seeds, st.sampled_from(["fedavgm", "fedadagrad", "fedyogi", "fedadam"]))
def test_optimizers_agree_with_flower(seed: int, name: str) -> None:
    deltas = [normal(seed + k, 5).double().numpy() for k in range(4)]
    common = {"beta_1": 0.8, "tau": 0.3}
    if name == "fedavgm":
        ours, theirs = (
            fedavgm(0.5, 0.8),
            flower(FedAvgM(server_learning_rate=0.5, server_momentum=0.8), deltas, None),
        )
    elif name == "fedadagrad":
        one = FedAdagrad(eta=0.5, tau=0.3)
        one.beta_1 = 0.8
        ours, theirs = fedadagrad(learning_rate=0.5, beta1=0.8, tau=0.3), flower(one, deltas, 0.3)
    else:
        kinds = {"fedyogi": (fedyogi, FedYogi), "fedadam": (fedadam, FedAdam)}
        make, kind = kinds[name]
        ours, theirs = (
            make(learning_rate=0.5, beta1=0.8, beta2=0.9, tau=0.3),
            flower(kind(eta=0.5, beta_2=0.9, **common), deltas, 0.3),
        )
    assert ours.step is not None
    memory: Mapping[str, Any] = {}
    moved, wanted_before = [], np.zeros(5)
    for number, (delta, wanted) in enumerate(zip(deltas, theirs, strict=True), 1):
        move, memory = ours.step(torch.from_numpy(delta), memory)
        # Flower's FedAdam multiplies eta with Adam's correction of the bias, which the paper's
        # algorithm 2 has not
        bias = (
            np.sqrt(1 - 0.9 ** (number + 1)) / (1 - 0.8 ** (number + 1))
            if name == "fedadam"
            else 1.0
        )
        moved.append(move.numpy() * bias)
        np.testing.assert_allclose(moved[-1], wanted - wanted_before, rtol=1e-6, atol=1e-9)
        wanted_before = wanted
