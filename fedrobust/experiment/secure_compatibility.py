"""Settings that go together with secure aggregation, where the server learns nothing of the updates
but their sum. Everything else of the program that reads single updates or models on the server is
refused here."""

from __future__ import annotations

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.aggregation.round import Strategy
from fedrobust.contamination.base import Contamination, Evasion
from fedrobust.errors import ConfigError
from fedrobust.evaluation.settings import Evaluation
from fedrobust.experiment.settings import Settings
from fedrobust.privacy.mechanisms import Privacy
from fedrobust.privacy.secure.fixed_point import MOST_CLIENTS, MOST_WEIGHT
from fedrobust.utils.counting import format_count

WHY = "the server learns no more than their sum under privacy=secure_aggregation"


def check_sum_only(
    settings: Settings, privacy: Privacy, strategy: Strategy, preaggregation: Preaggregation
) -> None:
    """The rule and the numbers of hospitals. strategy: before it is composed with others. Raises
    ConfigError."""
    if not privacy.secure:
        return
    if strategy.sums is None:
        raise ConfigError(
            f"strategy={strategy.name}: looks at single updates, and {WHY}; use "
            "strategy=fedavg, or privacy=local_dp"
        )
    if preaggregation.active:
        raise ConfigError(
            f"preaggregation={preaggregation.name}: compares single updates, and "
            f"{WHY}; use preaggregation=none"
        )
    _check_numbers(settings, privacy)


def check_update_readers(
    settings: Settings,
    privacy: Privacy,
    evaluation: Evaluation,
    evasion: Evasion,
    damage: Contamination,
) -> None:
    """All others that read single updates or models. damage: what poisoned clients do. Raises
    ConfigError."""
    if not privacy.secure:
        return
    key, asked = "evaluation.evasion_evaluation", evaluation.evasion_evaluation
    if asked.fusion:
        raise ConfigError(
            f"{key}.fusion=true: fuses the hospitals' models, and {WHY}; set {key}.fusion=false"
        )
    if evasion.attack is not None and asked.adversarial_clients:
        why = f"attacks the hospitals' models, and {WHY}"
        raise ConfigError(
            f"{key}.adversarial_clients=true: {why}; set {key}.adversarial_clients=false"
        )
    if settings.schedule.afterwards == "leave" and settings.poisoned:
        raise ConfigError(
            "schedule.afterwards=leave: hospitals under privacy=secure_aggregation need to know "
            "how many take part; set schedule.afterwards=behave"
        )
    trusted_at = settings.schedule.trusted_at
    if trusted_at is not None and settings.poisoned:
        raise ConfigError(
            f"schedule.trusted_at={trusted_at:g}: reads the rule's weights, and {WHY}; set "
            "schedule.from_round"
        )
    if damage.collude is not None and settings.poisoned:
        why = f"its attackers write their updates on the server, and {WHY}"
        raise ConfigError(
            f"contamination={damage.name}: {why}; choose one that a client does by "
            "itself, such as scaling"
        )


def _check_numbers(settings: Settings, privacy: Privacy) -> None:
    asked, key = settings.num_participants, settings.participants_key
    if not 2 <= asked <= MOST_CLIENTS:
        raise ConfigError(
            f"{key}={getattr(settings, key)}: {format_count(asked, 'hospital')} a round, "
            f"privacy=secure_aggregation sums 2 to {MOST_CLIENTS}; change it"
        )
    least = privacy.least(asked)
    if not asked < 2 * least <= 2 * asked:
        hospitals = format_count(asked, "hospital")
        why = f"of {hospitals} a round it must be more than half and no more than all"
        raise ConfigError(
            f"privacy.threshold={least}: {why}; set it to {asked // 2 + 1} ... {asked}, or to null"
        )
    if settings.server.max_examples > MOST_WEIGHT:
        why = (
            f"weights in a sum of whole numbers are at most {MOST_WEIGHT} under "
            "privacy=secure_aggregation"
        )
        raise ConfigError(f"server.max_examples={settings.server.max_examples}: {why}; lower it")
