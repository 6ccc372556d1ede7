"""From the words of a command line to the cells of a grid: one run for each rule, attack, number of
poisoned clients and seed."""

from __future__ import annotations

import hashlib
import itertools
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

from fedrobust.errors import ConfigError
from fedrobust.experiment import compose, settings
from fedrobust.utils.names import expand_home, nearest
from fedrobust.utils.settings_table import list_settings
from fedrobust.utils.validation import (
    Count,
    NonNegative,
    Positive,
    PositiveCount,
    Words,
    check_settings,
    make_settings,
)

OWN_ENGINE = "inline"  # of each cell, which has a process of its own
NOBODY = "none"  # the attack of a cell without poisoned clients
BLOCK = "compare"
WEAK_BELOW = 10.0  # % of combined drop
REPLACEMENTS = {
    "strategy": "strategies=[...]",
    "contamination": "contaminations=[...]",
    "seed": "seeds=[...]",
}
NAME = re.compile(r"[^A-Za-z0-9._+-]+")


def count_poisoned(poisoned: int | Sequence[int]) -> int:
    """Number of poisoned clients."""
    return poisoned if isinstance(poisoned, int) else len(poisoned)


def _find_repeated(values: Sequence[Any]) -> Any:
    """The first value that stood there before; None where each stands once."""
    return next((one for place, one in enumerate(values) if one in values[:place]), None)


def _check_different(values: int | Sequence[int | Sequence[int]]) -> Any:
    """The tables tell cells apart by these numbers."""
    numbers = [] if isinstance(values, int) else [count_poisoned(one) for one in values]
    if _find_repeated(numbers) is not None:
        raise ValueError("a value is there twice")
    return values


Item = TypeVar("Item")
AtLeastOne = Annotated[Sequence[Item], Field(min_length=1)]
Numbers = Annotated[
    Count | AtLeastOne[Count],
    AfterValidator(_check_different),
    Words("a list of different whole numbers from 0"),
]
PoisonedCounts = Annotated[
    Count | AtLeastOne[Count | Sequence[Count]],
    AfterValidator(_check_different),
    Words("a list of different numbers of clients, or of lists of their ids"),
]
Choices = Annotated[
    str | Mapping[str, Any] | AtLeastOne[str | Mapping[str, Any]],
    Words("a list of choices, or of {a name: the settings that it stands for}"),
]


@check_settings("")
@dataclass(frozen=True, slots=True, kw_only=True)
class GridSettings:
    """The settings of every grid; one value counts as a list of one.

    Attributes:
        seeds: one run of each kind for each of them
        parallel: runs side by side, which changes no result; null: as many as there are GPUs, else
            the cores divided by threads
        threads: of torch in every run
        draws: bootstrap replicates over seeds and test images
        pictures: whether the page of each run shows images of its data
        cell_seconds: after which a run that has not ended is stopped and counts as failed; null: no
            limit
        out: where everything is written; the same command resumes an interrupted grid
    """

    seeds: Numbers
    parallel: PositiveCount | None
    threads: PositiveCount
    draws: PositiveCount
    pictures: bool
    cell_seconds: Positive | None
    out: Annotated[str, Field(min_length=1), Words("a folder")]


@check_settings("")
@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSettings(GridSettings):
    """The block `compare` of a configuration.

    Attributes:
        strategies: rules to be compared; a name of your own as in {gentle krum: 'strategy=krum
            strategy.f=1'}
        contaminations: attacks, likewise
        poisoned: how many clients are poisoned, or which; 0: one run for each strategy and seed
        weak_below: an attack is marked weak where fedavg's combined drop under it, in %, is below
            this; a backdoor where its success rate against fedavg is below 50 %
    """

    strategies: Choices
    contaminations: Choices
    poisoned: PoisonedCounts
    weak_below: NonNegative


