"""A real site: how a node's own configuration names its data, and what becomes of the run's
configuration there.

A node reads what its own configuration names, and nothing else: neither the server nor anyone who
started the run can point it to a file. Its settings: data-root (the folder or file of the images),
data-format (a source that is `usable_at_sites`), site (which of several sites in there is this
one), and data-<setting> for any other setting of that format, e.g. data-layout or data-label; the
number of pixels and the classes come with the run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from fedrobust.data import sources
from fedrobust.data.dataset import SITE_PLACE
from fedrobust.errors import ConfigError
from fedrobust.experiment.factories import FACTORY_PACKAGES
from fedrobust.experiment.settings import Settings

PREFIX = "data-"
FIXED = ("size", "classes", "every_class")  # not the node's to choose
HARMLESS = "fedrobust.data.synthetic.synthetic"  # drawn, so that nothing is read
REMOTE = {"_target_": f"{FACTORY_PACKAGES['partition']}.remote"}


def names_data(node: Mapping[str, Any]) -> bool:
    """Whether the node's configuration names data of its own."""
    return f"{PREFIX}root" in node


def is_remote(settings: Settings) -> bool:
    """Whether a configuration leaves the images to the sites (partition=remote)."""
    return settings.partition.target == REMOTE["_target_"]


def site_formats() -> dict[str, Callable[..., Any]]:
    """{data-format: the factory}, of all modules in fedrobust.data.sources whose factory is marked
    as `usable_at_sites`."""
    modules = [
        import_module(f"{sources.__name__}.{one.name}") for one in iter_modules(sources.__path__)
    ]
    return {
        name: factory
        for module in modules
        for name, factory in vars(module).items()
        if hasattr(factory, SITE_PLACE) and factory.__module__ == module.__name__
    }


def own_config(
    config: Mapping[str, Any],
    node: Mapping[str, Any],
    client: int,
    *,
    size: int,
    classes: Sequence[str],
) -> dict[str, Any]:
    """The run's configuration with the node's own data in the place of the server's, all of it
    client number `client`'s.

    size: pixels of an image's side; classes: their names, in the run's order. Raises ConfigError.
    """
    return {
        **config,
        "data": own_data(node, size=size, classes=classes),
        "partition": {**REMOTE, "client": client},
    }


def own_data(node: Mapping[str, Any], *, size: int, classes: Sequence[str]) -> dict[str, Any]:
    """The settings of the node's data set, for `factories.build_group`. Raises ConfigError in terms
    of the node's configuration."""
    if not names_data(node):
        raise ConfigError(
            "data-root: this node names no data; start it with --node-config "
            '\'data-root="..." data-format="..."\''
        )
    kind = node.get(f"{PREFIX}format", "image_folder")
    formats = site_formats()
    if kind not in formats:
        raise ConfigError(f"data-format={kind}: must be one of {', '.join(formats)}")
    factory = formats[kind]
    given = {
        key.removeprefix(PREFIX).replace("-", "_"): value
        for key, value in node.items()
        if key.startswith(PREFIX)
    }
    del given["root"]
    given.pop("format", None)
    if wrong := [key for key in given if key in FIXED]:
        raise ConfigError(
            f"{PREFIX}{wrong[0]}={given[wrong[0]]}: comes with the run; leave it out "
            "of the node's configuration"
        )
    source: dict[str, Any] = {
        "_target_": f"{factory.__module__}.{factory.__name__}",
        getattr(factory, SITE_PLACE): node[f"{PREFIX}root"],
        "size": size,
        **given,
    }
    source["every_class"] = False
    if "classes" in inspect.signature(factory).parameters:  # else they are fixed
        source["classes"] = list(classes)
    return {
        "_target_": f"{FACTORY_PACKAGES['data']}.sources.one_site.one_site",
        "source": source,
        "site": node.get("site"),
    }


def check_readable(settings: Settings, node: Mapping[str, Any]) -> None:
    """Check a run that does not leave the images to the sites: only the drawn data set may be
    shared out among nodes, and no node with data of its own takes part. Raises ConfigError."""
    if names_data(node):
        raise ConfigError(
            "partition: this node has data of its own; run with partition=remote, or "
            "leave data-root out"
        )
    if settings.data.target != HARMLESS:
        raise ConfigError(
            f"data={settings.data.target}: a node reads only what its own configuration names; set "
            "data-root and data-format there"
        )
