"""From the words of a command line to the trainings of coalitions that contributions need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fedrobust.errors import ConfigError
from fedrobust.evaluation.contribution import (
    MOST_EXACT,
    exact_coalitions,
    order_coalitions,
    players_of,
    sample_orders,
)
from fedrobust.experiment import compose
from fedrobust.experiment.settings import Settings, read_settings
from fedrobust.studies.comparison.grid import (
    Cell,
    Grid,
    GridSettings,
    count_poisoned,
    make_grid,
    own_engine,
    sort_words,
)
from fedrobust.utils.counting import format_count
from fedrobust.utils.seeding import generator
from fedrobust.utils.validation import PositiveCount, check_settings, make_settings

BLOCK = "contribution"
REPLACEMENTS = {"seed": "seeds=[...]"}
PAIRS = 10  # of sampled orders, where not all coalitions are trained
MOST_NAMED = 12  # members of a coalition whose numbers are its name
COALITIONS = "participants"  # the setting that makes a coalition


@check_settings("")
@dataclass(frozen=True, slots=True, kw_only=True)
class ContributionSettings(GridSettings):
    """The block `contribution` of a configuration.

    Attributes:
        metric: of the clean test images, whose value is shared out as performance
        pairs: sampled orders of the hospitals, each with its reverse; null: all coalitions up to 8
            hospitals, else 10 pairs
    """

    metric: Literal["accuracy", "balanced_accuracy", "f1", "precision"]
    pairs: PositiveCount | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be trained.

    Attributes:
        grid: seeds, machine and folder; its lists of rules and attacks are empty.
        metric: whose value is shared out.
        num_clients: hospitals, the players.
        cells: by seed and coalition (a bit mask), without the empty one.
        orders: by seed the sampled orders; empty where all coalitions are trained.
    """

    grid: Grid
    metric: str
    num_clients: int
    cells: Mapping[tuple[int, int], Cell] = field(hash=False)
    orders: Mapping[int, Sequence[tuple[int, ...]]] = field(hash=False)

    @property
    def whole(self) -> int:
        """The coalition of all hospitals."""
        return (1 << self.num_clients) - 1


def read_plan(words: Sequence[str]) -> Plan:
    """The plan of a command line, its own settings checked. Raises ConfigError."""
    for word in words:
        if word.lstrip("+~").partition("=")[0] == COALITIONS:
            raise ConfigError(f"{word}: the study makes all coalitions itself; leave it out")
    own, others = sort_words(words, BLOCK, ContributionSettings, REPLACEMENTS)
    compose.check_command_line(words)
    _, block = compose.compose_comparison(*others, *own, name=BLOCK)
    asked = make_settings(BLOCK, block, ContributionSettings)
    grid = make_grid(
        asked,
        strategies=(),
        contaminations=(),
        poisoned=(),
        words=(*own_engine(others, asked.threads), *others),
    )
    config = compose.compose(*grid.words)
    settings = read_settings(config)
    if settings.schedule.afterwards == "leave":
        raise ConfigError(
            "schedule.afterwards=leave: a coalition of poisoned hospitals alone would have nobody "
            "left to train; leave it out"
        )
    pairs = asked.pairs or (PAIRS if settings.num_clients > MOST_EXACT else 0)
    orders = {
        seed: sample_orders(settings.num_clients, pairs, generator(seed, "contribution", "orders"))
        for seed in grid.seeds
        if pairs
    }
    made = _cells(grid.seeds, config, settings, orders)
    return Plan(grid, asked.metric, settings.num_clients, made, orders)


def _cells(
    seeds: Sequence[int],
    config: Mapping[str, Any],
    settings: Settings,
    orders: Mapping[int, Sequence[tuple[int, ...]]],
) -> dict[tuple[int, int], Cell]:
    found = {}
    total = settings.num_clients
    for seed in seeds:
        wanted = order_coalitions(orders[seed]) if orders else exact_coalitions(total)
        # the whole federation first: what cannot be run is refused before many small ones are
        for coalition in sorted(filter(None, wanted), reverse=True):
            members = players_of(coalition)
            everybody = len(members) == total
            found[seed, coalition] = Cell(
                _name(members),
                settings.contamination.factory,
                count_poisoned(settings.poisoned),
                seed,
                {**config, "seed": seed, COALITIONS: None if everybody else list(members)},
            )
    return found


def _name(members: Sequence[int]) -> str:
    if len(members) > MOST_NAMED:
        return format_count(len(members), "hospital")
    return "+".join(map(str, members))
