"""The best round, and when a run ends before its last round."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fedrobust.errors import ConfigError
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.settings import StopSettings
from fedrobust.privacy.mechanisms import local_dp
from fedrobust.runtime.server.loop import run_rounds
from fedrobust.runtime.server.stopping import BestRound, check_stopping, find_best, stop_reason
from fedrobust.types import TWIN, RoundRecord
from tests.helpers import federations
from tests.helpers.federations import MEAN, FakeGrid, Memory, honest

NAN = math.nan


def records(*values: float | None, metric: str = "f1", seconds: float = 1.0) -> list[RoundRecord]:
    return [
        RoundRecord(number, {metric: value}, seconds={"train": seconds})
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((90.0, 20.0, 30.0, 25.0), BestRound(2, 30.0)),  # not the untrained model
        ((0.0, 30.0, 30.0), BestRound(1, 30.0)),  # of equal ones the earlier
        ((0.0, NAN, 10.0, NAN, None), BestRound(2, 10.0)),
        ((0.0, 10.0, math.inf), BestRound(1, 10.0)),
        ((50.0, NAN, None), None),
        ((50.0,), None),
    ],
)
def test_the_best_round(values: tuple[float | None, ...], best: BestRound | None) -> None:
    assert find_best(records(*values), "f1") == best
    assert find_best(records(*values), "accuracy") is None


def test_a_calibration_error_is_best_where_it_is_lowest() -> None:
    assert find_best(records(0.0, 9.0, 7.0, 8.0, metric="ece"), "ece") == BestRound(2, 7.0)
    assert find_best(records(0.0, 9.0, 8.5, 7.9, metric="ece"), "ece", 1.0) == BestRound(3, 7.9)


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return federations.build_experiment(*MEAN, "rounds=100")


def stopping(one: Experiment, **settings: object) -> Experiment:
    stop = StopSettings.model_validate(settings)
    return replace(one, settings=one.settings.model_copy(update={"stop_when": stop}))


def test_a_run_ends_on_a_plateau_and_says_where_it_was_best(experiment: Experiment) -> None:
    one = stopping(experiment, metric="f1", patience=2, min_delta=1.0)
    values = (0.0, 10.0, 20.0, 20.9, NAN, 30.0, 31.0, None)
    reasons = [stop_reason(one, records(*values[: n + 1])) for n in range(len(values))]
    assert [bool(reason) for reason in reasons] == [*4 * [False], True, False, False, True]
    assert reasons[4] == (
        "f1 of the validation images has not improved by more than 1 percentage points in 2 rounds "
        "(best: 20.00 % in round 2)"
    )
    assert "(best: never defined)" in stop_reason(one, records(5.0, None, NAN))


def test_a_run_ends_once_its_rounds_took_so_long(experiment: Experiment) -> None:
    one = stopping(experiment, seconds=3.5)
    assert not stop_reason(one, records(1.0, 1.0, 1.0))
    assert stop_reason(one, records(1.0, 1.0, 1.0, 1.0)) == "its rounds took 4.0 of 3.5 s"
    assert not stop_reason(experiment, records(*100 * [1.0], seconds=1e6))


def test_no_round_that_would_exceed_the_budget_of_epsilon_is_begun(experiment: Experiment) -> None:
    noisy = replace(experiment, privacy=local_dp(noise_multiplier=4.0))
    spent = [noisy.privacy.spent(number) or 0.0 for number in range(6)]
    one = stopping(noisy, epsilon=(spent[3] + spent[4]) / 2)
    check_stopping(one)
    ended = [bool(stop_reason(one, records(*(number + 1) * [1.0]))) for number in range(4)]
    assert ended == [False, False, False, True]
    with pytest.raises(ConfigError, match=r"^stop_when\.epsilon=0\.01: one round spends"):
        check_stopping(stopping(noisy, epsilon=0.01))
    with pytest.raises(ConfigError, match=r"^stop_when\.epsilon=8: privacy=none spends none; set"):
        check_stopping(stopping(experiment, epsilon=8.0))


def test_what_cannot_be_measured_is_refused(experiment: Experiment) -> None:
    dataset = replace(experiment.dataset, splits=experiment.dataset.splits.clamp(max=0))
    blind = replace(experiment, dataset=dataset)
    check_stopping(blind)
    with pytest.raises(ConfigError, match=r"^stop_when\.metric=f1: the server has no validation"):
        check_stopping(stopping(blind, metric="f1"))
    evaluation = replace(experiment.evaluation, best_metric="auroc")
    with pytest.raises(ConfigError, match=r"^evaluation\.best_metric=auroc: the server has no"):
        check_stopping(replace(blind, evaluation=evaluation))


def test_the_run_ends_after_a_whole_round_and_says_why_and_its_twin_does_not() -> None:
    server, memory = federations.build_server(*MEAN, "rounds=3", "stop_when.seconds=1e-6"), Memory()
    finished = run_rounds(server, FakeGrid(3, honest(server)), memory)
    assert [one.number for one in finished.records] == [0, 1]
    assert finished.rounds == 1
    assert finished.records[-1].stopped.startswith("its rounds took ")
    [said] = [event for event in memory.events if "ends after" in str(event)]
    assert said[2] == f"ends after round 1 of 3: {finished.records[-1].stopped}"
    server = federations.build_server(*MEAN, "rounds=3", "stop_when.seconds=1e-6")
    assert run_rounds(server, FakeGrid(3, honest(server)), Memory(), TWIN).rounds == 3
