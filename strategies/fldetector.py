"""FLDetector: clients whose updates do not follow from their last ones are left out for good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from fedrobust.strategies.dnc import distinct
from torch import Generator, Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils.validation import PositiveCount, check_settings

FEWEST = 3  # scores: of two, one is always an outlier
MOST_CLUSTERS = 7  # of the gap statistic
REFERENCES = 20  # sets of uniform random scores it is compared with
ROUNDING = 1e-6  # of an update, as a share of its length
FLAT = 1e-12  # squared distances in a cluster below this, of scores in [0, 1], are rounding


@check_settings("strategy")
def fldetector(window: PositiveCount = 3, columns: PositiveCount = 200_000) -> Strategy:
    """The mean, by numbers of images, of the updates of all clients but those that were found to
    send inconsistent updates; they are left out from then on.

    1. A client's update is predicted from its last one: x_n(t - 1) + H (w(t) - w(t - 1)), where
       H, L-BFGS's Hessian, comes from the `window` + 1 movements of the global model before that.
    2. Its score is the distance of its update to that, divided by the sum over all clients, and
       averaged over the last `window` rounds.
    3. Once there are `window` scores, the gap statistic says whether the clients' mean scores form
       more than one cluster. Then the one of two clusters (2-means) with the larger mean is out.

    It asks for no number of attackers and tolerates any, as long as their scores are the larger
    ones: it finds attacks that change from round to round, and neither a steady one (flipped
    labels) nor one in the first window + 1 rounds, which are plain averaging. Honest clients whose
    updates vary more than others' may be taken for attackers: of ten random scores about one set in
    ten has more than one cluster. The paper then starts training again without those found; here it
    goes on, and the search ends. Both clusterings are exact (scores are single numbers),
    so no random start decides. The authors' code has a window of 10, for hundreds of rounds.
    Memory: every client's last update and window + 2 global models, of at most `columns` columns,
    which estimates distances and products; they are part of the checkpoint. Cost: window^2 inner
    products of such rows. `inconsistency` records a client's newest score.

    Args:
        window: rounds whose scores count; H follows from one movement of the global model more.
        columns: random columns of the updates that are looked at, the same in all rounds.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Zhang, Cao, Jia, Gong, KDD 2022 (arXiv 2207.09209); L-BFGS as in Byrd, Nocedal, Schnabel,
        1994. With as many movements the scores agree with the authors' code (`lbfgs` and the
        distances after it, run on numpy) to 1e-12 on six clients and random quadratic losses.
        The gap statistic is that of Tibshirani, Walther, Hastie, 2001; the authors' code takes the
        logarithm of the references' mean instead of the mean of their logarithms, and decides the
        same on 36 of 40 sets of 20 scores.
    """

    def rule(round: Round) -> Aggregate:
        history = _History.read(round, columns)
        scores = history.scores(window)
        found = set(history.found)
        means = {client: fmean(past) for client, past in scores.items() if len(past) >= window}
        if not found and len(means) >= FEWEST:
            found = suspects(means, round.generator)
        clients = round.updates.clients
        kept_N = torch.tensor([float(client not in found) for client in clients])
        weights_N = normalize(round.updates.num_examples_N.cpu() * kept_N)
        last = [scores.get(client, [])[-1:] for client in clients]
        extras = {"inconsistency": [one[0] if one else math.nan for one in last]}
        return make_aggregate(
            round,
            round.updates.combine(weights_N),
            weights_N,
            extras=extras,
            memory=history.memory(window, scores, found),
        )

    return Strategy("fldetector", rule)


@dataclass(frozen=True, slots=True)
class _History:
    """Memory of earlier rounds and what this one adds, all in the chosen columns. models: global
    models, the newest last; updates, last: the clients' updates of this round and of the round
    before; past: scores by client."""

    index: Tensor
    models: Sequence[Tensor]
    updates: Mapping[int, Tensor]
    last: Mapping[int, Tensor]
    past: Mapping[int, Sequence[float]]
    found: Sequence[int]

    @classmethod
    def read(cls, round: Round, columns: int) -> _History:
        memory, updates = round.memory, round.updates
        total = updates.matrix_ND.shape[1]
        index = memory.get("columns")
        if index is None:
            index = distinct(total, columns, round.generator) if total > columns else torch.empty(0)
        take = index.to(torch.int64) if len(index) else slice(None)
        now = round.reference.parameters.cpu()[take].clone()
        return cls(
            index,
            [*memory.get("models", []), now],
            {
                client: updates.row(n).cpu()[take].clone()
                for n, client in enumerate(updates.clients)
            },
            memory.get("updates", {}),
            memory.get("scores", {}),
            memory.get("found", []),
        )

    def scores(self, window: int) -> dict[int, list[float]]:
        """Every client's last scores; those that sent an update in this round and the last have a
        new one."""
        scores = {client: list(past) for client, past in self.past.items()}
        both = [client for client in self.updates if client in self.last]
        movements = [b.double() - a.double() for a, b in pairwise(self.models)]
        if len(movements) < 2 or not both:
            return scores
        # the model moves by the aggregated update, whose changes follow the model's movements
        changes = [b - a for a, b in pairwise(movements)]
        expected_D = hessian_product(movements[:-1], changes, movements[-1])
        distances = {
            client: surprise(self.last[client], expected_D, self.updates[client]) for client in both
        }
        total = sum(distances.values())
        for client, distance in distances.items():
            share = distance / total if total > 0 else 0.0
            scores[client] = [*scores.get(client, []), share][-window:]
        return scores

    def memory(
        self, window: int, scores: Mapping[int, Sequence[float]], found: set[int]
    ) -> dict[str, Any]:
        return {
            "columns": self.index,
            "models": list(self.models[-(window + 2) :]),
            "updates": dict(self.updates),
            "scores": {client: list(past) for client, past in scores.items()},
            "found": sorted(found),
        }


def surprise(last_D: Tensor, change_D: Tensor, update_D: Tensor) -> float:
    """Distance of an update to the last one and its expected change; 0 within float32's
    rounding."""
    distance = float((last_D.double() + change_D - update_D).norm())
    rounding = ROUNDING * float(last_D.double().norm() + update_D.double().norm())
    return distance if distance > rounding else 0.0


def hessian_product(
    movements: Sequence[Tensor], changes: Sequence[Tensor], vector_D: Tensor
) -> Tensor:
    """(D,) float64 product of L-BFGS's Hessian with a vector, from at least one pair of a movement
    of the model and the change of the update that came of it, the oldest first.

    With S and Y of the movements and changes as columns, sigma = y's / s's of the last pair, L the
    part of S'Y strictly below its diagonal D: sigma v - [sigma S, Y] [[sigma S'S, L], [L', -D]]^-1
    [sigma S'v; Y'v]. A singular matrix is solved by least squares.
    """
    s_ED, y_ED = torch.stack(list(movements)), torch.stack(list(changes))
    ss_EE, sy_EE = s_ED @ s_ED.T, s_ED @ y_ED.T
    length = float(ss_EE[-1, -1])
    sigma = float(sy_EE[-1, -1]) / length if length > 0 else 0.0
    below_EE = sy_EE.tril(-1)
    middle = torch.cat(
        [
            torch.cat([sigma * ss_EE, below_EE], dim=1),
            torch.cat([below_EE.T, -sy_EE.diagonal().diag()], dim=1),
        ]
    )
    right = torch.cat([sigma * (s_ED @ vector_D), y_ED @ vector_D])
    solved = torch.linalg.lstsq(middle, right[:, None], driver="gelsd").solution[:, 0]
    count = len(s_ED)
    product_D: Tensor = sigma * vector_D - sigma * (solved[:count] @ s_ED) - solved[count:] @ y_ED
    return product_D


def suspects(means: Mapping[int, float], generator: Generator) -> set[int]:
    """The clients in the upper of two clusters of the scores; none where one cluster is enough."""
    clients = list(means)
    values_N = torch.tensor([means[client] for client in clients], dtype=torch.float64)
    low, high = float(values_N.min()), float(values_N.max())
    if high <= low:
        return set()
    unit_N = (values_N - low) / (high - low)
    if clusters(unit_N, generator) == 1:
        return set()
    ordered_N = unit_N.sort().values
    errors_N = [
        float(_error(ordered_N[:cut]) + _error(ordered_N[cut:])) for cut in range(1, len(ordered_N))
    ]
    least = float(ordered_N[errors_N.index(min(errors_N)) + 1])
    return {
        client for client, value in zip(clients, unit_N.tolist(), strict=True) if value >= least
    }


def _error(values_M: Tensor) -> Tensor:
    """Sum of the squared distances to the mean."""
    return (values_M - values_M.mean()).square().sum()


def clusters(unit_N: Tensor, generator: Generator) -> int:
    """How many clusters numbers in [0, 1] form, by the gap statistic: the least k with Gap(k) >=
    Gap(k + 1) - s(k + 1)."""
    most = min(MOST_CLUSTERS, len(unit_N) - 1)
    drawn_RN = torch.rand(REFERENCES, len(unit_N), generator=generator, dtype=torch.float64)
    logs_RK = within_clusters(drawn_RN, most + 1).clamp(min=FLAT).log()
    own_K = within_clusters(unit_N[None], most + 1)[0].clamp(min=FLAT).log()
    gap_K = logs_RK.mean(dim=0) - own_K
    spread_K = logs_RK.std(dim=0, correction=0) * math.sqrt(1 + 1 / REFERENCES)
    enough_K = gap_K[:-1] >= gap_K[1:] - spread_K[1:]
    return int(enough_K.double().argmax()) + 1 if enough_K.any() else most + 1


def within_clusters(values_RN: Tensor, most: int) -> Tensor:
    """(R, most) least sums of squared distances to the clusters' means, of each row's numbers in 1,
    2, ... clusters: k-means without a random start, as clusters of sorted numbers are intervals."""
    return torch.stack([_within(values_N, most) for values_N in values_RN.sort(dim=1).values])


def _within(sorted_N: Tensor, most: int) -> Tensor:
    """The same of one row in ascending order."""
    places = torch.arange(len(sorted_N) + 1)
    start = sorted_N.new_zeros(1)
    sums_N, squares_N = (torch.cat([start, one.cumsum(0)]) for one in (sorted_N, sorted_N.square()))
    # of the numbers from place a up to the one before place b
    sizes_NN = places[None, :] - places[:, None]
    totals_NN = sums_N[None, :] - sums_N[:, None]
    errors_NN = squares_N[None, :] - squares_N[:, None] - totals_NN.square() / sizes_NN.clamp(min=1)
    errors_NN = errors_NN.clamp(min=0).masked_fill(sizes_NN < 0, math.inf)
    best_N, found = errors_NN[0], []
    for _ in range(most):
        found.append(best_N[-1])
        best_N = (best_N[:, None] + errors_NN).amin(dim=0)
    return torch.stack(found)
