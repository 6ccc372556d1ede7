"""Detection of poisoned clients by the influence that a rule gives them, or by what the rule
reports."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fedrobust.types import RoundRecord

NAMED = "noisy"  # a rule's column of clients that it considers contaminated (1) or not (0)


class WeightedClient(Protocol):
    """Input of the detection for one client: its number, its kind, how many training images it has
    and its influence in [0, 1]."""

    @property
    def id(self) -> int: ...

    @property
    def kind(self) -> str: ...

    @property
    def num_examples(self) -> int: ...

    @property
    def weight(self) -> float: ...


@dataclass(frozen=True, slots=True)
class DetectionScores:
    """In percent. precision: share of the flagged clients that are poisoned, None where no client
    was flagged; recall: share of the poisoned clients that are flagged. by: "rule" where the rule
    itself names them; None: by influence."""

    precision: float | None
    recall: float
    by: Literal["rule"] | None = None


def named_clients(records: Iterable[RoundRecord]) -> frozenset[int] | None:
    """The clients that the rule named when it last said anything of them; None where it names
    none in any round."""
    last = {
        one.client: one.extras[NAMED]
        for record in records
        for one in record.clients
        if NAMED in one.extras
    }
    return frozenset(client for client, named in last.items() if named) if last else None


def detection_scores(
    clients: Sequence[WeightedClient], named: Collection[int] | None = None
) -> DetectionScores | None:
    """Detection of the poisoned clients.

    A client counts as flagged when its weight is below half of min(1/N, n_i / sum n): less than
    half of what both an equal share and a share by size would give, so that neither small nor large
    honest clients look suspicious under size-weighted or clipped rules.

    Args:
        clients: all clients of the run, in the order of their numbers.
        named: numbers of the clients that the rule itself names, which are flagged then; None: by
            influence.

    Returns:
        The scores; None where no client is poisoned.
    """
    poisoned = [client.kind == "poisoned" for client in clients]
    if not any(poisoned):
        return None
    flagged = flagged_clients(clients, named)
    hits = sum(bad and caught for bad, caught in zip(poisoned, flagged, strict=True))
    return DetectionScores(
        100 * hits / sum(flagged) if any(flagged) else None,
        100 * hits / sum(poisoned),
        None if named is None else "rule",
    )


def false_alarms(
    clients: Sequence[WeightedClient], named: Collection[int] | None = None
) -> float | None:
    """Of the clients that are not poisoned, the percentage flagged; None where all are poisoned.
    Arguments as of `detection_scores`."""
    flagged = flagged_clients(clients, named)
    honest = [
        caught for client, caught in zip(clients, flagged, strict=True) if client.kind != "poisoned"
    ]
    return 100 * sum(honest) / len(honest) if honest else None


def flagged_clients(
    clients: Sequence[WeightedClient], named: Collection[int] | None = None
) -> list[bool]:
    """Whom the rule names or, where it names none, whose influence is little, as of
    `detection_scores`."""
    if named is not None:
        return [client.id in named for client in clients]
    return _little_influence(clients)


def _little_influence(clients: Sequence[WeightedClient]) -> list[bool]:
    total = sum(client.num_examples for client in clients)
    fair = [min(1 / len(clients), client.num_examples / total) for client in clients]
    return [client.weight < share / 2 for client, share in zip(clients, fair, strict=True)]
