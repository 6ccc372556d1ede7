"""Rules that compare clients by their directions and signs, FoolsGold, FLAME, SignGuard and RLR: by
hand, and what they promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from fedrobust.strategies import flame, foolsgold, signguard
from fedrobust.strategies.fedavg import fedavg
from fedrobust.strategies.rlr import rlr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from fedrobust.aggregation.round import Strategy
from fedrobust.aggregation.updates import Updates, squared_distances
from fedrobust.errors import ConfigError
from fedrobust.state import Layout
from fedrobust.utils import nested
from tests.helpers import clusters
from tests.helpers.rounds import SMALL, apply_rule, matrix_round, normal

laws = settings(max_examples=25)
seeds = st.integers(0, 2**32)


def alphas(history_NF: Tensor, confidence: float) -> Tensor:
    return foolsgold.alphas(foolsgold.history_gram(list(history_NF)), confidence)


# FoolsGold


@pytest.mark.parametrize(
    ("matrix", "weights"),
    [
        # two alike: cs01 = 1, v = 1 1 0, alpha = 0 0 1
        ([[1.0, 0, 0], [2, 0, 0], [0, 1, 0]], [0, 0, 1]),
        # cs01 = .6, v = .6 .6 0, alpha = .4 .4 1; ln(.4/.6) + .5 = .094535; shares of 1.189070
        ([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1]], [0.079503, 0.079503, 0.840994]),
        # cs01 = .9, cs12 = .435890 (1 and 2), v = .9 .9 .435890; client 2 is pardoned: .435890
        # .435890/.9 = .211111 alpha = .1 .1 .788889 -> .126761 .126761 1; ln(.126761/.873239) + .5
        # < 0
        ([[1.0, 0, 0], [0.9, 0.435890, 0], [0, 1, 0]], [0, 0, 1]),
        # unlike all: cosines 0 or negative, everybody 1
        ([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0]], [1 / 3, 1 / 3, 1 / 3]),
        # all alike: none stands out
        ([[1.0, 2, 0], [1, 2, 0], [2, 4, 0]], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_foolsgold_by_hand(matrix: list[list[float]], weights: list[float]) -> None:
    result = apply_rule(foolsgold.foolsgold(), torch.tensor(matrix))
    torch.testing.assert_close(
        result.weights_N, torch.tensor(weights, dtype=torch.float64), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        result.state.parameters,
        torch.tensor(weights).float() @ torch.tensor(matrix),
        atol=1e-4,
        rtol=0,
    )


def test_foolsgold_s_pardon_by_hand() -> None:
    # cosines 01: .8, 02: 0, 12: .6; v = .8 .8 .6; client 2 against 1: .6 .6/.8 = .45; alpha = .2 .2
    # .55 -> .363636 .363636 1 at kappa = 2: 2 (ln(.363636/.636364) + .5) = -.119; at kappa = .5
    # nothing else changes its sign either
    found = alphas(torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1]]), 2.0)
    assert found.tolist() == [0, 0, 1]
    # cosines 01: .5, 12: .4, 02: 0; v = .5 .5 .4; client 2: .4 .4/.5 = .32; alpha = .5 .5 .68 ->
    # .735294 .735294 1 kappa = .4: .4 (ln(.735294/.264706) + .5) = .608667
    third = [0.0, 0.4 / 0.75**0.5, (1 - 0.16 / 0.75) ** 0.5]
    found = alphas(torch.tensor([[1.0, 0, 0], [0.5, 0.75**0.5, 0], third]), 0.4)
    torch.testing.assert_close(
        found, torch.tensor([0.608667, 0.608667, 1]).double(), atol=1e-5, rtol=0
    )


@laws
@given(seeds, st.integers(1, 8), st.floats(0.1, 3))
def test_foolsgold_s_weights(seed: int, n: int, confidence: float) -> None:
    history = normal(seed, n, 6)
    found = alphas(history, confidence)
    assert ((found >= 0) & (found <= 1)).all()
    assert found.max() == 1
    torch.testing.assert_close(alphas(3 * history, confidence), found, rtol=1e-4, atol=1e-5)
    order = torch.randperm(n, generator=Generator().manual_seed(seed))
    torch.testing.assert_close(alphas(history[order], confidence), found[order])
    if n > 2:  # a copy of client 0 silences both, unless the others are no better
        twins = torch.cat([history, history[:1]])
        assert alphas(twins, confidence)[[0, -1]].max() == 0


@laws
@given(seeds, st.integers(1, 5), st.integers(1, 50))
def test_products_of_rows_are_their_gram_matrix(seed: int, n: int, strip: int) -> None:
    matrix = normal(seed, n, 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foolsgold, "STRIP", strip)
        torch.testing.assert_close(
            foolsgold.history_gram(list(matrix)), matrix.double() @ matrix.double().T
        )


def test_foolsgold_remembers_sums_of_the_last_layer_of_everybody() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))  # 4 + 2 | 2 + 1 parameters
    layout = Layout.of(model)
    assert (foolsgold.last_layer(layout), foolsgold.last_layer(None)) == (6, 0)
    memory: Mapping[str, Any] = {}
    for clients in ((0, 1), (0, 2), (1, 2)):
        updates = replace(
            Updates.of(torch.arange(18.0).reshape(2, 9) + clients[0]),
            layout=layout,
            clients=clients,
        )
        case = replace(matrix_round(torch.zeros(2, 9)), updates=updates, memory=memory)
        kept, tensors = nested.flatten(dict(foolsgold.foolsgold().rule(case).memory))
        memory = nested.unflatten(kept, tensors)  # as a checkpoint would
    history = memory["history"]
    # client 0 was row 0 (+0), row 0 (+0); client 1 row 1 (+0), row 0 (+1); client 2 row 1 (+0), row
    # 1 (+1)
    assert {client: row.tolist() for client, row in history.items()} == {
        0: [12, 14, 16],
        1: [22, 24, 26],
        2: [31, 33, 35],
    }


def test_attackers_who_work_together_are_found_in_time() -> None:
    """Honest updates are noise around what each hospital needs, the three attackers' around one
    direction."""
    needs, memory = normal(0, 10, 30), {}
    needs[:3] = needs[0]
    for number in range(5):
        case = matrix_round(needs + normal(number + 1, 10, 30), memory=memory)
        result = foolsgold.foolsgold().rule(case)
        memory = dict(result.memory)
    assert result.weights_N[:3].sum() < 0.05
    assert result.weights_N[3:].min() > 0.05


# FLAME


def test_flame_by_hand() -> None:
    # three directions: clients 0 and 1 point the same way, 2 of 3 are the majority; lengths 1 5 3,
    # median 3: (1 + 3)/2
    result = apply_rule(flame.flame(), torch.tensor([[1.0, 0], [5, 0], [0, 3]]))
    assert result.state.parameters.tolist() == [2, 0]
    assert result.weights_N.tolist() == [0.5, 0.5, 0]
    assert result.extras["clipping_bound"] == 3


def test_flame_measures_models_not_updates() -> None:
    # models (3, 4), (0, 0), (3, 0) around the reference (3, 0): cosines 0-2: 9/15, a model of
    # zeros: 0
    matrix = torch.tensor([[0.0, 4], [-3, 0], [0, 0]])
    found = flame.model_distances(
        matrix_round(matrix, reference_D=torch.tensor([3.0, 0])), Updates.of(matrix).gram()
    )
    torch.testing.assert_close(found, torch.tensor([[0, 1, 0.4], [1, 0, 1], [0.4, 1, 0]]).double())


@laws
@given(seeds, st.integers(2, 12))
def test_the_majority_is_the_tightest_chain_of_more_than_half(seed: int, n: int) -> None:
    """With clusters of more than half there is one at most: the points that hang together at the
    smallest distance at which any floor(n/2) + 1 of them do."""
    distances = squared_distances(Updates.of(normal(seed, n, 3)).gram()).sqrt()
    expected = torch.ones(n, dtype=torch.bool)
    for step in sorted(distances.unique().tolist()):
        reach = ((distances <= step).double().matrix_power(n) > 0).sum(dim=1)
        if int(reach.max()) >= n // 2 + 1:
            expected = ((distances <= step).double().matrix_power(n) > 0)[int(reach.argmax())]
            break
    assert flame.majority(distances).bool().tolist() == expected.tolist()


@laws
@given(seeds, st.floats(5, 1e20))
def test_flame_leaves_a_far_minority_out(seed: int, far: float) -> None:
    honest, evil = torch.ones(8) + 0.1 * normal(seed, 6, 8), far * normal(seed + 1, 4, 8)
    result = apply_rule(flame.flame(), torch.cat([honest, evil]), reference_D=torch.ones(8))
    assert (result.weights_N[:6] > 0).sum() >= 4
    update = result.state.parameters - 1
    assert update.norm() <= torch.cat([honest, evil]).norm(dim=1).quantile(0.5) * (1 + 1e-4)
    assert (update > 0).all()


def test_flame_s_noise_is_drawn_by_the_round_in_median_lengths() -> None:
    matrix = 100 * torch.ones(3, 10_000)  # of length 10,000
    one, other = (apply_rule(flame.flame(0.001), matrix).state.parameters for _ in range(2))
    assert torch.equal(one, other)
    assert float((one - 100).std()) == pytest.approx(10, rel=0.05)
    assert float((one - 100).mean()) == pytest.approx(0, abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [foolsgold.foolsgold(), flame.flame()], ids=lambda one: one.name)
def test_ten_hospitals_three_of_them_with_shifted_labels(rule: Strategy) -> None:
    """Plain averaging gets .915 right, and gives the three a share of .3."""
    accuracy, results = clusters.federate(rule, 6)
    assert accuracy > 0.97
    assert sum(float(result.weights_N[:3].sum()) for result in results) / 6 < 0.15
    assert clusters.federate(fedavg(), 6)[0] < 0.95
    assert clusters.federate(rule, 6, attackers=0)[0] > 0.98


# SignGuard


def test_signguard_by_hand() -> None:
    # lengths 1.4142 2.8284 4.2426 2.8284 141.42: median 2.8284; the last is 50 times that. Signs +
    # + + - +: client 3 is alone shortened to the median: (1, 1), (2, 2), (2, 2): 5/3
    matrix = torch.tensor([[1.0, 1], [2, 2], [3, 3], [-2, -2], [100, 100]])
    result = apply_rule(signguard.signguard(), matrix)
    torch.testing.assert_close(result.state.parameters, torch.tensor([5 / 3, 5 / 3]))
    torch.testing.assert_close(result.weights_N, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0]).double())
    assert result.extras["positive_share"] == [1, 1, 1, 0, 1]
    # a hundredth of the median length is too short
    assert apply_rule(
        signguard.signguard(), torch.tensor([[0.02, 0.02], [2, 2], [2, 2]])
    ).weights_N.tolist() == [0, 0.5, 0.5]


@laws
@given(seeds, st.integers(1, 40))
def test_sign_shares_are_shares_of_all_columns(seed: int, width: int) -> None:
    """Oracle: the columns drawn from the same generator, looked up one by one."""
    matrix = normal(seed, 4, 40).round()
    drawn = torch.randint(40, (20,), generator=Generator().manual_seed(seed))
    expected = torch.stack(
        [(sign * matrix[:, drawn] > 0).double().mean(dim=1) for sign in (1, -1)], dim=1
    )
    with pytest.MonkeyPatch.context() as patch:
        blocks = Updates.blocks
        patch.setattr(
            Updates, "blocks", lambda self, _width=None, rows=None: blocks(self, width, rows)
        )
        found = signguard.sign_shares(Updates.of(matrix), 0.5, Generator().manual_seed(seed))
    torch.testing.assert_close(found[:, [0, 2]], expected)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(4).double())


@laws
@given(seeds)
def test_signguard_drops_turned_updates_and_bounds_the_rest(seed: int) -> None:
    honest = 0.5 + normal(seed, 7, 300)
    evil = -honest[:3]
    result = apply_rule(signguard.signguard(coordinates=1.0), torch.cat([honest, evil]))
    assert result.weights_N[7:].sum() == 0
    assert (result.weights_N[:7] > 0).sum() >= 4
    assert result.state.parameters.norm() <= torch.cat([honest, evil]).norm(dim=1).quantile(0.5) * (
        1 + 1e-4
    )


def test_signguard_leaves_the_model_where_its_filters_disagree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # lengths 1 1 1 100 100 100, median 50.5: the first three are too short, and they are the
    # largest cluster
    signs = torch.tensor([[1.0, 0, 0]] * 3 + [[0, 0, 1.0]] * 2 + [[0, 1.0, 0]])
    monkeypatch.setattr(signguard, "sign_shares", lambda *_: signs)
    result = apply_rule(signguard.signguard(), torch.tensor([[1.0, 0]] * 3 + [[100.0, 0]] * 3))
    assert result.weights_N.tolist() == [0] * 6
    assert result.state.parameters.tolist() == [0, 0]


# RLR


@pytest.mark.parametrize(("threshold", "update"), [(0, [2, 3]), (2, [2, 3]), (3, [-2, 3])])
def test_rlr_by_hand(threshold: int, update: list[float]) -> None:
    # columns (0, 1, 5): |0 + 1 + 1| = 2 agree, mean 2; (3, 1, 5): 3 agree, mean 3
    result = apply_rule(rlr(threshold), SMALL)
    assert result.state.parameters.tolist() == update
    assert result.weights_N.tolist() == pytest.approx([1 / 3] * 3)
    assert result.extras["turned_share"] == (0.5 if threshold == 3 else 0)
    assert rlr(threshold).min_clients == max(1, threshold)


@laws
@given(seeds, st.integers(0, 6))
def test_rlr_agrees_with_counting(seed: int, threshold: int) -> None:
    matrix = normal(seed, 6, 12).round()
    result = apply_rule(rlr(threshold), matrix)
    for column, found in zip(matrix.T.tolist(), result.state.parameters.tolist(), strict=True):
        ups, downs = sum(value > 0 for value in column), sum(value < 0 for value in column)
        sign = 1 if abs(ups - downs) >= threshold else -1
        assert found == pytest.approx(sign * sum(column) / 6, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: foolsgold.foolsgold(0), "strategy.kappa=0"),
        (lambda: flame.flame(-1), "strategy.noise=-1"),
        (lambda: signguard.signguard(shortest=2), "strategy.shortest=2"),
        (lambda: signguard.signguard(longest=0.5), "strategy.longest=0.5"),
        (lambda: signguard.signguard(coordinates=0), "strategy.coordinates=0"),
        (lambda: rlr(-1), "strategy.threshold=-1"),
        (lambda: rlr(1.5), "strategy.threshold=1.5"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_named(make: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()