@dataclass(frozen=True, slots=True)
class Variant:
    """A row or column of the grid: its name in the tables, and the overrides of the main
    configuration that make it."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """words: overrides of the main configuration for all cells; poisoned: numbers of clients, or
    lists of their ids; pictures: whether pages show images of the data; cell_seconds: the most that
    each cell may take; weak_below: see `ComparisonSettings`."""

    strategies: tuple[Variant, ...]
    contaminations: tuple[Variant, ...]
    poisoned: tuple[int | tuple[int, ...], ...]
    seeds: tuple[int, ...]
    parallel: int | None
    threads: int
    draws: int
    out: Path
    words: tuple[str, ...]
    pictures: bool = False
    cell_seconds: float | None = None
    weak_below: float = WEAK_BELOW


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid; `poisoned` is the number of poisoned clients."""

    strategy: str
    contamination: str
    poisoned: int
    seed: int
    config: Mapping[str, Any] = field(hash=False)

    @property
    def settings(self) -> settings.Settings:
        """Its configuration to be read. Raises ConfigError."""
        return settings.read_settings(self.config)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole configuration: what is finished is known by it."""
        return config_digest(self.config)

    @property
    def label(self) -> str:
        """Beginning of its folder's name."""
        label = "-".join(NAME.sub("_", part) for part in (self.strategy, self.contamination))
        return f"{label}-p{self.poisoned}-s{self.seed}"

    @property
    def folder(self) -> str:
        """Its name among the cells of an output folder; another configuration is another folder."""
        return f"{self.label}-{self.digest[:10]}"

    def __str__(self) -> str:
        return (
            f"{self.strategy} · {self.contamination} · {self.poisoned} poisoned · seed {self.seed}"
        )


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration's canonical text."""
    return hashlib.sha256(settings.to_json(config).encode()).hexdigest()


def read_grid(words: Sequence[str]) -> Grid:
    """The grid of a command line, each of its settings checked; cells are not. Raises
    ConfigError."""
    own, others = sort_words(words, BLOCK, ComparisonSettings, REPLACEMENTS)
    compose.check_command_line(words)
    _, block = compose.compose_comparison(*others, *own, name=BLOCK)
    asked = make_settings(BLOCK, block, ComparisonSettings)
    contaminations = variants("contaminations", "contamination", asked.contaminations)
    if NOBODY in [one.name for one in contaminations]:
        raise ConfigError(
            f"contaminations: {NOBODY} is the name of cells without poisoned clients; "
            "choose another name"
        )
    poisoned = [tuple(one) if isinstance(one, list) else one for one in as_list(asked.poisoned)]
    return make_grid(
        asked,
        strategies=variants("strategies", "strategy", asked.strategies),
        contaminations=contaminations,
        poisoned=tuple(one or 0 for one in poisoned),  # an empty list of ids: none
        words=(*own_engine(others, asked.threads), *others),
        weak_below=float(asked.weak_below),
    )


def make_grid(asked: GridSettings, **lists: Any) -> Grid:
    """A grid with its own settings, and with the lists that differ between studies."""
    return Grid(
        seeds=tuple(as_list(asked.seeds)),
        parallel=asked.parallel,
        threads=asked.threads,
        draws=asked.draws,
        pictures=asked.pictures,
        cell_seconds=asked.cell_seconds,
        out=expand_home(asked.out),
        **lists,
    )


