"""Rounds on bare matrices, for rules and for what stands before and after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.aggregation.round import Aggregate, Round, ServerData, Strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.state import State

SMALL = torch.tensor([[0.0, 3.0], [1.0, 1.0], [5.0, 5.0]])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def matrix_round(
    rows: Updates | Tensor,
    reference_D: Tensor | None = None,
    memory: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Round:
    updates = Updates.of(rows) if isinstance(rows, Tensor) else rows
    start_D = torch.zeros(updates.matrix_ND.shape[1]) if reference_D is None else reference_D
    reference = State(start_D, torch.zeros(updates.buffers_NB.shape[1]))
    return Round(
        1,
        reference,
        updates,
        ServerData(nn.Identity()),
        Generator().manual_seed(seed),
        memory or {},
    )


def apply_rule(
    strategy: Strategy, matrix_ND: Tensor, seed: int = 0, reference_D: Tensor | None = None
) -> Aggregate:
    return strategy.rule(matrix_round(matrix_ND, reference_D, seed=seed))


def mixing(before: Preaggregation, matrix_ND: Tensor, seed: int = 0) -> Tensor:
    assert before.mix is not None
    updates = Updates.of(matrix_ND)
    return before.mix(updates.gram(), updates.clients, Generator().manual_seed(seed))


def rows(before: Preaggregation, matrix_ND: Tensor, seed: int = 0) -> Tensor:
    return mixing(before, matrix_ND, seed) @ matrix_ND.double()
