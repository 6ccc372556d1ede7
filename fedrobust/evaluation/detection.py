"""Detection of poisoned clients by the influence that a rule gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class WeightedClient(Protocol):
    """Input of the detection for one client: its kind, its number of training images and its
    influence in [0, 1]."""

    @property
    def kind(self) -> str: ...

    @property
    def num_examples(self) -> int: ...

    @property
    def weight(self) -> float: ...


@dataclass(frozen=True, slots=True)
class DetectionScores:
    """In percent. precision: share of the flagged clients that are poisoned, None where no client
    was flagged; recall: share of the poisoned clients that are flagged."""

    precision: float | None
    recall: float


def detection_scores(clients: Sequence[WeightedClient]) -> DetectionScores | None:
    """Detection of the poisoned clients by the influence given to them.

    A client counts as flagged when its weight is below half of min(1/N, n_i / sum n): less than
    half of what both an equal share and a share by size would give, so that neither small nor large
    honest clients look suspicious under size-weighted or clipped rules.

    Args:
        clients: all clients of the run.

    Returns:
        The scores; None where no client is poisoned.
    """
    poisoned = [client.kind == "poisoned" for client in clients]
    if not any(poisoned):
        return None
    total = sum(client.num_examples for client in clients)
    fair = [min(1 / len(clients), client.num_examples / total) for client in clients]
    flagged = [client.weight < share / 2 for client, share in zip(clients, fair, strict=True)]
    hits = sum(bad and caught for bad, caught in zip(poisoned, flagged, strict=True))
    return DetectionScores(
        100 * hits / sum(flagged) if any(flagged) else None, 100 * hits / sum(poisoned)
    )
