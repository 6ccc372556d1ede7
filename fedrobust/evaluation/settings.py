"""Settings of the group `evaluation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from fedrobust.errors import ConfigError
from fedrobust.utils.validation import Count, PositiveCount, check_settings, flatten_groups

OBLIVIOUS = "oblivious"
# what an attacker knows of the purifier: nothing, what it does, its gradient
ThreatModel = Literal["oblivious", "bpda_eot", "differentiated"]
THREAT_MODELS = (OBLIVIOUS, "bpda_eot", "differentiated")
# of the validation images, in percent (evaluation.metrics.NAMES)
ValidationMetric = Literal["accuracy", "balanced_accuracy", "f1", "precision", "auroc", "ece"]
Bound = Annotated[float, Field(gt=0, le=255)]


def _check_list(key: str, values: Sequence[Any]) -> None:
    if not values or len({str(one) for one in values}) != len(values):
        raise ConfigError(
            f"evaluation.evasion_evaluation.{key}={values}: must be a list without repetitions, "
            "at least one entry long"
        )


@check_settings("evaluation.evasion_evaluation")
@dataclass(frozen=True, slots=True)
class EvasionEvaluation:
    """Measurements under evasion attacks; none with evasion=none.

    Attributes:
        eps_255: bounds of the attacks, in 255ths of the range.
        threat_models: what attackers know of the purifier: nothing, what it does, its gradient;
            oblivious must be among them.
        eot_samples: draws of the purifier's noise a step, for attackers who know it.
        adversarial_images: at most so many test images are attacked; null: all.
        adversarial_clients: whether every client's own model is attacked, too.
        fusion: whether all client models fused into one are attacked, too; needs model.head=etf.
    """

    eps_255: Sequence[Bound] = (1.0, 2.0, 4.0, 8.0)
    threat_models: Sequence[ThreatModel] = ("oblivious",)
    eot_samples: PositiveCount = 20
    adversarial_images: PositiveCount | None = None
    adversarial_clients: bool = True
    fusion: bool = False

    def __post_init__(self) -> None:
        _check_list("eps_255", self.eps_255)
        _check_list("threat_models", self.threat_models)
        if OBLIVIOUS not in self.threat_models:
            raise ConfigError(
                f"evaluation.evasion_evaluation.threat_models={self.threat_models}: must "
                f"contain {OBLIVIOUS}, with which the others are compared"
            )
        object.__setattr__(self, "eps_255", tuple(float(eps) for eps in self.eps_255))
        ordered = tuple(name for name in THREAT_MODELS if name in self.threat_models)
        object.__setattr__(self, "threat_models", ordered)


@check_settings("evaluation")
@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measurements at the end of a run.

    Attributes:
        bootstrap_samples: bootstrap resamples of the test images; 0: no intervals.
        validation_images: at most so many validation images evaluate the global model after each
            round.
        batch_size: images in one forward pass.
        twin: whether the clean twin is run.
        purified_statistics: whether a model that is evaluated behind a purifier has BatchNorm
            statistics of purified images there.
        evasion_evaluation: what of evasion attacks is measured.
        site_drops: whether the drops of the global model are also measured over the clients, each
            on its own test images, as those of clients' own models always are.
        best_metric: of the validation images; the model of the round with the best value is kept
            beside that of the last one; null: it is not.
    """

    bootstrap_samples: Count = 2000
    validation_images: PositiveCount = 512
    batch_size: PositiveCount = 128
    twin: bool = True
    purified_statistics: bool = True
    evasion_evaluation: EvasionEvaluation = field(default_factory=EvasionEvaluation)
    best_metric: ValidationMetric | None = None
    site_drops: bool = False


@flatten_groups
def settings(*, evaluation: Evaluation) -> Evaluation:
    """Measurements at the end of a run (`configs/evaluation/`).

    Args:
        evaluation: all of its settings.

    Returns:
        The checked settings.

    Raises:
        ConfigError: a setting is out of its range.
    """
    return evaluation
