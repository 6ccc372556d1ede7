"""From the words of `fedrobust reproduce` to the grid that is run: the table's own, or a part of
it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

import yaml

from fedrobust.errors import ConfigError
from fedrobust.experiment.local_settings import LOCAL
from fedrobust.studies.comparison.grid import (
    BLOCK,
    ComparisonSettings,
    Grid,
    as_list,
    count_poisoned,
    read_grid,
)
from fedrobust.studies.reproduction.tables import StoredTable
from fedrobust.utils.names import did_you_mean

LISTS: Final = ("strategies", "contaminations", "poisoned", "seeds")
# what changes no value beyond its last bits
FREE: Final = frozenset(field.name for field in fields(ComparisonSettings)) - {*LISTS}
FREE_GROUPS: Final = ("device", "engine")


def select_grid(table: StoredTable, words: Sequence[str], *, quick: bool) -> Grid:
    """The grid of a table, or the part of it that was asked for.

    Args:
        table: what is reproduced.
        words: settings as on the command line: the lists name a part of the table's own; all
            others say where and how it is run.
        quick: whether to run the table's quick part, where the words name none.

    Raises:
        ConfigError: a setting would change the values, names what the table has not, or is missing.
    """
    given = {word.partition("=")[0].removeprefix(f"{BLOCK}."): word for word in words}
    _check_needs(table, given)
    part = {key: _read_list(word) for key, word in given.items() if key in LISTS}
    if quick and not part:
        part = {key: list(names) for key, names in table.settings.quick.items()}
    others = [word for key, word in given.items() if key not in LISTS]
    for word in others:
        _check_free(table, word)
    changed = {key for key in given if key not in LISTS}
    own = [word for word in table.settings.command if word.partition("=")[0] not in changed]
    if "out" not in given:
        own.append(f"out=outputs/reproduce/{table.name}")
    return _select(read_grid([*own, *others]), part)


def _check_needs(table: StoredTable, given: Mapping[str, str]) -> None:
    for key, about in table.settings.needs.items():
        if key not in given:
            raise ConfigError(f"{key}: is missing, {about}; set {key}=...")


def _check_free(table: StoredTable, word: str) -> None:
    key = word.partition("=")[0].removeprefix(f"{BLOCK}.")
    group, name = key.split(".")[0], key.rpartition(".")[2]
    if key in FREE or key in table.settings.needs or group in FREE_GROUPS or name in LOCAL:
        return
    raise ConfigError(
        f"{word}: changes what is run, and stored values say nothing of that; leave it out, or run "
        f"fedrobust compare {' '.join(table.settings.command)} {word}"
    )


def _read_list(word: str) -> list[Any]:
    """The values of a word such as seeds=[0,1] or strategies=krum. Raises ConfigError."""
    key, _, text = word.partition("=")
    try:
        values = as_list(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{word}: cannot be read; write {key}=[...]") from error
    if not values or any(value is None or isinstance(value, dict) for value in values):
        raise ConfigError(f"{word}: must be a list of names of the table's own")
    return values


def _select(grid: Grid, part: Mapping[str, Sequence[Any]]) -> Grid:
    """The part of the grid with these names."""
    name_of: dict[str, Callable[[Any], Any]] = {
        "strategies": lambda one: one.name,
        "contaminations": lambda one: one.name,
        "poisoned": count_poisoned,
        "seeds": lambda one: one,
    }
    chosen: dict[str, Any] = {
        key: _pick(key, {name_of[key](one): one for one in getattr(grid, key)}, names)
        for key, names in part.items()
    }
    return replace(grid, **chosen)


def _pick(key: str, known: Mapping[Any, Any], names: Sequence[Any]) -> tuple[Any, ...]:
    for name in names:
        if name not in known:
            listed = ", ".join(map(str, known))
            near = did_you_mean(str(name), [one for one in known if isinstance(one, str)])
            raise ConfigError(f"{key}={name}: is not in the table; {near}it has {listed}")
    return tuple(one for name, one in known.items() if name in names)
