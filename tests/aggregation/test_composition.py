"""Pre-aggregation -> rule -> server optimizer: what they are together, and that none of them
changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fedrobust.strategies import preaggregation, server_optimizers
from fedrobust.strategies.fedavg import fedavg
from fedrobust.strategies.krum import krum, multi_krum
from fedrobust.strategies.median import median
from fedrobust.strategies.preaggregation.bucketing import bucketing
from fedrobust.strategies.preaggregation.clipping import arc, static_clipping
from fedrobust.strategies.preaggregation.nnm import nnm
from fedrobust.strategies.server_optimizers.adaptive import fedadagrad, fedadam, fedyogi
from fedrobust.strategies.server_optimizers.momentum import fedavgm
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.aggregation.composition import Preaggregation, ServerOptimizer, compose_strategy
from fedrobust.aggregation.round import Aggregate, Round, Strategy
from fedrobust.aggregation.storage import allocate
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.server.loop import run_rounds
from fedrobust.utils import nested
from tests.helpers import federations
from tests.helpers.federations import Memory
from tests.helpers.rounds import SMALL, apply_rule, matrix_round, mixing, normal

seeds = st.integers(0, 2**32)
NOTHING, PLAIN = preaggregation.none(), server_optimizers.none()


def test_none_and_none_are_the_rule_itself() -> None:
    rule = krum(1)
    assert compose_strategy(rule, NOTHING, PLAIN) is rule


def test_a_run_with_none_has_the_bits_of_one_without_the_groups() -> None:
    """The default experiment's rule is the built one itself, and doing nothing the long way
    (buckets of one, a plain step) gives the same model up to rounding."""
    experiment = federations.build_experiment("strategy=krum", "strategy.f=0", "num_clients=3")
    assert experiment.strategy.name == "krum"
    assert (experiment.config["preaggregation"], experiment.config["server_optimizer"]) == (
        {"_target_": "fedrobust.strategies.preaggregation.none"},
        {"_target_": "fedrobust.strategies.server_optimizers.none"},
    )
    matrix = normal(0, 5, 40)
    plain, long = (
        apply_rule(krum(1), matrix),
        apply_rule(compose_strategy(krum(1), bucketing(1), fedavgm(1.0, 0.0)), matrix),
    )
    torch.testing.assert_close(plain.state.parameters, long.state.parameters)
    torch.testing.assert_close(plain.weights_N, long.weights_N)
    torch.testing.assert_close(
        torch.tensor(plain.extras["krum_score"]), torch.tensor(long.extras["krum_score"])
    )


def test_a_mixture_on_disk_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # several blocks of each reading
    monkeypatch.setattr("fedrobust.aggregation.mixtures.SIZE", 1 << 16)
    monkeypatch.setattr("fedrobust.aggregation.mixtures.READ", 1 << 18)
    matrix = normal(0, 7, 40_001)
    mapped = allocate(7, 40_001, 0, str(tmp_path)).copy_(matrix)
    for before in (nnm(2), bucketing(2), arc(2)):
        for rule in (median(), krum(0)):
            one, other = (
                apply_rule(compose_strategy(rule, before, PLAIN), values)
                for values in (matrix, mapped)
            )
            assert torch.equal(one.state.parameters, other.state.parameters)
            assert torch.equal(one.weights_N, other.weights_N)


@pytest.mark.parametrize(
    ("rule", "before", "least"),
    [
        (fedavg(), nnm(2), 5),
        (krum(1), nnm(3), 7),
        (krum(3), nnm(1), 9),
        (krum(1), bucketing(2), 9),  # 5 buckets: 4 of two and one of one
        (krum(1), bucketing(3), 13),
        (median(), bucketing(4), 1),
        (fedavg(), arc(2), 5),
        (krum(1), static_clipping(1.0), 5),
    ],
)
def test_every_part_has_enough_clients(rule: Strategy, before: Preaggregation, least: int) -> None:
    both = compose_strategy(rule, before, fedadam())
    assert both.min_clients == least
    assert both.name == f"{before.name}+{rule.name}+fedadam"
    assert apply_rule(both, normal(0, least, 6)).state.parameters.isfinite().all()


def test_influence_goes_through_the_mixture() -> None:
    # NNM of SMALL with f = 1, see above: rows (.5, 2), (.5, 2), (2.5, 4) of clients 01, 01, 02; a
    # plain mean weighs client 0: 1/3 (1/2 + 1/2 + 1/2), client 1: 1/3 (1/2 + 1/2), client 2: 1/3
    # 1/2
    result = apply_rule(compose_strategy(fedavg("uniform"), nnm(1), PLAIN), SMALL)
    torch.testing.assert_close(
        result.weights_N, torch.tensor([1 / 2, 1 / 3, 1 / 6], dtype=torch.float64)
    )
    torch.testing.assert_close(result.state.parameters, torch.tensor([3.5 / 3, 8 / 3]))
    # clipping to 2 leaves 2/3, 1 and 2/7.0711 of the updates: shares of 1.94952
    result = apply_rule(compose_strategy(fedavg("uniform"), static_clipping(2.0), PLAIN), SMALL)
    torch.testing.assert_close(
        result.weights_N,
        torch.tensor([0.34196, 0.51295, 0.14508], dtype=torch.float64),
        atol=1e-4,
        rtol=0,
    )


@settings(max_examples=20)
@given(seeds, st.integers(1, 4))
def test_columns_of_buckets_become_columns_of_clients(seed: int, size: int) -> None:
    matrix = normal(seed, 12, 6)
    result = apply_rule(compose_strategy(multi_krum(0), bucketing(size), PLAIN), matrix, seed)
    assert len(result.weights_N) == len(result.extras["krum_score"]) == 12
    torch.testing.assert_close(result.weights_N.sum(), torch.tensor(1.0, dtype=torch.float64))
    found = mixing(bucketing(size), matrix, seed)
    for members in found != 0:  # the members of a bucket have one score
        assert len(set(torch.tensor(result.extras["krum_score"])[members].tolist())) == 1


def test_an_infinite_column_stays_with_its_bucket() -> None:
    def rule(round: Round) -> Aggregate:
        return replace(fedavg().rule(round), extras={"score": [float("inf"), 1.0], "plain": 2.0})

    extras = apply_rule(
        compose_strategy(Strategy("made_up", rule), bucketing(2), PLAIN), SMALL
    ).extras
    assert extras["plain"] == 2
    assert sorted(extras["score"]) in ([1, 1, float("inf")], [1, float("inf"), float("inf")])


def test_rules_of_another_kind_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^preaggregation\._target_: makes a ServerOptimizer, no Preaggregation"
    ):
        compose_strategy(median(), PLAIN, NOTHING)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"^strategy\._target_: makes a Preaggregation, no Strategy"
    ):
        compose_strategy(nnm(), NOTHING, PLAIN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nnm(-1), "preaggregation.f=-1"),
        (lambda: arc(0.5), "preaggregation.f=0.5"),  # type: ignore[arg-type]
        (lambda: bucketing(0), "preaggregation.size=0"),
        (lambda: static_clipping(0), "preaggregation.threshold=0"),
        (lambda: fedavgm(0), "server_optimizer.learning_rate=0"),
        (lambda: fedavgm(1, 1), "server_optimizer.momentum=1: must be less than 1"),
        (lambda: fedadam(beta1=-0.1), "server_optimizer.beta1=-0.1"),
        (lambda: fedadam(beta2=1.0), "server_optimizer.beta2=1.0: must be less than 1"),
        (lambda: fedyogi(beta2=1.5), "server_optimizer.beta2=1.5: must be less than 1"),
        (lambda: fedadagrad(tau=0), "server_optimizer.tau=0"),
        (
            lambda: federations.build_experiment("preaggregation=nnm"),
            "preaggregation.f=3: strategy=nnm\\+",
        ),
        (
            lambda: federations.build_experiment(
                "preaggregation=bucketing", "preaggregation.size=x"
            ),
            "preaggregation.size=x",
        ),
        (
            lambda: federations.build_experiment(
                "server_optimizer._target_=fedrobust.strategies.krum.krum"
            ),
            "must name a function in fedrobust.strategies.server_optimizers",
        ),
        (
            lambda: federations.build_experiment(
                "server_optimizer=fedadam", "+server_optimizer.f=3"
            ),
            "server_optimizer.f=3: unknown setting",
        ),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "optimizer", [fedavgm(), fedadagrad(), fedyogi(), fedadam()], ids=lambda one: one.name
)
def test_what_is_remembered_survives_a_checkpoint_and_is_never_changed(
    optimizer: ServerOptimizer,
) -> None:
    rule = compose_strategy(fedavg(), NOTHING, optimizer)
    first = rule.rule(matrix_round(Updates.of(normal(0, 3, 5)), normal(9, 5)))
    kept, tensors = nested.flatten(dict(first.memory))
    copies = [tensor.clone() for tensor in tensors]
    again = Updates.of(normal(1, 3, 5))
    one = rule.rule(matrix_round(again, first.state.parameters, first.memory))
    other = rule.rule(matrix_round(again, first.state.parameters, nested.unflatten(kept, copies)))
    assert torch.equal(one.state.parameters, other.state.parameters)
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))


def test_the_rule_and_the_optimizer_have_memories_of_their_own() -> None:
    def rule(round: Round) -> Aggregate:
        result = fedavg().rule(round)
        return replace(result, memory={"rounds": round.memory.get("rounds", 0) + 1})

    both = compose_strategy(Strategy("counting", rule), nnm(0), fedavgm())
    first = both.rule(matrix_round(Updates.of(SMALL)))
    second = both.rule(matrix_round(Updates.of(SMALL), memory=first.memory))
    assert second.memory["rule"] == {"rounds": 2}
    assert second.memory["server_optimizer"]["momentum"].tolist() == pytest.approx(
        [2 * 1.9, 3 * 1.9]
    )


def test_a_whole_round_of_the_three_on_real_clients() -> None:
    words = (
        "strategy=median",
        "preaggregation=bucketing",
        "server_optimizer=fedyogi",
        "server.batchnorm=mean",
        "rounds=2",
    )
    server = federations.build_server(*words)
    with InlineGrid("fedrobust.clients.app:app", 3, {"simulation": True}, threads=1) as grid:
        finished = run_rounds(server, grid, Memory())
    assert server.experiment.strategy.name == "bucketing+median+fedyogi"
    for record in finished.records[1:]:
        assert sum(one.weight for one in record.clients) == pytest.approx(1)
    moved = (finished.state.parameters - server.initial.parameters).abs()
    assert 0 < float(moved.max()) < 2 * 0.1
