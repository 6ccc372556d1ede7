"""Attackers between the replies and the rule: in the adapter, and on whole small federations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord
from torch import Generator

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.errors import ConfigError, RunError
from fedrobust.runtime.messages import records
from fedrobust.runtime.server.rule_strategy import RuleStrategy
from fedrobust.state import State
from tests.helpers import federations
from tests.helpers.federations import MEAN, FakeGrid, Memory, honest, reply_with, trained
from tests.runtime.server.test_checkpointing import StopAfter, StoppedError, go


def one_round(strategy: RuleStrategy, grid: FakeGrid, number: int = 1) -> None:
    messages = strategy.configure_train(
        number, records.state_record(strategy.state), ConfigRecord(), grid
    )
    strategy.aggregate_train(number, grid.send_and_receive(messages))


def test_the_adapter_replaces_the_poisoned_row_and_nothing_else() -> None:
    server = federations.build_server(*MEAN, "contamination=ipm", "poisoned=[1]")
    strategy = federations.build_strategy(server)
    before = strategy.state
    one_round(strategy, FakeGrid(3, honest(server)))
    sent = [trained(server.layout, before, client) for client in range(3)]
    updates = [state.parameters.double() - before.parameters.double() for state in sent]
    updates[1] = -2 * (updates[0] + updates[2]) / 2
    # 10, 20 and 30 images, as claimed, and BatchNorm statistics as sent
    expected = before.parameters.double() + sum(
        (n + 1) / 6 * update for n, update in enumerate(updates)
    )
    assert torch.allclose(strategy.state.parameters.double(), expected, atol=1e-6)
    plain = federations.build_strategy(federations.build_server(*MEAN, "poisoned=0"))
    one_round(plain, FakeGrid(3, honest(server)))
    assert torch.equal(strategy.state.buffers, plain.state.buffers)
    assert [one.num_examples for one in strategy.outcome.clients] == [10, 20, 30]


class ForeignGrid:
    """A stand-in for a Grid of Flower's own: real sites."""

    def get_node_ids(self) -> list[int]:
        return [0, 1, 2]


def test_on_real_sites_nobody_works_together() -> None:
    def asked(*words: str) -> int:
        server = federations.build_server(*MEAN, *words)
        arrays = records.state_record(server.initial)
        return len(
            list(
                federations.build_strategy(server).configure_train(
                    1, arrays, ConfigRecord(), ForeignGrid()
                )
            )
        )

    assert (
        asked("contamination=alie", "poisoned=0")
        == asked("contamination=label_flip", "poisoned=1")
        == 3
    )
    with pytest.raises(
        ConfigError,
        match="contamination=alie: exists in simulations only; choose one that a client does",
    ):
        asked("contamination=alie", "poisoned=1")


def test_only_poisoned_clients_work_together() -> None:
    with pytest.raises(
        ConfigError, match="noise=alie: only poisoned clients work together; use contamination=alie"
    ):
        federations.build_server(*MEAN, "contamination@noise=alie", "noisy=1")


def test_the_rule_sees_neither_who_is_poisoned_nor_what_attackers_remember() -> None:
    seen: list[dict[str, Any]] = []

    def rule(round: Round) -> Aggregate:
        seen.append(dict(round.memory))
        n = len(round.updates)
        return make_aggregate(
            round,
            round.updates.combine(torch.ones(n) / n),
            torch.ones(n),
            memory={"rounds": round.number},
        )

    server = federations.build_server(*MEAN, "contamination=mimic", "poisoned=[1]")
    server = replace(server, experiment=replace(server.experiment, strategy=Strategy("spy", rule)))
    strategy = federations.build_strategy(server)
    for number in (1, 2):
        one_round(strategy, FakeGrid(3, honest(server)), number)
    assert seen == [{}, {"rounds": 1}]
    chosen = strategy.memory["adversary"]
    assert chosen in ({"target": 0}, {"target": 2})
    assert strategy.memory == {"rounds": 2, "adversary": chosen}


def test_a_tuned_attack_tries_the_live_rule_with_the_luck_of_the_round() -> None:
    drawn: list[float] = []

    def rule(round: Round) -> Aggregate:
        drawn.append(torch.rand(1, generator=round.generator).item())
        n = len(round.updates)
        return make_aggregate(
            round,
            round.updates.combine(torch.ones(n) / n),
            torch.ones(n),
            memory={"seen": len(drawn)},
        )

    server = federations.build_server(
        *MEAN, "contamination=optimal_ipm", "contamination.evaluations=4", "poisoned=[1]"
    )
    server = replace(server, experiment=replace(server.experiment, strategy=Strategy("spy", rule)))
    strategy = federations.build_strategy(server)
    one_round(strategy, FakeGrid(3, honest(server)))
    assert len(drawn) == 5
    assert len(set(drawn)) == 1
    assert strategy.memory == {"seen": 5}


def test_values_that_are_no_numbers_are_refused_and_the_round_goes_on_within_its_failures() -> None:
    for value in ("nan", "inf", "-inf"):
        words = (
            "contamination=not_finite",
            f"contamination.value='{value}'",
            "contamination.rate=0.01",
            "poisoned=[1]",
        )
        for allowed in (0, 1):
            server = federations.build_server(*MEAN, *words, f"server.max_failures={allowed}")
            strategy, answer = federations.build_strategy(server), honest(server)

            def reply(
                message: Any,
                server: Any = server,
                answer: Any = answer,
                start: State = strategy.state,
            ) -> Any:
                client = message.metadata.dst_node_id
                state = trained(server.layout, start, client)
                sent = server.experiment.contamination(client).update(
                    state, start, Generator().manual_seed(0)
                )
                return reply_with(server, message, sent) if client == 1 else answer(message)

            if not allowed:
                with pytest.raises(
                    RunError,
                    match="client 1: unusable reply: state: parameters holds values "
                    "that are not finite",
                ):
                    one_round(strategy, FakeGrid(3, reply))
                continue
            one_round(strategy, FakeGrid(3, reply))
            assert [one.client for one in strategy.outcome.clients] == [0, 2]
            assert strategy.state.parameters.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["mimic", "poisonedfl"])
def test_what_attackers_remember_outlives_the_process(tmp_path: Path, attack: str) -> None:
    words = (f"contamination={attack}", "poisoned=[1]", "rounds=3")
    undisturbed = go(tmp_path / "a", Memory(), *words)
    with pytest.raises(StoppedError):
        go(tmp_path / "b", StopAfter(3), *words)
    finished = go(tmp_path / "b", Memory(), *words)
    assert finished.seconds_before_resume > 0
    assert torch.equal(finished.state.parameters, undisturbed.state.parameters)
