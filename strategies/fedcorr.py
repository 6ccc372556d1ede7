"""FedCorr: hospitals whose predictions have a high dimension have noisy labels; the global model is
finetuned by the others and then corrects them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils.two_groups import higher_group
from fedrobust.utils.validation import PositiveCount, Share, check_settings

LARGE_LOSSES, ALL = 1, 2  # words to clients on which labels they replace


@check_settings("strategy")
def fedcorr(
    preprocessing: PositiveCount = 3, finetuning: PositiveCount = 3, clean_below: Share = 0.1
) -> Strategy:
    """Averaging in three stages: all hospitals, those with few wrong labels, all again.

    1. Preprocessing: the mean weighted by numbers of images. After each round the hospitals' mean
       local intrinsic dimensions, averaged over the rounds, are split in two by a mixture of two
       normal distributions; those in the component with the larger mean are noisy and are told to
       relabel images of large loss.
    2. Finetuning: the same mean over the hospitals whose reported share of wrong labels is at most
       `clean_below` (over all, where none is). A noisy hospital reports a share in the first of
       these rounds, in which it relabels; the share stays until the end. One that has reported
       none counts as above.
    3. Rest: noisy hospitals are told to relabel every image of which the global model is sure; the
       mean over all.

    What the paper leaves open for rounds in which hospitals train at the same time: see
    client=fedcorr. Hospitals above `clean_below` train in the second stage, too, but weigh nothing.
    The mixture always finds two groups: where no hospital is noisy some are held for it all the
    same.

    Args:
        preprocessing: rounds of the first stage.
        finetuning: rounds of the second.
        clean_below: kappa, share of labels that seem wrong up to which a hospital counts as clean.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Xu et al., CVPR 2022, "FedCorr" (arXiv 2204.04677); the order of steps from the authors'
        code.

    Needs:
        client=fedcorr; hospitals of both kinds; it tolerates no attackers
    """

    def stage(number: int) -> int:
        return 1 if number <= preprocessing else 2 if number <= preprocessing + finetuning else 3

    def rule(round: Round) -> Aggregate:
        now, clients = stage(round.number), round.updates.clients
        lids = {**round.memory.get("lids", {})}
        noisy = list(round.memory.get("noisy", ()))
        levels = {**round.memory.get("levels", {}), **_read_levels(round, noisy if now > 1 else ())}
        if now == 1:
            for client, lid in read_numbers(round, "lid").items():
                total, rounds = lids.get(client, (0.0, 0))
                lids[client] = (total + lid, rounds + 1)
            noisy = find_noisy({client: total / rounds for client, (total, rounds) in lids.items()})
        counts_N = round.updates.num_examples_N.cpu()
        clean_N = torch.tensor(
            [_is_clean(client, levels, noisy, clean_below) for client in clients]
        )
        weights_N = normalize(counts_N * clean_N if now == 2 and clean_N.any() else counts_N)
        return make_aggregate(
            round,
            round.updates.combine(weights_N),
            weights_N,
            extras={"noisy": [float(client in noisy) for client in clients]},
            memory={"lids": lids, "levels": levels, "noisy": noisy},
            messages=_messages(lids, noisy, stage(round.number + 1), now),
        )

    return Strategy("fedcorr", rule)


def _read_levels(round: Round, relabelled: Collection[int]) -> dict[int, float]:
    """The shares of wrong labels that count. relabelled: clients whose 0 says only that they were
    not told to relabel in this round."""
    found = read_numbers(round, "level")
    return {client: level for client, level in found.items() if level or client not in relabelled}


def _is_clean(
    client: int, levels: Mapping[int, float], noisy: Collection[int], limit: float
) -> bool:
    level = levels.get(client, 0.0)
    return level <= limit and (level > 0 or client not in noisy)


def _messages(
    known: Mapping[int, Any], noisy: Collection[int], coming: int, now: int
) -> dict[int, dict[str, int]]:
    """What the clients get in the coming round, of the stage `coming`, after one of `now`."""
    word = LARGE_LOSSES if now == 1 else ALL if coming == 3 else 0
    return {
        client: {"stage": coming, "relabel": word if client in noisy else 0} for client in known
    }


def read_numbers(round: Round, name: str) -> dict[int, float]:
    """A number in each client's report by client, of those that report one."""
    found = {}
    for client, report in zip(round.updates.clients, round.reports, strict=False):
        value = report.get(name)
        if isinstance(value, float | int) and math.isfinite(value) and value >= 0:
            found[client] = float(value)
    return found


def find_noisy(lids: Mapping[int, float]) -> list[int]:
    """The clients whose predictions have a high dimension."""
    clients = sorted(lids)
    values_N1: Tensor = torch.tensor([[lids[client]] for client in clients]).reshape(-1, 1)
    high_N = higher_group(values_N1)
    return [client for client, high in zip(clients, high_N.tolist(), strict=True) if high]
