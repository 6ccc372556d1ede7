"""Bucketing."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.utils.validation import PositiveCount, check_settings


@check_settings("preaggregation")
def bucketing(size: PositiveCount = 2) -> Preaggregation:
    """Updates are put in random order into ceil(N / size) buckets, drawn anew every round; the rule
    sees their means. The last bucket may hold fewer.

    A bucket with one attacker in it is lost, so a rule's f counts buckets. What a rule remembers of
    a client, it remembers of the first client of a bucket: rules with a memory of every client
    (FoolsGold, ETF-DML's trust) lose much of it here.

    Args:
        size: updates in a bucket.

    Returns:
        The map to the buckets' means.

    Raises:
        ConfigError: the size is out of its range.

    Reference:
        Karimireddy, He, Jaggi, ICLR 2022, algorithm 1.
    """

    def mix(gram_NN: Tensor, clients: tuple[int, ...], generator: Generator) -> Tensor:
        drawn = torch.split(torch.randperm(len(clients), generator=generator), size)
        # in the order of their first clients
        buckets = sorted(drawn, key=lambda members: int(members.min()))
        mixing_MN = torch.zeros(len(buckets), len(clients), dtype=torch.float64)
        for m, members in enumerate(buckets):
            mixing_MN[m, members] = 1 / len(members)
        return mixing_MN

    return Preaggregation("bucketing", mix, rows=lambda clients: math.ceil(clients / size))
