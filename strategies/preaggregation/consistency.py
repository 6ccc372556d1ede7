"""Consistency scoring: updates that answer random inputs unlike the others are left out before a
rule."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.aggregation.round import Round
from fedrobust.errors import ConfigError
from fedrobust.learning import batchnorm
from fedrobust.learning.inference import embed
from fedrobust.learning.random_inputs import random_inputs
from fedrobust.state import State
from fedrobust.utils.validation import Count, PositiveCount, check_settings


@check_settings("preaggregation")
def consistency(f: Count = 3, inputs: PositiveCount = 256) -> Preaggregation:
    """Leaves out the f updates with the least sum of scores: the score of two clients is the mean
    cosine, over random inputs, of the features that two models give them whose weights are the
    clients' updates.

    The features are what the last fixed or linear classifier gets. The weights of frozen parts are
    the model's own. BatchNorm takes the statistics of the random inputs. Any rule may follow; it
    sees N - f clients. Attackers must be fewer than half, and the score says nothing of those who
    move the model as the others do. The authors' code draws normal noise for images; here it is
    uniform in [0, 1], and with a frozen backbone uniform in the range that each feature has on the
    proxy images, which are used for nothing else. Cost: one forward pass of `inputs` images a
    client, and N x inputs x features float32 values in memory. The first client wins a tie.

    Args:
        f: updates left out, among at least 2f + 1.
        inputs: random inputs, drawn anew every round.

    Returns:
        The map to the updates that are left.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Lee, Gong, Kang, 2024, arXiv:2411.10212 (GLOBECOM 2025). Given the same images, the scores
        agree with the authors' code to 1e-6 on four random ResNet-18.

    Needs:
        proxy images; at least 2f + 1 clients a round
    """

    def mix(round: Round, gram_NN: Tensor) -> Tensor:
        scores_N = consistency_scores(round, inputs)
        kept = scores_N.argsort(descending=True, stable=True)[: len(scores_N) - f].sort().values
        return torch.eye(len(scores_N), dtype=torch.float64)[kept]

    return Preaggregation(
        "consistency",
        None,
        min_clients=2 * f + 1,
        rows=lambda clients: max(clients - f, 0),
        mix_round=mix,
        uses=frozenset({"proxy"}),
    )


def consistency_scores(round: Round, inputs: int) -> Tensor:
    """(N,) float64 sums over all clients of the mean cosines of features, in [-N, N]. Leaves a
    client's update in the scratch model."""
    data, updates = round.server_data, round.updates
    if data.proxy is None or not len(data.proxy):
        raise ConfigError(
            "server.proxy_images=0: preaggregation=consistency draws random inputs like proxy "
            "images; set server.proxy_images=2"
        )
    if updates.layout is None:
        raise ValueError("consistency needs updates with a layout")
    drawn = random_inputs(data.proxy.images, inputs, round.generator)
    rows = []
    for n in range(len(updates)):
        state = State(updates.row(n), round.reference.buffers)
        batchnorm.load_and_recalibrate(data.model, updates.layout, state, drawn)
        rows.append(functional.normalize(embed(data.model, drawn), dim=1).flatten())
    unit_NV = torch.stack(rows).nan_to_num(0.0, 0.0, 0.0)
    total_V = unit_NV.sum(dim=0, dtype=torch.float64)
    scores = [float(unit_V.double() @ total_V) / len(drawn) for unit_V in unit_NV]
    return torch.tensor(scores, dtype=torch.float64)
