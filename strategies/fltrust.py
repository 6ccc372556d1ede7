"""FLTrust: updates are measured against the one that the server trains itself on its root set."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.norms import inner_products, norms
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.errors import ConfigError
from fedrobust.state import load, read
from fedrobust.types import Samples, Shard, Task


def fltrust() -> Strategy:
    """The mean of the updates g_n, brought to the length of the server's own update g_0 and weighed
    by trust scores TS_n = max(0, cos(g_n, g_0)): 1/(sum_n TS_n) sum_n TS_n |g_0|/|g_n| g_n.

    The server trains g_0 with the clients' trainer and settings on its root images, which are
    repeated until they are as many as the median client has, so that both take about as many steps.
    Tolerates any number of attackers, as far as the root set represents the honest ones. Weights
    reported: TS_n brought to sum 1. Where no client points the server's way, the global model
    stays. The rule raises ConfigError without a root set.

    Returns:
        The rule.

    Reference:
        Cao, Fang, Liu, Gong, NDSS 2021, section IV.

    Needs:
        root images
    """
    return Strategy("fltrust", _rule, frozenset({"root"}))


def _rule(round: Round) -> Aggregate:
    root_D = root_update(round)
    length, lengths_N = root_D.to(torch.float64).norm(), norms(round.updates)
    products_N = inner_products(round.updates, root_D)
    trust_N = (products_N / (length * lengths_N)).nan_to_num(0.0).clamp(0, 1)
    factors_N = torch.where(lengths_N > 0, length / lengths_N, 0.0)
    weights_N = normalize(trust_N)
    update_D = round.updates.combine(weights_N * factors_N)
    return make_aggregate(
        round, update_D, weights_N, extras={"trust": trust_N.tolist(), "root_norm": float(length)}
    )


def root_update(round: Round) -> Tensor:
    """The (D,) update that the clients' own training makes of the reference on the root images.
    Leaves that model in the scratch model."""
    data, layout = round.server_data, round.updates.layout
    if data.root is None or not len(data.root):
        raise ConfigError(
            "server.root_per_class=0: strategy=fltrust trains on root images; set "
            "server.root_per_class=8"
        )
    if data.trainer is None or layout is None:
        raise ValueError("fltrust needs the clients' trainer and updates with a layout")
    wanted = max(len(data.root), int(round.updates.num_examples_N.quantile(0.5)))
    nothing = data.root.take(torch.zeros(0, dtype=torch.int64))
    shard = Shard(repeat_samples(data.root, wanted), nothing, nothing)
    load(data.model, layout, round.reference)
    data.trainer(Task(data.model, shard, round.number, {}, {}, round.generator))
    return read(data.model, layout).parameters - round.reference.parameters.cpu()


def repeat_samples(samples: Samples, count: int) -> Samples:
    """The samples, over and over, `count` in all."""
    return samples.take(torch.arange(count) % len(samples))
