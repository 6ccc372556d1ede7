"""FedNoRo: hospitals with noisy labels are told apart by their losses of each class, learn from the
global model and weigh the less the farther they are from the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize, squared_distances
from fedrobust.utils.two_groups import higher_group
from fedrobust.utils.validation import PositiveCount, Share, check_settings

CLASS_LOSSES = "class_losses"  # of a client's report: (K,), below 0 for a class without images
SEEDS = range(9)  # of the mixtures, as in the authors' code


@check_settings("strategy")
def fednoro(warmup: PositiveCount = 3, weight: Share = 0.8, ramp: PositiveCount = 5) -> Strategy:
    """Averaging in which noisy hospitals, found by their loss of each class, count less.

    1. Warm-up: the mean weighted by numbers of images, while hospitals report their mean loss of
       each class.
    2. In its last round: a class that a hospital lacks gets the smallest loss of that class; each
       class is scaled to [0, 1] over the hospitals; of a mixture of two normal distributions the
       component with the larger mean is noisy (the most frequent outcome of nine starts).
    3. Afterwards w_n ~ images_n exp(-D_n), D_n = d_n / max d, d_n the distance of a noisy
       hospital's model to the nearest one that is not noisy, 0 of those that are not. Noisy
       hospitals learn from the global model with lambda = weight * exp(-5 (1 - p)^2), p from 0 in
       the first such round to 1 `ramp` rounds later.

    What the paper leaves open: distances are those of all parameters together (the authors' code
    adds up one for each tensor, BatchNorm's statistics among them); of hospitals that are sampled
    in the warm-up the last report counts, and one that sent none counts as not noisy. The mixture
    always finds two groups: where no hospital is noisy some are held for it all the same.

    Args:
        warmup: rounds before hospitals are told apart.
        weight: largest lambda.
        ramp: rounds after the first one with lambda until it has reached that.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Wu et al., IJCAI 2023, "FedNoRo"; the steps, weight .8 and the ramp's form as in the
        authors' code. The second step names the same hospitals as that code in ten of ten random
        federations; the third one's weights agree with it to 1e-6 on models of one random tensor.

    Needs:
        client=fednoro; hospitals of both kinds; it tolerates no attackers
    """

    def rule(round: Round) -> Aggregate:
        clients, noisy = round.updates.clients, round.memory.get("noisy")
        losses = {**round.memory.get("losses", {}), **read_losses(round)}
        named_N = torch.tensor([client in (noisy or ()) for client in clients])
        weights_N = distance_aware_weights(round, named_N)
        if noisy is None and round.number >= warmup:
            noisy = find_noisy(losses)
        return make_aggregate(
            round,
            round.updates.combine(weights_N),
            weights_N,
            extras={"noisy": [float(client in (noisy or ())) for client in clients]},
            memory={"losses": losses} if noisy is None else {"losses": losses, "noisy": noisy},
            messages=_messages(noisy, losses, weight * ramp_up(round.number - warmup, ramp)),
        )

    return Strategy("fednoro", rule)


def _messages(
    noisy: Sequence[int] | None, losses: Mapping[int, Any], weight: float
) -> dict[int, dict[str, float]]:
    if noisy is None:
        return {}
    return {client: {"noisy": int(client in noisy), "weight": weight} for client in losses}


def ramp_up(round: int, ramp: int) -> float:
    """exp(-5 (1 - p)^2) with p = round / ramp, at most 1: .007 in round 0, 1 from round `ramp`
    on."""
    phase = 1 - min(max(round, 0) / ramp, 1.0)
    return math.exp(-5 * phase**2)


def read_losses(round: Round) -> dict[int, list[float]]:
    """Losses of each class by client, of those that report as many as there are classes."""
    found = {}
    for client, report in zip(round.updates.clients, round.reports, strict=False):
        losses = report.get(CLASS_LOSSES)
        expected = (round.server_data.model.num_classes,)
        if isinstance(losses, Tensor) and tuple(losses.shape) == expected:
            found[client] = losses.tolist()
    return found


def find_noisy(losses: Mapping[int, Sequence[float]]) -> list[int]:
    """The clients whose losses of the classes are those of noisy labels."""
    clients = sorted(losses)
    if not clients:
        return []
    high_N = higher_group(
        scaled_losses(torch.tensor([losses[client] for client in clients])), SEEDS
    )
    return [client for client, high in zip(clients, high_N.tolist(), strict=True) if high]


def scaled_losses(losses_NK: Tensor) -> Tensor:
    """(N, K) losses in [0, 1] for each class; of a class that a client lacks (below 0) the
    smallest."""
    wide_NK = losses_NK.to(torch.float64)
    known_NK = wide_NK >= 0
    lowest_K = wide_NK.where(known_NK, math.inf).amin(dim=0)
    filled_NK = wide_NK.where(known_NK, lowest_K.where(lowest_K.isfinite(), 0.0))
    offset_NK = filled_NK - filled_NK.amin(dim=0)
    return offset_NK / offset_NK.amax(dim=0).clamp(min=1e-12)


def distance_aware_weights(round: Round, noisy_N: Tensor) -> Tensor:
    """(N,) shares ~ images exp(-D), D of noisy clients their distance to the nearest other one,
    relative to the largest; without clients of both kinds by images alone."""
    counts_N = round.updates.num_examples_N.cpu()
    if not noisy_N.any() or noisy_N.all():
        return normalize(counts_N)
    distances_NN = squared_distances(round.updates.gram().cpu()).sqrt()
    nearest_N = distances_NN[:, ~noisy_N].amin(dim=1).where(noisy_N, 0.0)
    return normalize(counts_N * torch.exp(-nearest_N / nearest_N.max().clamp(min=1e-30)))
