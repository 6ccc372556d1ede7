"""When a run ends before its last round."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedrobust.errors import ConfigError
from fedrobust.evaluation.metrics import improves
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.settings import StopSettings
from fedrobust.types import RoundRecord
from fedrobust.utils.counting import format_count


def stop_reason(experiment: Experiment, records: Sequence[RoundRecord]) -> str:
    """Why no further round is to follow; empty where one is. It follows from the records alone, so
    that a resumed run stops where the undisturbed one does.

    Args:
        experiment: of the run.
        records: of all rounds so far, from round 0.
    """
    stop = experiment.settings.stop_when
    reasons = (_plateau(stop, records), _seconds(stop, records), _epsilon(experiment, records))
    return next((one for one in reasons if one), "")


def check_stopping(experiment: Experiment) -> None:
    """Whether `stop_when` and `evaluation.best_metric` can be obeyed. Raises ConfigError."""
    stop, best = experiment.settings.stop_when, experiment.evaluation.best_metric
    wanted = {"stop_when.metric": stop.metric, "evaluation.best_metric": best}
    for key, metric in wanted.items():
        if metric is not None and not len(experiment.validation_rows()):
            raise ConfigError(
                f"{key}={metric}: the server has no validation images to measure it on; leave it "
                "out"
            )
    if stop.epsilon is None:
        return
    first, name = experiment.privacy.spent(1), experiment.privacy.name
    if first is None:
        raise ConfigError(
            f"stop_when.epsilon={stop.epsilon:g}: privacy={name} spends none; set "
            "privacy=local_dp, or leave it out"
        )
    if first > stop.epsilon:
        raise ConfigError(
            f"stop_when.epsilon={stop.epsilon:g}: one round spends {first:.3g}; raise it or "
            "privacy.noise_multiplier"
        )


def _plateau(stop: StopSettings, records: Sequence[RoundRecord]) -> str:
    if stop.metric is None:
        return ""
    best = find_best(records, stop.metric, stop.min_delta)
    since = records[-1].number - (0 if best is None else best.number)
    if since < stop.patience:
        return ""
    reached = "never defined" if best is None else f"{best.value:.2f} % in round {best.number}"
    return (
        f"{stop.metric} of the validation images has not improved by more than "
        f"{stop.min_delta:g} percentage points in {format_count(since, 'round')} (best: {reached})"
    )


def _seconds(stop: StopSettings, records: Sequence[RoundRecord]) -> str:
    if stop.seconds is None:
        return ""
    spent = sum(sum(record.seconds.values()) for record in records)
    return f"its rounds took {spent:.1f} of {stop.seconds:g} s" if spent >= stop.seconds else ""


def _epsilon(experiment: Experiment, records: Sequence[RoundRecord]) -> str:
    """The last round is the last that stays within the budget."""
    limit = experiment.settings.stop_when.epsilon
    if limit is None:
        return ""
    after = experiment.privacy.spent(experiment.max_replies(records[-1].number + 1))
    if after is None or after <= limit:
        return ""
    return f"one more round would spend epsilon {after:.3g} of {limit:g}"


@dataclass(frozen=True, slots=True)
class BestRound:
    """A round and its value in percent."""

    number: int
    value: float


def find_best(
    records: Sequence[RoundRecord], metric: str, min_delta: float = 0.0
) -> BestRound | None:
    """The trained round with the best value; of equal ones, and of those that are not better by
    more than min_delta percentage points, the earlier. An undefined value is never the best; None:
    all are undefined."""
    best: BestRound | None = None
    for number, value in _defined(records, metric):
        if best is None or improves(metric, value, best.value, min_delta):
            best = BestRound(number, value)
    return best


def _defined(records: Sequence[RoundRecord], metric: str) -> Iterator[tuple[int, float]]:
    for record in records:
        value = record.metrics.get(metric)
        if record.number > 0 and value is not None and math.isfinite(value):
            yield record.number, value
