"""Backdoors whose update is worked on before it is sent: scaled up to replace the model, or kept
where the other clients do not move it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator

from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.base import Contamination, TrackingContamination, keep_update
from fedrobust.contamination.common import ClassLabel, ClassNames, NumClasses
from fedrobust.state import State
from fedrobust.utils.validation import PositiveShare, Share, check_settings


@check_settings("contamination")
def backdoor_replacement(
    *,
    target: ClassLabel = 0,
    rate: Share = 0.5,
    gamma: Annotated[float, Field(ge=1)] = 10.0,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """Model replacement: the patch backdoor, and the reply becomes reference + gamma (trained -
    reference).

    With gamma = clients / attackers and all others near convergence the mean becomes the attackers'
    model. Buffers (BatchNorm statistics) stay as trained.

    Args:
        target: class, by number or name, that the patch of backdoor_patch stands for.
        rate: exact share of all images that get the patch; 0 plants and scales nothing.
        gamma: how much longer the update is; clients / attackers replaces the model under fedavg.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of images, labels and the update, with a backdoor.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Bagdasaryan et al., 2020, "How to backdoor federated learning", equation 3.
    """
    patch = backdoor_patch(
        target=target, rate=rate, num_classes=num_classes, class_names=class_names
    )

    def update(trained: State, reference: State, generator: Generator) -> State:
        return State(torch.lerp(reference.parameters, trained.parameters, gamma), trained.buffers)

    return replace(
        patch,
        name="backdoor_replacement",
        update=keep_update if rate == 0 or gamma == 1 else update,
    )


@check_settings("contamination")
def backdoor_neurotoxin(
    *,
    target: ClassLabel = 0,
    rate: Share = 0.5,
    kept: PositiveShare = 0.95,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """Neurotoxin: the patch backdoor, planted only in coordinates that the others hardly move.

    The update keeps its share `kept` of coordinates in which the global model moved least (in
    absolute value) between the last two states that this client received, and is 0 in the others.
    Departure: the paper projects every gradient step, here the finished update is projected once,
    because a contamination is no trainer. The authors' code ranks the coordinates by gradients on
    clean images instead. A client that takes part for the first time has seen only one state and
    sends its whole update; one that was not drawn for some rounds compares across them. Buffers
    stay as trained.

    Args:
        target: class, by number or name, that the patch of backdoor_patch stands for.
        rate: exact share of all images that get the patch; 0: nothing is planted or projected.
        kept: share of the coordinates, those that the global model moves least, in which the update
            is sent.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of images, labels and the update, with a backdoor.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Zhang et al., ICML 2022, "Neurotoxin: durable backdoors in federated learning". Given the
        same 1,000 random values, the same coordinates are kept as in the authors' code.
    """
    patch = backdoor_patch(
        target=target, rate=rate, num_classes=num_classes, class_names=class_names
    )
    return replace(
        patch,
        name="backdoor_neurotoxin",
        track=None if rate == 0 or kept == 1 else _projected(kept),
    )


def _projected(kept: float) -> TrackingContamination:
    def track(sent: State, reference: State, previous: State | None) -> State:
        if previous is None:
            return sent
        moved_D = (reference.parameters - previous.parameters).abs()
        count = round(kept * len(moved_D))
        if count == 0:
            return State(reference.parameters.clone(), sent.buffers)
        limit = moved_D.kthvalue(count).values
        return State(
            torch.where(moved_D <= limit, sent.parameters, reference.parameters), sent.buffers
        )

    return track
