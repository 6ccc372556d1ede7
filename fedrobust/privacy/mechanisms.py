"""Privacy mechanisms applied to an update before it is sent (`configs/privacy/`): none, clipping,
local DP, masks under which the server sees sums only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from fedrobust.errors import RunError
from fedrobust.privacy.accounting import epsilon
from fedrobust.state import State
from fedrobust.utils.validation import Positive, check_settings

Noise = Callable[[int], Tensor]  # n -> (n,) float32 standard normal numbers
Delta = Annotated[float, Field(gt=0, le=0.5)]  # for which epsilon is reported
SumOf = Annotated[int, Field(ge=2)]  # a sum of one would hide nothing


@dataclass(frozen=True, slots=True)
class Privacy:
    """clip: the largest Euclidean length of an update over all parameters; None: any.
    noise_multiplier: standard deviation of the noise on each parameter in units of 2 clip, the most
    by which one hospital's data can move its clipped update; 0: no noise. delta: for which epsilon
    is told. secure: whether the server learns nothing but the sum of the updates
    (`privacy.secure`); threshold: of at least how many, None: of more than half."""

    name: str
    clip: float | None = None
    noise_multiplier: float = 0.0
    delta: float = 0.0
    secure: bool = False
    threshold: int | None = None

    @property
    def noisy(self) -> bool:
        """Whether there is a guarantee: then nothing of the training images leaves the hospital but
        the noisy update."""
        return self.noise_multiplier > 0

    @property
    def sends_buffers(self) -> bool:
        """Whether BatchNorm statistics, which are computed from a hospital's images, leave it."""
        return not (self.noisy or self.secure)

    def least(self, participants: int) -> int:
        """Least number of hospitals whose sum is opened, of so many that are asked in a round."""
        return participants // 2 + 1 if self.threshold is None else self.threshold

    def clip_update(self, sent: State, reference: State) -> Tensor:
        """(D,) float32: the update in new memory, no longer than `clip`. Raises RunError where it
        is not finite."""
        update_D = sent.parameters - reference.parameters
        length = float(torch.linalg.vector_norm(update_D, dtype=torch.float64))
        if not math.isfinite(length):  # it could not be clipped
            raise RunError("privacy: the update holds values that are not finite; nothing is sent")
        return (
            update_D
            if self.clip is None or length <= self.clip
            else update_D.mul_(self.clip / length)
        )

    def release(self, sent: State, reference: State, noise: Noise) -> State:
        """The state that is sent in the place of `sent`; neither it nor the received `reference` is
        changed.

        Raises RunError where the update is not finite. With noise the BatchNorm statistics are
        those received, since the client's own are computed from its images.
        """
        if self.clip is None:
            return sent
        update_D = self.clip_update(sent, reference)
        if not self.noisy:
            return State(update_D.add_(reference.parameters), sent.buffers)
        noise_D = noise(len(update_D)).mul_(2 * self.clip * self.noise_multiplier)
        return State(noise_D.add_(update_D).add_(reference.parameters), reference.buffers)

    def reply_statistics(
        self, num_examples: int, metrics: Mapping[str, float], extras: Mapping[str, Any]
    ) -> tuple[int, Mapping[str, float], Mapping[str, Any]]:
        """The statistics of a train reply: unchanged without noise; with noise one image and
        nothing else, equal for all hospitals."""
        return (1, {}, {}) if self.noisy else (num_examples, metrics, extras)

    def spent(self, releases: int) -> float | None:
        """Epsilon of a hospital after so many replies; None where there is no guarantee."""
        return epsilon(self.noise_multiplier, releases, self.delta) if self.noisy else None


def none() -> Privacy:
    """No mechanism: updates are sent unchanged."""
    return Privacy("none")


@check_settings("privacy")
def clipping(clip: Positive = 1.0) -> Privacy:
    """Updates are clipped, with no noise: it bounds a hospital's influence and hides nothing.

    Args:
        clip: the largest Euclidean length of an update.

    Returns:
        The mechanism.

    Raises:
        ConfigError: the clip is out of its range.
    """
    return Privacy("clipping", float(clip))


@check_settings("privacy")
def local_dp(
    clip: Positive = 1.0,
    noise_multiplier: Positive = 1.0,
    delta: Delta = 1e-5,
) -> Privacy:
    """Local differential privacy: the Gaussian mechanism on the clipped update, at the hospital.

    The guarantee is local and covers everything a hospital trains on: for any other data, what the
    server sees after k replies is (epsilon, delta)-indistinguishable (see `accounting.epsilon`).
    Test images are no part of it.

    Args:
        clip: the largest Euclidean length of an update before the noise.
        noise_multiplier: standard deviation of the noise on every parameter, in units of 2 clip.
        delta: for which epsilon is reported.

    Returns:
        The mechanism.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Dwork, Roth, 2014, appendix A.

    Needs:
        server.batchnorm=recalibrate or local
    """
    return Privacy("local_dp", float(clip), float(noise_multiplier), float(delta))


@check_settings("privacy")
def secure_aggregation(clip: Positive = 1.0, threshold: SumOf | None = None) -> Privacy:
    """Clipped updates under masks that cancel in their sum: the server learns the sum and none of
    them (`fedrobust.privacy.secure`).

    Args:
        clip: the largest Euclidean length of an update.
        threshold: the least number of hospitals whose sum is opened, more than half of those asked
            in a round; null: the smallest such number.

    Returns:
        The mechanism.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Bonawitz et al., CCS 2017.

    Needs:
        a rule that is a weighted sum (strategy=fedavg), without preaggregation;
        server.batchnorm=recalibrate or local;
        contaminations without collusion
    """
    return Privacy("secure_aggregation", float(clip), secure=True, threshold=threshold)
