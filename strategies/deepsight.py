"""DeepSight: clusters of updates whose training data look as if they had few classes are left
out."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from fedrobust.strategies.distillation.members import Members
from fedrobust.strategies.flame import cosine_distances
from pydantic import Field
from torch import Tensor

from fedrobust.aggregation.norms import norms
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.errors import ConfigError
from fedrobust.learning.inference import predict
from fedrobust.learning.random_inputs import random_inputs
from fedrobust.state import load, views
from fedrobust.utils.validation import PositiveCount, PositiveShare, check_settings

ClusterSize = Annotated[int, Field(ge=2)]
LEAST_FACTOR = 0.01  # of the largest NEUP, for exceedings, where there are many classes


@check_settings("strategy")
def deepsight(
    inputs: PositiveCount = 256,
    draws: PositiveCount = 3,
    smallest_cluster: ClusterSize = 3,
    suspicious_share: PositiveShare = 1 / 3,
) -> Strategy:
    """The mean, by numbers of images, of the updates in clusters with few suspicious ones,
    shortened to the median length of all.

    1. NEUPs: e_k^2 / sum e^2, where e_k is the sum of the magnitudes of the update of class k's
       weights and bias in the last layer. Threshold exceedings: how many of them are above max(.01,
       1/K) times the largest. Suspicious is who has at most half the median number.
    2. DDifs: for each class the mean, over random inputs, of the client's probability divided by
       the global model's; `draws` sets of inputs.
    3. HDBSCAN clusters the clients by NEUPs, by DDifs (once a draw) and by the cosine distances of
       the biases' updates. Two clients are at distance 0 where they have the same label, be it
       that of no cluster, else 1; HDBSCAN once more on the mean of the three gives the clusters
       (one alone is possible, to which it tends where the three disagree).
    4. A cluster is accepted where less than `suspicious_share` of it is suspicious. Clients in no
       cluster are judged alone.

    It asks for no number of attackers, but the median number of exceedings must be an honest one:
    f < N/2. It finds data with few classes, that is backdoors and targeted flips, and hospitals
    with few classes as well. The fixed ETF has no trained classifier: there the class vectors are
    the anchors times the trained projection, M'W, whose update stands for the weights', and, as
    there are no biases, for the biases' too. Where the last layer is not sent, the rule raises
    ConfigError. HDBSCAN has min_samples = 1 and smallest_cluster, which are our choice. Random
    inputs are uniform in [0, 1], with a frozen backbone in the range that each feature has on the
    proxy images, which are used for nothing else. Cost: draws x inputs images through every
    client's model. `exceedings` and `cluster` (-1: in none) are recorded.

    Args:
        inputs: random inputs in a draw; implementations for small images take 20,000.
        draws: sets of random inputs, drawn anew every round.
        smallest_cluster: clients in a cluster, at least; needs as many clients.
        suspicious_share: a cluster with this share of suspicious clients or more is left out.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Rieger, Nguyen, Miettinen, Sadeghi, NDSS 2022 (arXiv 2201.00763); formulas as in public
        implementations that are not the authors'.

    Needs:
        clients that send the last layer (not client=fedper or fedrep); proxy images; an honest
        majority; at least `smallest_cluster` clients a round
    """

    def rule(round: Round) -> Aggregate:
        layer = last_layer_updates(round)
        neups_NK = update_energies(layer)
        exceedings_N = threshold_exceedings(neups_NK)
        votes = [
            _together(_hdbscan(torch.cdist(neups_NK, neups_NK), smallest_cluster)),
            torch.stack(
                [
                    _together(_hdbscan(torch.cdist(ddifs_NK, ddifs_NK), smallest_cluster))
                    for ddifs_NK in division_differences(round, inputs, draws)
                ]
            ).mean(dim=0),
            _together(_hdbscan(_directions(layer), smallest_cluster)),
        ]
        clusters_N = _hdbscan(torch.stack(votes).mean(dim=0), smallest_cluster, single=True)
        suspicious_N = exceedings_N <= exceedings_N.quantile(0.5) / 2
        accepted_N = accept_clusters(clusters_N, suspicious_N, suspicious_share)
        lengths_N = norms(round.updates)
        bound = float(lengths_N.quantile(0.5))
        weights_N = normalize(round.updates.num_examples_N.cpu() * accepted_N)
        factors_N = torch.where(lengths_N > bound, bound / lengths_N, 1.0)
        return make_aggregate(
            round,
            round.updates.combine(weights_N * factors_N),
            weights_N,
            extras={
                "exceedings": exceedings_N.tolist(),
                "cluster": clusters_N.tolist(),
                "clipping_bound": bound,
            },
        )

    return Strategy(
        "deepsight",
        rule,
        frozenset({"proxy"}),
        min_clients=smallest_cluster,
        limited_by="strategy.smallest_cluster",
    )


class LastLayer(NamedTuple):
    """Updates of the classes' weights (N, K, F) and biases (N, K), float64; None where there are
    none."""

    weights_NKF: Tensor
    biases_NK: Tensor | None


def last_layer_updates(round: Round) -> LastLayer:
    """What the clients did to the last layer; with an ETF to the anchors' vectors in feature space.

    Raises ConfigError where it is not among what they send, or nobody changed it.
    """
    updates = round.updates
    if updates.layout is None:
        raise ValueError("deepsight needs updates with a layout")
    if "last.weight" not in dict(updates.layout.parameters):
        raise ConfigError(
            "strategy=deepsight: inspects the update of the model's last layer, and the clients "
            "send none; let them train and send it"
        )
    anchors = round.server_data.model.anchors
    weights, biases = [], []
    for n in range(len(updates)):
        row = views(updates.layout.parameters, updates.row(n))
        weight_OF = row["last.weight"].to("cpu", torch.float64)
        weights.append(
            weight_OF.clone() if anchors is None else anchors.to(weight_OF).T @ weight_OF
        )
        if anchors is None and "last.bias" in row:
            biases.append(row["last.bias"].to("cpu", torch.float64).clone())
    layer = LastLayer(torch.stack(weights), torch.stack(biases) if biases else None)
    if not any(one.any() for one in layer if one is not None):
        raise ConfigError(
            "strategy=deepsight: inspects the update of the model's last layer, and no client "
            "changed it; let them train and send it"
        )
    return layer


def update_energies(layer: LastLayer) -> Tensor:
    """(N, K) float64 NEUPs, which sum to 1; zeros for an update of zeros."""
    energies_NK = layer.weights_NKF.abs().sum(dim=2)
    if layer.biases_NK is not None:
        energies_NK = energies_NK + layer.biases_NK.abs()
    shares_NK = energies_NK / energies_NK.sum(dim=1, keepdim=True).clamp(min=1e-300)
    squares_NK = shares_NK.square()
    neups_NK: Tensor = squares_NK / squares_NK.sum(dim=1, keepdim=True).clamp(min=1e-300)
    return neups_NK


def threshold_exceedings(neups_NK: Tensor) -> Tensor:
    """(N,) float64 numbers of NEUPs above max(.01, 1/K) times the client's largest."""
    factor = max(LEAST_FACTOR, 1 / neups_NK.shape[1])
    return (neups_NK > factor * neups_NK.amax(dim=1, keepdim=True)).sum(dim=1).double()


