"""Bucketing."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.utils import validation


def bucketing(size: int = 2) -> Preaggregation:
    """Updates are put in random order into ceil(N / size) buckets, drawn anew every round; the rule
    sees their means (Karimireddy, He, Jaggi, ICLR 2022, algorithm 1). The last bucket may hold
    fewer.

    A bucket with one attacker in it is lost, so a rule's f counts buckets. What a rule remembers of
    a client, it remembers of the first client of a bucket: rules with a memory of every client
    (FoolsGold, ETF-DML's trust) lose much of it here.
    """
    validation.number("preaggregation.size", size, low=1, integer=True)

    def mix(gram_NN: Tensor, clients: tuple[int, ...], generator: Generator) -> Tensor:
        drawn = torch.split(torch.randperm(len(clients), generator=generator), size)
        # in the order of their first clients
        buckets = sorted(drawn, key=lambda members: int(members.min()))
        mixing_MN = torch.zeros(len(buckets), len(clients), dtype=torch.float64)
        for m, members in enumerate(buckets):
            mixing_MN[m, members] = 1 / len(members)
        return mixing_MN

    return Preaggregation("bucketing", mix, rows=lambda clients: math.ceil(clients / size))
