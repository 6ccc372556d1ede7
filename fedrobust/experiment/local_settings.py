"""Settings that name something of one machine: its files and folders, an address, weights that it
would fetch.

Plug-ins are such settings, too: whose code a node runs, its own configuration says.

They are for the machine on which somebody wrote them. The server of real sites leaves them out of
what it sends (`without_local_settings`), and a site refuses every configuration that holds one,
before anything of it is used (`check_no_local_settings`). This module is the only place that says
which these are. The same holds for what concerns the server alone (`SERVERS_OWN`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedrobust.errors import RefusalError
from fedrobust.experiment.old_names import ADDED_GROUPS
from fedrobust.utils.plugins import PLUGINS

# by their names in any group and at any depth, each with the value that names nothing
LOCAL: Mapping[str, Any] = {
    "address": None,
    "checkpoint": None,
    "path": None,
    "pretrained": False,
    "root": None,
    "scratch_dir": None,
}
REMOTE = "fedrobust.data.partition.remote"  # the images lie at the sites
# what no site needs to know, each with what a message without it has
SERVERS_OWN = {
    name: ADDED_GROUPS[name] for name in ("tracker", "stop_when", "schedule", "certificate")
}
DRAWN = "fedrobust.data.synthetic.synthetic"  # a data set for which nothing is read
# whatever the setting is called: a path (not the module of a factory), an address, a home folder
PLACE = re.compile(r".*[/\\].*|~.*|\.\.?|[^\s:]+:\d{1,5}|[A-Za-z]:.*", re.DOTALL)
SHOWN = 80  # characters of a value in an error line


def without_local_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration for real sites: nothing in it names a place on this machine, and
    nothing is the server's own affair. Where the images lie at the sites, it says nothing of the
    server's own data."""
    sent = {str(group): _cleared(settings) for group, settings in config.items()}
    for name in SERVERS_OWN:
        sent.pop(name, None)
    if PLUGINS in sent:
        sent[PLUGINS] = []
    partition = config.get("partition")
    if isinstance(partition, Mapping) and partition.get("_target_") == REMOTE:
        sent["data"] = {"_target_": DRAWN}
    return sent


def _cleared(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: LOCAL[key] if key in LOCAL else _cleared(inner) for key, inner in value.items()
        }
    return [_cleared(one) for one in value] if isinstance(value, list) else value


def check_no_local_settings(config: Mapping[str, Any]) -> None:
    """For a configuration that came from another machine; nothing of it has been used yet. Raises
    ConfigError, in one line, where something in it names a plug-in or a place on this one, or
    concerns the server alone."""
    if config.get(PLUGINS, []) != []:
        raise RefusalError(
            "plugins",
            f"{PLUGINS}={str(config[PLUGINS])[:SHOWN]!r}: names plug-ins; this node uses those "
            "that its own configuration names, leave them out of the run",
        )
    for key, value in _local_settings(config, ""):
        raise RefusalError(
            "places",
            f"{key}={str(value)[:SHOWN]!r}: names a file, folder or address, or weights to be "
            "fetched; this node uses nothing of that kind, leave it out of the run",
        )
    for name, nothing in SERVERS_OWN.items():
        if config.get(name, nothing) != nothing:
            raise RefusalError(
                "settings",
                f"{name}={str(config[name])[:SHOWN]!r}: concerns the server alone; no site is sent "
                "it, leave it out of the message",
            )


def _local_settings(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything in a configuration that names such a place."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            where = f"{path}.{key}" if path else str(key)
            if _names_place(key):
                yield str(key)[:SHOWN], inner
            if key in LOCAL:
                if inner is not LOCAL[key]:
                    yield where, inner
            else:
                yield from _local_settings(inner, where)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _local_settings(inner, f"{path}.{index}")
    elif _names_place(value):
        yield path, value


def _names_place(value: Any) -> bool:
    return isinstance(value, str) and PLACE.fullmatch(value) is not None
