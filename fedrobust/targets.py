"""What a configuration may call by `_target_`: the factories of its groups, each in its room, and nothing else whoever wrote it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from fedrobust.errors import ConfigError

# Where the factories of each group may live. A configuration can come over the network: nothing else is ever called.
ROOMS: dict[str, str] = {
    "data": "fedrobust.data",
    "partition": "fedrobust.partition",
    "contamination": "fedrobust.contamination",
    "noise": "fedrobust.contamination",
    "corruption": "fedrobust.contamination",
    "model": "fedrobust.models",
    "client": "clients",
    "strategy": "strategies",
    "preaggregation": "strategies.preaggregation",
    "server_optimizer": "strategies.server_optimizers",
    "sanitiser": "fedrobust.sanitising",
    "engine": "fedrobust.engines",
    "evaluation": "fedrobust.evaluation",
    "evasion": "fedrobust.evasion",
    "purifier": "fedrobust.purification",
    "privacy": "fedrobust.privacy",
}
# What each of them makes, by the name that its signature gives as its result: other functions of a room (loaders, the Flower apps,
# helpers) are no factories.
MAKES: dict[str, frozenset[str]] = {
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
    "evaluation": frozenset({"Evaluation"}),
    "evasion": frozenset({"Evasion"}),
    "purifier": frozenset({"Purifier"}),
    "privacy": frozenset({"Privacy"}),
}


def locate(group: str, target: Any) -> Callable[..., Any]:
    """The factory named by `_target_`: a public function defined in a module of the group's room, and nothing reached through it,
    whose signature says that it makes what the group holds.

    Raises ConfigError for anything else (`fedrobust.manifest.subprocess.run` must not be found), before anything is imported that
    lies elsewhere.
    """
    module_name, _, name = str(target).rpartition(".")
    room = ROOMS[group]
    if not (module_name == room or module_name.startswith(room + ".")) or not name.isidentifier() or name.startswith("_"):
        raise ConfigError(f"{group}._target_={target}: must name a function in {room}")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{group}._target_={target}: cannot be found ({error})") from error
    if not inspect.isfunction(found) or found.__module__ != module_name:
        raise ConfigError(f"{group}._target_={target}: must name a function defined in {module_name}")
    made = found.__annotations__.get("return")
    if getattr(made, "__name__", made) not in MAKES[group]:
        raise ConfigError(f"{group}._target_={target}: is no factory, its signature must end in -> {' or '.join(sorted(MAKES[group]))}")
    return found


def room_name(group: str) -> str:
    """The group by whose name factories of this room speak of their settings."""
    return next(name for name, room in ROOMS.items() if room == ROOMS[group])
