"""FedLoGe's server: the weighted mean, with class vectors of one length in the last layer."""

from __future__ import annotations

from dataclasses import replace

import torch
from fedrobust.strategies.fedavg import fedavg as weighted_mean
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy
from fedrobust.state import State, views

LAST = "last.weight"


def fedloge() -> Strategy:
    """The mean of the updates by numbers of images; then each class vector of the last layer gets
    the mean length of all (global feature realignment, GA-FR). No robustness.

    Class vectors of frequent classes grow longer, and so take images from rare ones. The mean
    length is our choice; the authors' code gives all vectors a length of 1.7. The paper realigns
    the finished model; here each round's model is realigned, so that every round's metrics are
    those of an aligned model, and clients train on from it. A model without such a layer is left as
    it is; an ETF head, whose last layer is a projection without class vectors, is refused at the
    start.

    Returns:
        The rule.

    Reference:
        Xiao et al., ICLR 2024 (arXiv 2401.08977): GA-FR; with client=fedloge.

    Needs:
        model.head=linear
    """
    mean = weighted_mean()

    def rule(round: Round) -> Aggregate:
        found, layout = mean.rule(round), round.updates.layout
        if layout is None or LAST not in dict(layout.parameters):
            return found
        parameters = found.state.parameters.clone()
        last = views(layout.parameters, parameters)[LAST]
        last.copy_(equal_lengths(last))
        return replace(found, state=State(parameters, found.state.buffers))

    return Strategy("fedloge", rule, sums=mean.sums)


def equal_lengths(weights_Kd: Tensor) -> Tensor:
    """Rows at their mean length; a row of zeros stays one."""
    lengths_K1 = weights_Kd.norm(dim=1, keepdim=True)
    return weights_Kd * torch.where(lengths_K1 > 0, lengths_K1.mean() / lengths_K1, 1.0)
