"""Robust learning rate: where too few clients agree on a direction, the model goes the other
way."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import Updates, column_strips, normalize
from fedrobust.utils.validation import Count, check_settings


@check_settings("strategy")
def rlr(threshold: Count = 4) -> Strategy:
    """Robust learning rate: the mean of the updates, weighed by numbers of images, with its sign
    turned in every parameter in which |sum_n sgn(x_n)| is below the threshold.

    Weights reported: the shares of images, as no client is left out. The share of turned parameters
    is recorded.

    Args:
        threshold: a parameter moves forwards where the signs of so many more clients agree than
            disagree, else backwards; as many clients are needed. Against f attackers with a
            backdoor, a threshold above f and at most N - 2f turns what only they want; 0 is plain
            averaging.

    Returns:
        The rule.

    Raises:
        ConfigError: the threshold is out of its range.

    Reference:
        Ozdayi, Kantarcioglu, Gel, AAAI 2021.

    Needs:
        at least `threshold` clients a round
    """

    def rule(round: Round) -> Aggregate:
        weights_N = normalize(round.updates.num_examples_N)
        update_D, turned = sign_flipped_mean(round.updates, weights_N, threshold)
        return make_aggregate(round, update_D, weights_N, extras={"turned_share": turned})

    return Strategy("rlr", rule, min_clients=max(1, threshold), limited_by="strategy.threshold")


def sign_flipped_mean(updates: Updates, weights_N: Tensor, threshold: int) -> tuple[Tensor, float]:
    """The (D,) weighted mean, negated where fewer than `threshold` more clients go one way than the
    other, and their share."""
    out_D = updates.matrix_ND.new_empty(updates.matrix_ND.shape[1])
    weights, turned = weights_N.to(out_D), 0
    for part, block_Nb in updates.blocks():
        for inner, strip_Nb in column_strips(block_Nb):
            against_b = torch.sign(strip_Nb).sum(dim=0).abs() < threshold
            mean_b = weights @ strip_Nb
            out_D[part][inner] = torch.where(against_b, -mean_b, mean_b)
            turned += int(against_b.sum())
    return out_D, turned / max(1, len(out_D))
