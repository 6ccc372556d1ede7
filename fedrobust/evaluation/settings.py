"""Settings of the group `evaluation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.utils.validation import choice, flag, number

OBLIVIOUS = "oblivious"
# what an attacker knows of the purifier: nothing, what it does, its gradient
THREAT_MODELS = (OBLIVIOUS, "bpda_eot", "differentiated")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """bootstrap_samples: bootstrap resamples of the test images, 0 for no intervals;
    validation_images: how many validation images judge the global model after each round;
    batch_size: images in one forward pass; twin: whether the clean twin is run.

    Of evasion attacks: eps_255: their bounds in 255ths; threat_models: of THREAT_MODELS, the
    oblivious one first; eot_samples: draws of the purifier's noise a step, for attackers who know
    it; adversarial_images: at most so many test images, None: all; adversarial_clients: whether
    every client's own model is attacked too; fusion: and all of them fused into one.

    purified_statistics: whether a model that is judged behind a purifier has BatchNorm statistics
    of purified images there.
    """

    bootstrap_samples: int
    validation_images: int
    batch_size: int
    twin: bool
    eps_255: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    threat_models: tuple[str, ...] = (OBLIVIOUS,)
    eot_samples: int = 20
    adversarial_images: int | None = None
    adversarial_clients: bool = True
    fusion: bool = False
    purified_statistics: bool = True


def settings(
    *,
    bootstrap_samples: int,
    validation_images: int,
    batch_size: int,
    twin: bool = True,
    eps_255: Sequence[float] = (1, 2, 4, 8),
    threat_models: Sequence[str] = (OBLIVIOUS,),
    eot_samples: int = 20,
    adversarial_images: int | None = None,
    adversarial_clients: bool = True,
    fusion: bool = False,
    purified_statistics: bool = True,
) -> Evaluation:
    """Checked evaluation settings (`configs/evaluation/`)."""
    number("evaluation.bootstrap_samples", bootstrap_samples, low=0, integer=True)
    number("evaluation.validation_images", validation_images, low=1, integer=True)
    number("evaluation.batch_size", batch_size, low=1, integer=True)
    number("evaluation.eot_samples", eot_samples, low=1, integer=True)
    if adversarial_images is not None:
        number("evaluation.adversarial_images", adversarial_images, low=1, integer=True)
    return Evaluation(
        bootstrap_samples,
        validation_images,
        batch_size,
        flag("evaluation.twin", twin),
        tuple(
            float(number("evaluation.eps_255", eps, low=0, high=255, open_low=True))
            for eps in _listed("eps_255", eps_255)
        ),
        _threats(threat_models),
        eot_samples,
        adversarial_images,
        flag("evaluation.adversarial_clients", adversarial_clients),
        flag("evaluation.fusion", fusion),
        flag("evaluation.purified_statistics", purified_statistics),
    )


def _listed(key: str, values: Any) -> Sequence[Any]:
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not values
        or len({str(one) for one in values}) != len(values)
    ):
        raise ConfigError(
            f"evaluation.{key}={values}: must be a list without repetitions, at least "
            "one entry long"
        )
    return values


def _threats(names: Any) -> tuple[str, ...]:
    chosen = [
        choice("evaluation.threat_models", name, THREAT_MODELS)
        for name in _listed("threat_models", names)
    ]
    if OBLIVIOUS not in chosen:
        raise ConfigError(
            f"evaluation.threat_models={names}: must contain {OBLIVIOUS}, with which "
            "the others are compared"
        )
    return tuple(name for name in THREAT_MODELS if name in chosen)
