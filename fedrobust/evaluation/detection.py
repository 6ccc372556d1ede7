"""Detection of poisoned clients by the influence that a rule gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def detection_scores(clients: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    """How well the influence given to clients tells the poisoned ones, in percent.

    `clients`: the report's items; of each, `kind`, `num_examples` and `weight` (influence in [0,
    1]) are read. A client counts as flagged when its weight is below half of min(1/N, n_i / sum n):
    less than half of what both an equal share and a share by size would give, so that neither small
    nor large honest clients look suspicious under size-weighted or clipped rules. precision: share
    of the flagged that are poisoned (None: nobody flagged); recall: share of the poisoned that are
    flagged. None where no client is poisoned.
    """
    poisoned = [client["kind"] == "poisoned" for client in clients]
    if not any(poisoned):
        return None
    total = sum(client["num_examples"] for client in clients)
    fair = [min(1 / len(clients), client["num_examples"] / total) for client in clients]
    flagged = [client["weight"] < share / 2 for client, share in zip(clients, fair, strict=True)]
    hits = sum(bad and caught for bad, caught in zip(poisoned, flagged, strict=True))
    return {
        "precision": 100 * hits / sum(flagged) if any(flagged) else None,
        "recall": 100 * hits / sum(poisoned),
    }