def sort_words(
    words: Sequence[str], name: str, kind: Callable[..., object], instead: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """The overrides of the block `name`, which is put in front of them, and those of the main
    configuration.

    kind: the settings of the block, which may be written without its name; instead: {a key of the
    main configuration: what to write in its place}.
    """
    own, others = [], []
    keys = {one.name for one in list_settings(kind)}
    for word in words:
        key = word.partition("=")[0]
        if key in instead:
            raise ConfigError(f"{word}: a grid takes several; give {instead[key]}")
        if word.startswith("-") or ("=" not in word and not word.startswith("~")):
            raise ConfigError(f"{word}: cannot be read; write key=value, a list as key=[1,2]")
        if key.lstrip("+~").startswith("hydra"):
            raise ConfigError(
                f"{word}: Hydra's own settings have no meaning here; the folder is out=..."
            )
        if key.split(".")[0] == name:
            own.append(word)
        elif key in keys:
            own.append(f"{name}.{word}")
        else:
            _check_misspelt(word, keys)
            others.append(word)
    return own, others


def _check_misspelt(word: str, keys: Collection[str]) -> None:
    """Hydra sees the keys of a block with its name only, and could not name the nearest one."""
    key, equal, value = word.partition("=")
    main = {*settings.Settings.model_fields, "experiment"}
    if equal and key.isidentifier() and key not in main:
        near = nearest(key, sorted(main | {*keys}))
        if near in keys:
            raise ConfigError(f"{word}: unknown key; did you mean {near}={value}?")


def own_engine(words: Sequence[str], threads: int) -> list[str]:
    """Each cell computes in its own process with a fixed number of threads, unless another engine
    was asked for."""
    given = {word.partition("=")[0] for word in words}
    return (
        []
        if "engine" in given
        else [f"engine={OWN_ENGINE}"]
        + ([] if "engine.threads" in given else [f"engine.threads={threads}"])
    )


def as_list(value: Any) -> list[Any]:
    """One value counts as a list of one."""
    return value if isinstance(value, list) else [value]


def variants(key: str, group: str, value: Any) -> tuple[Variant, ...]:
    """The variants of a list, each a choice of the group or {a name: the overrides that it stands
    for}. Raises ConfigError."""
    found = tuple(_variant(key, group, item) for item in as_list(value))
    _check_names_differ(key, [one.name for one in found])
    return found


def _variant(key: str, group: str, item: Any) -> Variant:
    """`krum`, or {a name: the settings that it stands for, as on a command line or as a list}."""
    if isinstance(item, str) and item:
        return Variant(item, (f"{group}={item}",))
    shape = f"{key}: {item} must be a choice of {group}, or {{name: '{group}=... {group}.key=...'}}"
    if not isinstance(item, Mapping) or len(item) != 1:
        raise ConfigError(shape)
    ((name, text),) = item.items()
    try:
        words = tuple(shlex.split(text)) if isinstance(text, str) else tuple(text)
    except (TypeError, ValueError) as error:
        raise ConfigError(shape) from error
    if not words or not all(isinstance(word, str) and "=" in word for word in words):
        raise ConfigError(shape)
    own = {"seed", "poisoned"} & {word.partition("=")[0] for word in words}
    if own:
        raise ConfigError(f"{key}: {name} sets {own.pop()}, which belongs to the grid; take it out")
    return Variant(str(name), words)


def _check_names_differ(key: str, values: Sequence[str]) -> None:
    twice = _find_repeated(values)
    if twice is not None:
        raise ConfigError(f"{key}: {twice} is there twice; name each once")


def cells(grid: Grid) -> list[Cell]:
    """All runs of the grid, those of a seed together. Without poisoned clients the attack says
    nothing: one run a rule and seed.

    Raises ConfigError for settings that do not exist; whether their values fit
    is not looked at.
    """
    found = []
    for strategy, attack in itertools.product(
        grid.strategies, (Variant(NOBODY, ()), *grid.contaminations)
    ):
        counts = [one for one in grid.poisoned if (one == 0) == (attack.name == NOBODY)]
        if not counts:
            continue
        config = compose.compose(*grid.words, *strategy.words, *attack.words)
        for poisoned, seed in itertools.product(counts, grid.seeds):
            marked = list(poisoned) if isinstance(poisoned, tuple) else poisoned
            found.append(
                Cell(
                    strategy.name,
                    attack.name,
                    count_poisoned(poisoned),
                    seed,
                    {**config, "poisoned": marked, "seed": seed},
                )
            )
    # names that differ in signs no file name should have
    _check_names_differ("out: the folder", [cell.folder for cell in found])
    return sorted(found, key=lambda cell: (grid.seeds.index(cell.seed), cell.poisoned > 0))
