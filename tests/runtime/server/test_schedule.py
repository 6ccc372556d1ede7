"""In which rounds poisoned clients attack: before, between and after they are honest clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fedrobust.clients.app import app as client_app
from flwr.app import Context, Message, RecordDict

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.contamination.base import Backdoor
from fedrobust.errors import ConfigError
from fedrobust.evaluation.metrics import success_rate
from fedrobust.experiment import build
from fedrobust.experiment.old_names import rename_config
from fedrobust.experiment.settings import ALWAYS, read_settings
from fedrobust.runtime.messages import records
from fedrobust.runtime.server.loop import predict_global, run_rounds
from fedrobust.runtime.server.rule_strategy import RuleStrategy, ServerContext
from fedrobust.runtime.server.schedule import relative_weight
from fedrobust.state import State, read
from tests.helpers import federations
from tests.helpers.federations import MEAN, FakeGrid, Memory, honest
from tests.runtime.server.test_checkpointing import StopAfter, StoppedError, go
from tests.runtime.server.test_collusion import one_round

POISONED = ("poisoned=[1]",)


def hospital(client: int = 1) -> Context:
    node = {"partition-id": client, "num-partitions": 3, "simulation": True}
    return Context(1, client, node, RecordDict(), {})


def reply(server: ServerContext, context: Context, number: int = 1, **changes: int) -> State:
    """The model that a hospital sends in a round in which it gets the untrained one."""
    records.set_identity()
    order = {**server.message_config(number), **changes}
    start = read(server.model, server.layout)
    sent = records.train_message(records.state_record(start), order)
    answer = client_app(Message(sent, context.node_id, "train"), context)
    sizes = server.layout.num_parameters, server.layout.num_buffers
    return records.read_train_reply(answer.content, sizes).state


@pytest.mark.parametrize(
    "attack", ["label_flip", "sign_flip", "backdoor_patch", "adaptive_etf", "evasion"]
)
def test_a_poisoned_client_that_does_not_attack_is_the_clean_one(attack: str) -> None:
    words = (*MEAN, f"contamination={attack}")
    server = federations.build_server(*words, *POISONED)
    attacked = reply(server, hospital())
    clean = reply(federations.build_server(*words), hospital())
    waits = reply(server, hospital(), attack=0)
    assert torch.equal(waits.parameters, clean.parameters)
    assert torch.equal(waits.buffers, clean.buffers)
    assert not torch.equal(attacked.parameters, clean.parameters)
    # its images of an attack are not those of a round without one, whichever came first
    assert torch.equal(reply(server, hospital()).parameters, attacked.parameters)


def test_a_noisy_client_stays_noisy_while_others_wait() -> None:
    words = ("noisy=[1]", "poisoned=[0]", "rounds=2", "schedule.from_round=2")
    server = federations.build_server(*MEAN, *words)
    waits, noisy = (reply(server, hospital(), **changes) for changes in ({"attack": 0}, {}))
    assert torch.equal(waits.parameters, noisy.parameters)


def test_who_waits_watches_what_the_global_model_does() -> None:
    words = ("contamination=backdoor_neurotoxin", *POISONED)
    server, context = federations.build_server(*MEAN, *words), hospital()
    reply(server, context, attack=0)
    assert "received" in [name.split("-")[0] for name in context.state]


def flags(server: ServerContext, rounds: int, rule: Strategy | None = None) -> list[int]:
    """Whether poisoned clients were told to attack, round by round."""
    if rule is not None:
        server = replace(server, experiment=replace(server.experiment, strategy=rule))
    strategy = federations.build_strategy(server)
    told = []
    for number in range(1, rounds + 1):
        grid = FakeGrid(3, honest(server))
        one_round(strategy, grid, number)
        orders = [records.read_config(message.content) for message in grid.sent]
        told.append({order.get(records.ATTACK, 1) for order in orders}.pop())
        recorded = strategy.outcome.extras.get("attacks", 1.0)
        assert recorded == float(told[-1])
    return told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), [1, 1, 1, 1]),
        (("schedule.from_round=3",), [0, 0, 1, 1]),
        (("schedule.until_round=2",), [1, 1, 0, 0]),
        (("schedule.from_round=2", "schedule.until_round=3"), [0, 1, 1, 0]),
    ],
)
def test_the_rounds_of_a_schedule(words: Sequence[str], expected: list[int]) -> None:
    server = federations.build_server(*MEAN, *POISONED, "rounds=4", *words)
    assert flags(server, 4) == expected


def test_attackers_leave_and_the_others_stay() -> None:
    words = ("rounds=3", "schedule.until_round=2", "schedule.afterwards=leave")
    experiment = federations.build_server(*MEAN, *POISONED, *words).experiment
    assert [experiment.participants(number) for number in (1, 2, 3)] == [[0, 1, 2]] * 2 + [[0, 2]]
    assert experiment.clean_twin().participants(3) == [0, 1, 2]
    sampled = federations.build_server(*MEAN, *POISONED, *words, "clients_per_round=2").experiment
    assert sampled.participants(3) == [0, 2]


def test_a_rule_that_needs_them_is_refused() -> None:
    words = ("strategy=krum", "strategy.f=0", "schedule.until_round=1", "rounds=2")
    config = federations.compose_settings(*words, "schedule.afterwards=leave", *POISONED)
    with pytest.raises(ConfigError, match=r"^schedule.afterwards=leave: 2 clients would be left"):
        build.build_experiment(config)


def test_without_poisoned_clients_there_is_no_schedule() -> None:
    server = federations.build_server(*MEAN, "poisoned=0", "schedule.from_round=3")
    strategy = federations.build_strategy(server)
    one_round(strategy, FakeGrid(3, honest(server)))
    assert strategy.outcome.extras == {}
    assert strategy.memory == {}


def weighing(*shares: float) -> Strategy:
    """A rule that gives the poisoned client 1 of 3 these weights, round by round."""

    def rule(round: Round) -> Aggregate:
        share = shares[round.number - 1]
        weights_N = torch.tensor([(1 - share) / 2, share, (1 - share) / 2])
        return make_aggregate(round, round.updates.combine(weights_N), weights_N)

    return Strategy("weighing", rule)


# honest clients claim 10, 20 and 30 images: client 1 has a third of both, so 0.3 is 0.9 of it
@pytest.mark.parametrize(
    ("distrusted", "expected"), [("attack", [0, 0, 1, 1, 1, 1]), ("behave", [0, 0, 1, 0, 0, 1])]
)
def test_attackers_wait_until_the_rule_trusts_them(distrusted: str, expected: list[int]) -> None:
    words = ("rounds=6", "schedule.trusted_at=0.9", f"schedule.distrusted={distrusted}")
    server = federations.build_server(*MEAN, *POISONED, *words)
    assert flags(server, 6, weighing(0.2, 0.31, 0.0, 0.29, 0.35, 0.0)) == expected


def test_trust_before_the_first_round_of_a_schedule_counts() -> None:
    words = ("rounds=3", "schedule.trusted_at=0.9", "schedule.from_round=3")
    server = federations.build_server(*MEAN, *POISONED, *words)
    assert flags(server, 3, weighing(0.3, 0.31, 0.31)) == [0, 0, 1]


def test_relative_weight_golden() -> None:
    weights, images = torch.tensor([0.1, 0.3, 0.6]), torch.tensor([10.0, 50.0, 40.0])
    # 0.1 of the weights, a third of the clients, a tenth of the images: all of its images' part
    assert relative_weight(weights, images, [0]) == pytest.approx(1.0)
    # 0.9 of two thirds and of 0.9: the smaller is two thirds
    assert relative_weight(weights, images, [1, 2]) == pytest.approx(1.35)
    assert relative_weight(torch.zeros(3), images, [0]) == 0.0


def one_state(*words: str, number: int = 1) -> tuple[RuleStrategy, State]:
    server = federations.build_server(*MEAN, "rounds=4", *words)
    strategy = federations.build_strategy(server)
    one_round(strategy, FakeGrid(3, honest(server)), number)
    return strategy, strategy.state


def test_colluders_who_wait_send_what_they_learnt() -> None:
    words = ("contamination=ipm", *POISONED, "schedule.from_round=2")
    plain, waits = one_state("poisoned=0")[1], one_state(*words)[1]
    acts, always = one_state(*words, number=2)[1], one_state(*words[:2], number=2)[1]
    assert torch.equal(waits.parameters, plain.parameters)
    assert torch.equal(acts.parameters, always.parameters)
    assert not torch.equal(acts.parameters, plain.parameters)


def test_colluders_who_pause_remember_what_they_knew() -> None:
    words = ("contamination=mimic", *POISONED, "schedule.until_round=1")
    strategy, _ = one_state(*words)
    before = strategy.memory
    one_round(strategy, FakeGrid(3, honest(strategy.server)), 2)
    assert before["adversary"] == strategy.memory["adversary"]


def test_a_backdoor_is_measured_after_every_round_of_a_schedule() -> None:
    words = (*MEAN, *POISONED, "contamination=backdoor_patch", "rounds=2")

    def extras(*more: str) -> list[set[str]]:
        server = federations.build_server(*words, *more)
        run = run_rounds(server, FakeGrid(3, honest(server)), Memory())
        last = predict_global(server, run.state, server.inputs.triggered(patch(server)))
        for rate in [run.records[-1].extras.get("attack_success_rate")]:
            assert rate in (None, success_rate(last, patch(server).target))
        return [set(record.extras) for record in run.records]

    both = {"attacks", "attack_success_rate"}
    assert extras("schedule.until_round=1") == [{"attack_success_rate"}, both, both]
    assert extras() == [set(), set(), set()]


def patch(server: ServerContext) -> Backdoor:
    found = server.experiment.backdoor
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("schedule.from_round=0",), "schedule.from_round=0: must be at least 1"),
        (("schedule.from_round=6",), "schedule.from_round=6: nobody would attack in rounds=5"),
        (
            ("schedule.from_round=4", "schedule.until_round=3"),
            "schedule.until_round=3: the first attack is in round 4 at the earliest",
        ),
        (("schedule.trusted_at=0",), "schedule.trusted_at=0: must be greater than 0"),
        (
            ("schedule.trusted_at=0.9", "rounds=1"),
            "schedule.trusted_at=0.9: nobody would attack in rounds=1",
        ),
        (
            ("schedule.trusted_at=0.9", "schedule.until_round=1"),
            "schedule.until_round=1: the first attack is in round 2",
        ),
        (
            ("schedule.afterwards=leave",),
            "schedule.afterwards=leave: nobody leaves before the last",
        ),
        (("schedule.distrusted=flee",), "schedule.distrusted=flee: must be one of attack, behave"),
    ],
)
def test_schedules_that_cannot_be_kept_are_refused(words: Sequence[str], line: str) -> None:
    config = federations.compose_settings("rounds=5", *POISONED, *words)
    with pytest.raises(ConfigError) as error:
        read_settings(config)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_nobody_sees_cannot_be_waited_for() -> None:
    words = ("strategy=fedavg", "privacy=secure_aggregation", *POISONED, "rounds=2")
    words = (*words, "schedule.trusted_at=0.9")
    with pytest.raises(ConfigError, match=r"^schedule.trusted_at=0.9: reads the rule's weights"):
        build.build_experiment(federations.compose_settings(*words))


def test_a_configuration_of_an_older_version_attacks_in_all_rounds() -> None:
    config = federations.compose_settings(*POISONED)
    del config["schedule"]
    assert read_settings(rename_config(config)).schedule == ALWAYS


@pytest.mark.slow
def test_what_attackers_wait_for_outlives_the_process(tmp_path: Path) -> None:
    words = (*POISONED, "rounds=3", "schedule.trusted_at=0.01", "contamination=sign_flip")
    undisturbed = go(tmp_path / "a", Memory(), *words)
    with pytest.raises(StoppedError):
        go(tmp_path / "b", StopAfter(3), *words)
    finished = go(tmp_path / "b", Memory(), *words)
    assert finished.seconds_before_resume > 0
    assert [record.extras["attacks"] for record in finished.records[1:]] == [0, 1, 1]
    assert torch.equal(finished.state.parameters, undisturbed.state.parameters)
