"""From the predictions of coalitions to contributions, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from fedrobust.errors import DataError
from fedrobust.evaluation.contribution import (
    leave_one_out,
    marginal_values,
    sampled_shapley,
    shapley_values,
)
from fedrobust.evaluation.drops import combined_draws, resampled_metrics
from fedrobust.evaluation.metrics import Counts, hit_table, rates
from fedrobust.evaluation.statistics import (
    Estimate,
    Replicates,
    estimate,
    mean_over_seeds,
    percentiles,
    sample_seeds,
)
from fedrobust.experiment.experiment import KINDS
from fedrobust.reporting.predictions import Predictions
from fedrobust.reporting.report import Report
from fedrobust.studies.contribution.plan import Plan
from fedrobust.utils.seeding import generator

PERFORMANCE, DROP = "performance", "drop"
GAMES = (PERFORMANCE, DROP)
BLOCK = 32  # coalitions whose replicates are drawn at once
COLUMNS = (
    *("seed", "client", "sites", "kind", "num_examples", "game"),
    *("shapley", "low", "high", "leave_one_out", "leave_low", "leave_high"),
)
Predicted = tuple[Tensor, Tensor]  # classes (N,) by the clean twin's model and by the run's


@dataclass(frozen=True)
class SeedContributions:
    """Contributions of all hospitals under one seed.

    Attributes:
        report: of the whole federation.
        shapley: (2, n, 1 + B) by game, hospital; as measured, then replicates, percentage points.
        leave_one_out: likewise.
        values: (2, 2, 1 + B) by game: of no hospital, and of all.
    """

    report: Report
    shapley: Tensor
    leave_one_out: Tensor
    values: Tensor


def contributions(
    plan: Plan, seed: int, report: Report, read: Callable[[int], Predictions], untrained: Tensor
) -> SeedContributions:
    """What each hospital adds to performance and to the drop, under one seed.

    Args:
        plan: of the study.
        seed: of the coalitions.
        report: of the whole federation.
        read: predictions of a coalition's training.
        untrained: (N,) classes that the untrained model predicts.

    Raises:
        DataError: predictions are damaged, or of other images.
    """
    coalitions = [coalition for other, coalition in plan.cells if other == seed]
    first = read(plan.whole)
    predicted: dict[int, Predicted] = {0: (untrained, untrained)}
    for coalition in coalitions:
        found = read(coalition)
        if not torch.equal(found.labels, first.labels):
            raise DataError(
                f"{plan.cells[seed, coalition].folder}: was evaluated on other test images than "
                "the other coalitions; delete it and run again"
            )
        predicted[coalition] = found.predicted["twin_clean"], found.predicted["clean"]
    game = _game(plan, first, predicted)
    if plan.orders:
        marginals = marginal_values(game, plan.orders[seed])  # (orders, n, 2, 1 + B)
        pairs = len(marginals) // 2
        picks = torch.randint(
            pairs, (plan.grid.draws, pairs), generator=generator(seed, "contribution", "picks")
        )
        shapley = torch.stack([sampled_shapley(marginals[:, :, k], picks) for k in (0, 1)])
    else:
        shapley = shapley_values(game, plan.num_clients).transpose(0, 1)
    return SeedContributions(
        report,
        shapley,
        leave_one_out(game, plan.num_clients).transpose(0, 1),
        torch.stack([game[0], game[plan.whole]], dim=1),
    )


def _game(plan: Plan, images: Predictions, predicted: Mapping[int, Predicted]) -> dict[int, Tensor]:
    """By coalition (2, 1 + B): performance, and the combined drop, all by the same replicates."""
    found: dict[int, Tensor] = {}
    masks = list(predicted)
    for start in range(0, len(masks), BLOCK):
        part = masks[start : start + BLOCK]
        conditions = [(images.labels, one) for mask in part for one in predicted[mask]]
        drawn = resampled_metrics(
            conditions,
            images.num_classes,
            images.groups,
            plan.grid.draws,
            generator(0, "contribution", "images"),  # the same for all blocks and seeds
        )
        for place, mask in enumerate(part):
            twin, run = (
                _measured(images, one, metrics)
                for one, metrics in zip(
                    predicted[mask], drawn[2 * place : 2 * place + 2], strict=True
                )
            )
            found[mask] = torch.stack([run[plan.metric], combined_draws(twin, run)])
    found[0][1] = 0.0  # the untrained model has no drop, whatever it predicts
    return found


def _measured(
    images: Predictions, predicted: Tensor, drawn: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """(1 + B) of each metric: as measured, then of every draw."""
    table = hit_table(images.labels, predicted, images.num_classes).double().sum(dim=0)
    whole = rates(Counts(*table.chunk(3)))
    return {name: torch.cat([whole[name][None], values]) for name, values in drawn.items()}


def contribution_frame(found: Mapping[int, SeedContributions]) -> pd.DataFrame:
    """A row a seed, hospital and game (COLUMNS), values in percentage points."""
    rows = [
        {
            "seed": seed,
            "client": client.id,
            "sites": " + ".join(client.sites or ()) or None,
            "kind": client.kind,
            "num_examples": client.num_examples,
            "game": game,
            **_columns("shapley", ("low", "high"), one.shapley[place, client.id]),
            **_columns(
                "leave_one_out", ("leave_low", "leave_high"), one.leave_one_out[place, client.id]
            ),
        }
        for seed, one in found.items()
        for place, game in enumerate(GAMES)
        for client in one.report.clients
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _columns(name: str, ends: tuple[str, str], values: Tensor) -> dict[str, float | None]:
    low, high = percentiles(values[1:]) or (None, None)
    return {name: float(values[0]), ends[0]: low, ends[1]: high}


@dataclass(frozen=True, slots=True)
class KindContribution:
    """Mean contribution of the hospitals of one kind, over seeds."""

    game: str
    kind: str
    shapley: Estimate
    leave_one_out: Estimate


def by_kind(found: Mapping[int, SeedContributions], draws: int) -> list[KindContribution]:
    """Mean contribution of a hospital of each kind, with 95 % intervals over seeds and images (one
    seed: over images, and sampled orders, only).

    Args:
        found: by seed.
        draws: number of replicates.
    """
    counts = sample_seeds(len(found), draws, generator(0, "contribution", "seeds"))
    kinds = [
        kind
        for kind in KINDS
        if any(client.kind == kind for one in found.values() for client in one.report.clients)
    ]
    return [
        KindContribution(
            game,
            kind,
            _over_seeds([_mean(one, one.shapley[place], kind) for one in found.values()], counts),
            _over_seeds(
                [_mean(one, one.leave_one_out[place], kind) for one in found.values()], counts
            ),
        )
        for place, game in enumerate(GAMES)
        for kind in kinds
    ]


def _mean(one: SeedContributions, values: Tensor, kind: str) -> Tensor:
    """(1 + B) of the hospitals of a kind; NaN without any."""
    members = [client.id for client in one.report.clients if client.kind == kind]
    return values[members].mean(dim=0)


def _over_seeds(values: Sequence[Tensor], counts: Tensor) -> Estimate:
    stacked = torch.stack(list(values)).to(torch.float64)
    return estimate(*mean_over_seeds(Replicates(stacked[:, 0], stacked[:, 1:]), counts))