def division_differences(round: Round, inputs: int, draws: int) -> Tensor:
    """(draws, N, K) float64 DDifs. Leaves a client's model in the scratch model."""
    data, layout = round.server_data, round.updates.layout
    if data.proxy is None or not len(data.proxy):
        raise ConfigError(
            "server.proxy_images=0: strategy=deepsight draws random inputs like proxy images; set "
            "server.proxy_images=2"
        )
    assert layout is not None
    drawn = random_inputs(data.proxy.images, inputs * draws, round.generator)
    members = Members(round.reference, round.updates, torch.ones(len(round.updates)))
    load(data.model, layout, round.reference)
    least = torch.finfo(torch.float32).tiny
    base_VK = predict(data.model, drawn).double().clamp(min=least)
    found = []
    for n in range(len(round.updates)):
        load(data.model, layout, members.state(n))
        ratios_VK = predict(data.model, drawn).double() / base_VK
        found.append(ratios_VK.view(draws, inputs, -1).mean(dim=1))
    return torch.stack(found, dim=1).nan_to_num(0.0)


def accept_clusters(clusters_N: Tensor, suspicious_N: Tensor, share: float) -> Tensor:
    """(N,) bool: whether less than this share of a client's cluster is suspicious; of one in no
    cluster (-1), whether it is not."""
    same_NN = (clusters_N[:, None] == clusters_N[None, :]) & (clusters_N >= 0)
    same_NN |= torch.eye(len(clusters_N), dtype=torch.bool)
    suspects_N = (same_NN & suspicious_N).sum(dim=1)
    return suspects_N < share * same_NN.sum(dim=1)


def _directions(layer: LastLayer) -> Tensor:
    """(N, N) cosine distances of the biases' updates, or of the weights' where there are none."""
    vectors = layer.weights_NKF if layer.biases_NK is None else layer.biases_NK
    flat_NV = vectors.flatten(start_dim=1)
    unit_NV = torch.nn.functional.normalize(flat_NV, dim=1, eps=1e-300)
    return cosine_distances(unit_NV @ unit_NV.T)


def _hdbscan(distances_NN: Tensor, smallest: int, single: bool = False) -> Tensor:
    """(N,) numbers of HDBSCAN's clusters, -1: none. single: whether all may be one."""
    from sklearn.cluster import HDBSCAN  # imports half of scipy

    settings = {"min_cluster_size": smallest, "min_samples": 1, "allow_single_cluster": single}
    symmetric_NN = ((distances_NN + distances_NN.T) / 2).fill_diagonal_(0).clamp(min=0)
    fitted = HDBSCAN(metric="precomputed", copy=True, **settings).fit(symmetric_NN.numpy())
    return torch.from_numpy(fitted.labels_.astype("int64"))


def _together(clusters_N: Tensor) -> Tensor:
    """(N, N) 0.0 for two clients with one label, be it that of a cluster or of none, else 1.0."""
    return (clusters_N[:, None] != clusters_N[None, :]).double()
