"""Functions of a user as choices of the configuration: `fedrobust.run(strategy=my_rule)`."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from fedrobust.errors import ConfigError
from fedrobust.experiment.compose import with_choices
from fedrobust.experiment.factories import FACTORY_PACKAGES, WITHOUT_PLUGINS, find_factory
from fedrobust.experiment.overrides import PLACED
from fedrobust.experiment.own_choices import WORD, named_by_words
from fedrobust.utils.plugins import PLUGINS, find_plugin, package_of
from fedrobust.utils.validation import REQUIRED, setting_types

LISTS = {"strategies": "strategy", "contaminations": "contamination"}  # of a comparison


@contextmanager
def named_functions(
    words: Sequence[str], settings: Mapping[str, Any]
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Inside, each function among the settings is a choice of its group, called by its module and
    name, e.g. `strategy=mylab.rules.my_rule`; its package is among the plug-ins of the run. Other
    processes import the function by that name: nothing of it is sent.

    Args:
        words: overrides as on a command line.
        settings: further ones by name; values may be functions or, of a comparison, lists of them.

    Yields:
        The words and the settings without functions.

    Raises:
        ConfigError: a function cannot be imported by its name, or makes nothing of the group.
    """
    found: dict[str, dict[str, Any]] = {}  # {group/choice: its settings}
    plain = {
        PLACED.get(key, key) if callable(value) else key: _without_functions(key, value, found)
        for key, value in settings.items()
    }
    if not found:
        yield list(words), plain
        return
    packages = {package_of(one["_target_"]) for one in found.values()} - {"fedrobust"}
    given = plain.pop(PLUGINS, [])
    names = {*named_by_words(words), *([given] if isinstance(given, str) else given), *packages}
    others = [word for word in words if not WORD.fullmatch(word)]
    with tempfile.TemporaryDirectory(prefix="fedrobust-") as folder:
        for place, written in found.items():
            path = Path(folder) / f"{place}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(yaml.safe_dump(written), encoding="utf-8")
        with with_choices(("functions", Path(folder))):
            yield [*others, f"{PLUGINS}=[{','.join(sorted(names))}]"], plain


def _without_functions(key: str, value: Any, found: dict[str, dict[str, Any]]) -> Any:
    if isinstance(value, list | tuple) and key in LISTS:
        return [_without_functions(key, one, found) for one in value]
    if not callable(value):
        return value
    group = LISTS.get(key, key.rpartition("@")[2])
    written = _choice(group, value)
    folder = PLACED.get(group, group).partition("@")[0]
    found[f"{folder}/{written['_target_']}"] = written
    return written["_target_"]


def _choice(group: str, function: Callable[..., Any]) -> dict[str, Any]:
    """What a yaml file of the function would hold. Raises ConfigError."""
    if group not in FACTORY_PACKAGES or group in WITHOUT_PLUGINS:
        raise ConfigError(f"{group}={function!r}: takes no function")
    target = _importable_name(group, function)
    package = package_of(target)
    own = [] if package == "fedrobust" else [find_plugin(package).name]
    factory = find_factory(group, target, own)
    settings = setting_types(factory)
    written: dict[str, Any] = {"_target_": target}
    for name, one in inspect.signature(factory).parameters.items():
        if one.default is one.empty:
            if name in settings:
                written[name] = REQUIRED
        elif _is_plain(one.default):
            written[name] = list(one.default) if isinstance(one.default, tuple) else one.default
    return written


def _importable_name(group: str, function: Callable[..., Any]) -> str:
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    shown = f"{group}={name or function!r}"
    remedy = "put it into a module of a package of your own, e.g. mylab/rules.py (docs/plugins.md)"
    if not inspect.isfunction(function) or not name.isidentifier():
        raise ConfigError(
            f"{shown}: is no function at the top of a module, so workers and a resumed run cannot "
            f"import it; {remedy}"
        )
    if module == "__main__":
        raise ConfigError(
            f"{shown}: is defined in this script or notebook, which workers and a resumed run "
            f"cannot import; {remedy}"
        )
    try:
        same = getattr(import_module(module), name, None) is function
    except ImportError:
        same = False
    if not same:
        raise ConfigError(
            f"{shown}: is not what workers and a resumed run import as {module}.{name}; {remedy}"
        )
    return f"{module}.{name}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | str)
