"""How many training images of a client count: its own number is a claim, what the server knows
bounds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClaimLimit:
    """count: training images of a client that count in a round at most. why: what sets the limit,
    in words."""

    count: int
    why: str


def limit_to_shard(held: int, most: int) -> ClaimLimit:
    """The limit of a client whose images the server itself shared out.

    Args:
        held: training images of the client.
        most: server.max_examples.
    """
    if held <= most:
        return ClaimLimit(held, "all that it holds")
    return ClaimLimit(most, f"server.max_examples={most}")


def limit_to_census(
    client: int, reported: Sequence[int | None], most: int, share: float | None
) -> ClaimLimit:
    """The limit of a real site: what it said when it joined, and a share of what all of them said.

    Args:
        client: its number.
        reported: training images by client number, each as its site said; None: of a site that was
            not connected then.
        most: server.max_examples.
        share: server.max_share, in (0, 1]: the largest share of all sites' images that counts as
            one site's; None: twice an equal share, at least a half, so that two or three sites of
            usual sizes count as they are. A single site has no others to be measured against.
    """
    if share is None:
        share = min(1.0, max(0.5, 2 / len(reported)))
    limits = [ClaimLimit(most, f"server.max_examples={most}")]
    own = reported[client]
    if own is not None:
        limits.append(ClaimLimit(own, "what it said when it joined"))
    others = sum(min(one or 0, most) for place, one in enumerate(reported) if place != client)
    if share < 1 and others:
        # rounded first: two thirds of 30 are 20, and no float knows it
        most_by_share = max(1, int(round(share / (1 - share) * others, 6)))
        limits.append(ClaimLimit(most_by_share, f"server.max_share: {share:.3g} of all images"))
    return min(limits, key=lambda limit: limit.count)
