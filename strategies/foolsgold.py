"""FoolsGold: clients whose histories are too alike are one attacker under several names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import STRIP, Updates, normalize
from fedrobust.state import Layout
from fedrobust.utils.validation import Positive, check_settings

SAME = 1e-9  # where no client is less like the others than this, none stands out


@check_settings("strategy")
def foolsgold(kappa: Positive = 1.0) -> Strategy:
    """The mean of the updates weighed by how unlike all others each client's history is (`alphas`
    has the formulas).

    A history is the sum of a client's updates so far, of the last layer alone (the paper's
    indicative features), one such row for every client ever seen: this is what the rule remembers.
    It finds attackers that work together, needs no bound on their number, misses a single one, and
    takes honest clients with equal data for attackers. The paper adds the weighted updates up;
    here, where an update is a whole local training, they are averaged. Where all are alike,
    all clients weigh the same (there 0/0 in the paper).

    Args:
        kappa: how sharply similar clients are separated from the others, as in the paper.

    Returns:
        The rule.

    Raises:
        ConfigError: kappa is out of its range.

    Reference:
        Fung, Yoon, Beschastnikh, RAID 2020, algorithm 1.
    """

    def rule(round: Round) -> Aggregate:
        history = extend_histories(round.memory.get("history", {}), round.updates)
        weights_N = normalize(
            alphas(history_gram([history[client] for client in round.updates.clients]), kappa)
        )
        return make_aggregate(
            round, round.updates.combine(weights_N), weights_N, memory={"history": history}
        )

    return Strategy("foolsgold", rule)


def extend_histories(past: Mapping[int, Tensor], updates: Updates) -> dict[int, Tensor]:
    """Every client's (F,) float32 history after this round; those absent from it keep theirs."""
    start = last_layer(updates.layout)
    history = dict(past)
    for n, client in enumerate(updates.clients):
        now_F = updates.row(n)[start:].to("cpu", torch.float32)
        history[client] = history[client] + now_F if client in history else now_F.clone()
    return history


def last_layer(layout: Layout | None) -> int:
    """The first column of the model's last matrix, after which only its bias comes; 0 where the
    columns have no names."""
    if layout is None:
        return 0
    starts = accumulate((shape.numel() for _, shape in layout.parameters), initial=0)
    matrices = [
        start
        for start, (_, shape) in zip(starts, layout.parameters, strict=False)
        if len(shape) > 1
    ]
    return matrices[-1] if matrices else 0


def history_gram(rows_F: Sequence[Tensor]) -> Tensor:
    """(N, N) float64 inner products of float32 rows, strip by strip."""
    total_NN = torch.zeros(len(rows_F), len(rows_F), dtype=torch.float64)
    width = max(1, STRIP // (4 * len(rows_F)))
    for start in range(0, len(rows_F[0]), width):
        strip_Nb = torch.stack([row_F[start : start + width] for row_F in rows_F]).to(torch.float64)
        total_NN += strip_Nb @ strip_Nb.T
    return total_NN


def alphas(gram_NN: Tensor, kappa: float) -> Tensor:
    """(N,) float64 weights in [0, 1] before they are brought to sum 1, from the inner products of
    the histories.

    cs_ij: cosine of two histories (negative ones count as 0, and so do those with a history of
    zeros); v_i = max_{j != i} cs_ij; where v_j > v_i, cs_ij is multiplied with v_i / v_j, which
    pardons honest clients that resemble attackers; alpha_i = 1 - max_j cs_ij, divided by the
    largest of all; at last kappa (ln(alpha_i / (1 - alpha_i)) + 0.5), cut to [0, 1].
    """
    lengths_N = gram_NN.diagonal().sqrt()
    cosines_NN = (
        (gram_NN / (lengths_N[:, None] * lengths_N[None, :]))
        .nan_to_num(0.0)
        .clamp_(0, 1)
        .fill_diagonal_(0)
    )
    nearest_N = cosines_NN.amax(dim=1)
    pardon_NN = (nearest_N[:, None] / nearest_N[None, :]).nan_to_num(1.0).clamp(max=1)
    alpha_N = 1 - (cosines_NN * pardon_NN).amax(dim=1)
    if float(alpha_N.max()) <= SAME:
        return torch.ones_like(alpha_N)
    return (kappa * (torch.logit(alpha_N / alpha_N.max()) + 0.5)).clamp(0, 1)
