"""Rounds with attackers who work together, on bare matrices."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from fedrobust.strategies.fedavg import fedavg
from torch import Generator, Tensor, nn

from fedrobust.aggregation.round import Round, Rule, ServerData
from fedrobust.aggregation.updates import Updates
from fedrobust.contamination.base import Contamination
from fedrobust.runtime.server.collusion import apply_collusion
from fedrobust.state import State


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def round_of(updates: Updates, reference_D: Tensor | None = None) -> Round:
    start = torch.zeros(updates.matrix_ND.shape[1]) if reference_D is None else reference_D
    return Round(
        1,
        State(start, torch.zeros(0)),
        updates,
        ServerData(nn.Identity()),
        Generator().manual_seed(5),
    )


def attack_matrix(
    contamination: Contamination,
    matrix_ND: Tensor,
    poisoned: Collection[int],
    *,
    rule: Rule | None = None,
    seed: int = 0,
    reference_D: Tensor | None = None,
    memory: dict[str, Any] | None = None,
) -> Tensor:
    """The whole matrix after the attack of these clients (row numbers); the given one is left
    alone."""
    updates = Updates.of(matrix_ND.clone())
    collusion = contamination.collude
    assert collusion is not None
    live = rule or fedavg(weighting="uniform").rule
    apply_collusion(
        collusion,
        poisoned,
        round_of(updates, reference_D),
        rule=live,
        generator=Generator().manual_seed(seed),
        memory=memory or {},
    )
    return updates.matrix_ND
