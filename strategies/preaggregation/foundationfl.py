"""FoundationFL: copies of the most central update are added before a rule."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.aggregation.round import Round
from fedrobust.aggregation.updates import Updates, column_strips
from fedrobust.utils.validation import check_settings

Copies = Annotated[int, Field(ge=0, le=10_000)]


@check_settings("preaggregation")
def foundationfl(synthetic: Copies | None = None) -> Preaggregation:
    """Adds copies of one client's update before the rule: of the client with the largest score s_n
    = min(|x_n - max|, |x_n - min|), where max and min are the largest and the smallest value of all
    clients in every coordinate.

    The paper puts it before the trimmed mean and the median; any rule may follow, and then bounds
    the number of attackers: its f counts among clients and copies together. Where an attacker has
    the largest score, its update is copied: f must stay below half of the clients, and the score is
    no test of honesty. A copy has its client's number and images: a rule that weighs by images
    counts them again, and one that looks for equal updates (FoolsGold) takes copies for attackers
    that work together. The first client wins a tie; two clients always tie. Cost: one more pass
    over the updates, and the rule's on as many more rows as there are copies.

    Args:
        synthetic: copies that are added (the paper's m); null: half as many as clients, rounded
            down.

    Returns:
        The map to the updates and the copies.

    Raises:
        ConfigError: the number of copies is out of its range.

    Reference:
        Fang, Nabavirazavi, Liu, Sun, Iyengar, Yang, NDSS 2025 (arXiv 2501.17381); the score as in a
        public implementation that is not the authors', the default number of copies is our choice.

    Needs:
        an honest majority
    """

    def copies(clients: int) -> int:
        return clients // 2 if synthetic is None else synthetic

    def mix(round: Round, gram_NN: Tensor) -> Tensor:
        own_NN = torch.eye(len(round.updates), dtype=torch.float64)
        chosen = int(extreme_distances(round.updates).argmax())
        return torch.cat([own_NN, own_NN[[chosen] * copies(len(own_NN))]])

    return Preaggregation(
        "foundationfl",
        None,
        rows=lambda clients: clients + copies(clients),
        limited_by="preaggregation.synthetic",
        mix_round=mix,
    )


def extreme_distances(updates: Updates) -> Tensor:
    """(N,) float64 distances of each update to the nearer of two points: the largest and the
    smallest value of all clients in every coordinate."""
    squares_2N = updates.matrix_ND.new_zeros((2, len(updates)), dtype=torch.float64)
    for _, block_Nb in updates.blocks():
        for _, strip_Nb in column_strips(block_Nb):
            wide_Nb = strip_Nb.to(torch.float64)
            for place, end_b in enumerate((wide_Nb.amax(dim=0), wide_Nb.amin(dim=0))):
                squares_2N[place] += (wide_Nb - end_b).square_().sum(dim=1)
    return squares_2N.amin(dim=0).sqrt().cpu()
