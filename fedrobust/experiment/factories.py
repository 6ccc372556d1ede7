"""Factories that a configuration may call by `_target_`: those of its groups, each in its package
or in a plug-in that the configuration names, and nothing else. A configuration from the network
names no plug-in (`local_settings`)."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.utils.plugins import PLUGINS
from fedrobust.utils.settings_table import list_settings
from fedrobust.utils.validation import REQUIRED, check_names

# Where the factories of each group may live. A configuration can come over the network: nothing
# else is ever called.
FACTORY_PACKAGES: dict[str, str] = {
    "data": "fedrobust.data",
    "partition": "fedrobust.data.partition",
    "contamination": "fedrobust.contamination",
    "noise": "fedrobust.contamination",
    "corruption": "fedrobust.contamination",
    "model": "fedrobust.learning.classifier",
    "client": "fedrobust.clients",
    "strategy": "fedrobust.strategies",
    "preaggregation": "fedrobust.strategies.preaggregation",
    "server_optimizer": "fedrobust.strategies.server_optimizers",
    "sanitiser": "fedrobust.defences.sanitisation",
    "engine": "fedrobust.runtime.engines",
    "tracker": "fedrobust.reporting.trackers",
    "evaluation": "fedrobust.evaluation.settings",
    "evasion": "fedrobust.contamination.evasion",
    "purifier": "fedrobust.defences.purification",
    "privacy": "fedrobust.privacy",
}
# What each of them makes, by the name that its signature gives as its result: other functions of a
# package (loaders, the Flower apps, helpers) are no factories.
FACTORY_RETURNS: dict[str, frozenset[str]] = {
    "data": frozenset({"DataSource"}),
    "partition": frozenset({"Partitioner", "Remote"}),
    "contamination": frozenset({"Contamination"}),
    "noise": frozenset({"Contamination"}),
    "corruption": frozenset({"Contamination"}),
    "model": frozenset({"ModelFactory"}),
    "client": frozenset({"ClientTrainer"}),
    "strategy": frozenset({"Strategy"}),
    "preaggregation": frozenset({"Preaggregation"}),
    "server_optimizer": frozenset({"ServerOptimizer"}),
    "sanitiser": frozenset({"Sanitiser"}),
    "engine": frozenset({"Engine"}),
    "tracker": frozenset({"Tracker"}),
    "evaluation": frozenset({"Evaluation"}),
    "evasion": frozenset({"Evasion"}),
    "purifier": frozenset({"Purifier"}),
    "privacy": frozenset({"Privacy"}),
}
# Groups without plug-ins: they decide where code runs, what is measured and who is told of it.
WITHOUT_PLUGINS = frozenset({"engine", "evaluation", "privacy", "tracker"})


def find_factory(group: str, target: Any, plugins: Sequence[str] = ()) -> Callable[..., Any]:
    """The factory named by `_target_`: a public function defined in a module of the group's
    package or of a plug-in, and nothing reached through it, whose signature says that it makes what
    the group holds.

    Args:
        group: of the configuration.
        target: module and name of the function, with dots.
        plugins: packages of the user in which it may lie.

    Raises:
        ConfigError: it is anything else (`fedrobust.reporting.manifest.subprocess.run` must not be
            found); nothing is imported then that lies elsewhere.
    """
    module_name, _, name = str(target).rpartition(".")
    rooms = (FACTORY_PACKAGES[group], *(() if group in WITHOUT_PLUGINS else plugins))
    if (
        not any(module_name == room or module_name.startswith(room + ".") for room in rooms)
        or not name.isidentifier()
        or name.startswith("_")
    ):
        own = (
            ""
            if group in WITHOUT_PLUGINS
            else f", or in a package of your own that {PLUGINS}=[...] names"
        )
        raise ConfigError(
            f"{group}._target_={target}: must name a function in {' or '.join(rooms)}{own}"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{group}._target_={target}: cannot be found ({error})") from error
    if not inspect.isfunction(found) or found.__module__ != module_name:
        raise ConfigError(
            f"{group}._target_={target}: must name a function defined in {module_name}"
        )
    if not _makes(found, FACTORY_RETURNS[group]):
        raise ConfigError(
            f"{group}._target_={target}: is no factory, its signature must end in -> "
            f"{' or '.join(sorted(FACTORY_RETURNS[group]))}"
        )
    return found


def _makes(factory: Callable[..., Any], kinds: frozenset[str]) -> bool:
    """Whether the signature ends in one of these types, written as text or, in a module without
    postponed annotations, as the type itself, which for a kind of function has no name."""
    made = factory.__annotations__.get("return")
    if isinstance(made, str) or made is None:
        return made in kinds
    known = getattr(inspect.unwrap(factory), "__globals__", {})
    return getattr(made, "__name__", "") in kinds or made in [known.get(kind) for kind in kinds]


def group_name(group: str) -> str:
    """The group whose name appears in the error lines of this package's factories."""
    return next(name for name, room in FACTORY_PACKAGES.items() if room == FACTORY_PACKAGES[group])


def build_group(config: Mapping[str, Any], group: str, **given: Any) -> Any:
    """Call the factory of one group with its settings; `given` fills keywords that the
    configuration cannot know (num_classes) where the factory has them. Nested settings with a
    `_target_` are built first, in the same packages. The plug-ins are those that the configuration
    names.

    Raises ConfigError for unknown or missing settings, with the key's full name.
    """
    return _build(config[group], _Group(group, tuple(config.get(PLUGINS, ())), given), group)


@dataclass(frozen=True, slots=True)
class _Group:
    """What is built: the group's name, where else than in its package its factories may lie, and
    the keywords that the configuration cannot know."""

    name: str
    plugins: tuple[str, ...]
    given: Mapping[str, Any]


def _build(settings: Mapping[str, Any], group: _Group, path: str) -> Any:
    if not isinstance(settings, Mapping) or "_target_" not in settings:
        raise ConfigError(
            f"{path}={settings}: must be a group with a _target_; see configs/{group.name}"
        )
    factory = find_factory(group.name, settings["_target_"], group.plugins)
    if without := next(_without_value(settings, ""), None):
        raise _missing(factory, path, without)
    keywords = {
        key: _nested(value, group, f"{path}.{key}")
        for key, value in settings.items()
        if key != "_target_"
    }
    known = inspect.signature(factory).parameters
    keywords |= {
        key: value
        for key, value in group.given.items()
        if key in known and keywords.get(key) is None
    }
    check_names(path, keywords, factory)
    try:
        return factory(**keywords)
    # one factory serves several groups: the line must name the key that the user wrote
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"{group_name(group.name)}.", f"{path}.")) from error


def _without_value(value: Any, key: str) -> Iterator[str]:
    """The keys below which Hydra's mark of a value to be given stands; what has a `_target_` of its
    own is looked at when it is built."""
    if isinstance(value, str) and value == REQUIRED:
        yield key
    elif isinstance(value, Mapping) and not (key and "_target_" in value):
        for name, inner in value.items():
            yield from _without_value(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _without_value(inner, f"{key}.{place}")


def _missing(factory: Callable[..., Any], path: str, key: str) -> ConfigError:
    told = {one.name: one.description.rstrip(".") for one in list_settings(factory)}.get(key)
    what = f" ({told})" if told else ""
    return ConfigError(f"{path}.{key}: is missing{what}; set {path}.{key}=...")


def _nested(value: Any, group: _Group, path: str) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return _build(value, group, path)
    if isinstance(value, list):
        return [_nested(item, group, f"{path}.{index}") for index, item in enumerate(value)]
    return value
