"""In which rounds poisoned clients attack (`schedule.*`), and what the attackers know for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fedrobust.aggregation.round import Round
from fedrobust.aggregation.updates import normalize
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.settings import ALWAYS

# where what attackers know is kept, beside the rule's own memory: {"trusted": ..., "began": ...}
KEY = "schedule"


def is_scheduled(experiment: Experiment) -> bool:
    """Whether poisoned clients, if there are any, do not simply attack in all rounds."""
    return experiment.settings.schedule != ALWAYS and bool(experiment.clients_of_kind("poisoned"))


def attack_in(experiment: Experiment, number: int, memory: Mapping[str, Any]) -> bool:
    """Whether poisoned clients attack in a round; true where there is no schedule.

    Args:
        experiment: of the run.
        number: of the round.
        memory: what is kept from the round before, the rule's and the attackers'.
    """
    if not is_scheduled(experiment):
        return True
    asked, known = experiment.settings.schedule, memory.get(KEY, {})
    last = experiment.settings.rounds if asked.until_round is None else asked.until_round
    if not asked.from_round <= number <= last:
        return False
    if asked.trusted_at is None:
        return True
    began = asked.distrusted == "attack" and known.get("began", False)
    return bool(began or known.get("trusted", False))


def remember(
    experiment: Experiment, round: Round, weights_N: Tensor, memory: Mapping[str, Any]
) -> dict[str, Any]:
    """What is kept for the next round, {KEY: ...}; nothing where attackers do not wait for trust.
    Where none of them replied they know what they knew.

    Args:
        experiment: of the run.
        round: that was aggregated.
        weights_N: of the rule for its clients.
        memory: what was kept from the round before.
    """
    wanted = experiment.settings.schedule.trusted_at
    if wanted is None or not is_scheduled(experiment):
        return {}
    known = dict(memory.get(KEY, {}))
    known["began"] = known.get("began", False) or attack_in(experiment, round.number, memory)
    poisoned = set(experiment.clients_of_kind("poisoned"))
    rows = [row for row, client in enumerate(round.updates.clients) if client in poisoned]
    if rows:
        known["trusted"] = relative_weight(weights_N, round.updates.num_examples_N, rows) >= wanted
    return {KEY: known}


def relative_weight(weights_N: Tensor, num_examples_N: Tensor, rows: list[int]) -> float:
    """The part of a rule's weights that clients got, relative to the smaller of their part of the
    clients and their part of the images: what a plain or a weighted mean would have given them.

    Args:
        weights_N: of the rule.
        num_examples_N: training images of the clients.
        rows: of the clients in question, at least one.
    """
    shares = normalize(weights_N.cpu()), normalize(num_examples_N.cpu())
    got, images = (float(share_N[rows].sum()) for share_N in shares)
    return got / min(len(rows) / len(weights_N), images)
