"""From the words of a command line to the cells of a grid: one run for each rule, attack, number of
poisoned clients and seed."""

from __future__ import annotations

import hashlib
import itertools
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.experiment import compose, settings
from fedrobust.utils.validation import Count, PositiveCount, check

NOBODY = "none"  # the attack of a cell without poisoned clients
KEYS = ("strategies", "contaminations", "poisoned", "seeds", "parallel", "threads", "draws", "out")
REPLACEMENTS = {
    "strategy": "strategies=[...]",
    "contamination": "contaminations=[...]",
    "seed": "seeds=[...]",
}
SINGLE = {"parallel": None, "threads": 1, "draws": 1}  # smallest values; None: may be null
NAME = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True, slots=True)
class Variant:
    """A row or column of the grid: its name in the tables, and the overrides of the main
    configuration that make it."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """words: overrides of the main configuration for all cells; poisoned: numbers of clients, or
    lists of their ids."""

    strategies: tuple[Variant, ...]
    contaminations: tuple[Variant, ...]
    poisoned: tuple[int | tuple[int, ...], ...]
    seeds: tuple[int, ...]
    parallel: int | None
    threads: int
    draws: int
    out: Path
    words: tuple[str, ...]


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
        """What its folder's name begins with."""
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
    own, others = sort_words(words, "compare", KEYS, REPLACEMENTS)
    compose.check_command_line(words)
    _, block = compose.compose_comparison(*others, *own)
    check_block("compare", block, KEYS)
    contaminations = variants("contaminations", "contamination", block["contaminations"])
    if NOBODY in [one.name for one in contaminations]:
        raise ConfigError(
            f"contaminations: {NOBODY} is the name of cells without poisoned clients; "
            "choose another name"
        )
    return Grid(
        strategies=variants("strategies", "strategy", block["strategies"]),
        contaminations=contaminations,
        poisoned=_poisoned(block["poisoned"]),
        seeds=numbers("seeds", block["seeds"]),
        parallel=block["parallel"],
        threads=block["threads"],
        draws=block["draws"],
        out=Path(block["out"]).expanduser(),
        words=(*own_engine(others, block["threads"]), *others),
    )


def check_block(name: str, block: Mapping[str, Any], keys: Collection[str]) -> None:
    """The settings that every grid has. Raises ConfigError."""
    for key in block:
        if key not in keys:
            raise ConfigError(
                f"{name}.{key}={block[key]}: unknown setting; known are {', '.join(keys)}"
            )
    for key, low in SINGLE.items():
        if low is not None or block[key] is not None:
            check(key, block[key], PositiveCount)
    if not isinstance(block["out"], str) or not block["out"]:
        raise ConfigError(f"out={block['out']}: must be a folder")


def sort_words(
    words: Sequence[str], name: str, keys: Collection[str], instead: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """The overrides of the block `name`, which is put in front of them, and those of the main
    configuration.

    keys: of the block, which may be written without its name; instead: {a key of the main
    configuration: what to write in its place}.
    """
    own, others = [], []
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
            others.append(word)
    return own, others


def own_engine(words: Sequence[str], threads: int) -> list[str]:
    """Each cell computes in its own process with a fixed number of threads, unless another engine
    was asked for."""
    given = {word.partition("=")[0] for word in words}
    return (
        []
        if "engine" in given
        else ["engine=inline"]
        + ([] if "engine.threads" in given else [f"engine.threads={threads}"])
    )


def _list(key: str, value: Any) -> list[Any]:
    found = value if isinstance(value, list) else [value]
    if not found:
        raise ConfigError(f"{key}=[]: must name at least one")
    return found


def variants(key: str, group: str, value: Any) -> tuple[Variant, ...]:
    """The variants of a list, each a choice of the group or {a name: the overrides that it stands
    for}. Raises ConfigError."""
    found = tuple(_variant(key, group, item) for item in _list(key, value))
    _no_twice(key, [one.name for one in found])
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


def _poisoned(value: Any) -> tuple[int | tuple[int, ...], ...]:
    found = [tuple(item) if isinstance(item, list) else item for item in _list("poisoned", value)]
    for item in found:
        for one in item if isinstance(item, tuple) else [item]:
            check("poisoned", one, Count)
    counts = [count_poisoned(item) for item in found]
    _no_twice("poisoned", counts)  # the tables tell cells apart by the number
    return tuple(item or 0 for item in found)


def count_poisoned(poisoned: int | tuple[int, ...]) -> int:
    """How many clients are poisoned."""
    return len(poisoned) if isinstance(poisoned, tuple) else poisoned


def numbers(key: str, value: Any) -> tuple[int, ...]:
    """Different whole numbers from 0. Raises ConfigError."""
    found = _list(key, value)
    for one in found:
        check(key, one, Count)
    _no_twice(key, found)
    return tuple(found)


def _no_twice(key: str, values: Sequence[Any]) -> None:
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise ConfigError(f"{key}: {twice[0]} is there twice; name each once")


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
    _no_twice("out: the folder", [cell.folder for cell in found])
    return sorted(found, key=lambda cell: (grid.seeds.index(cell.seed), cell.poisoned > 0))
