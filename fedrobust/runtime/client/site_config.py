"""A real site: how a node's own configuration names its data, and what becomes of the run's
configuration there.

A node reads what its own configuration names, and nothing else: neither the server nor anyone who
started the run can point it to a file. Its settings: data-root (the folder or file of the images),
data-format (a source that is `usable_at_sites`), site (which of several sites in there is this
one), data-classes (the classes that a run must have, where the data do not show them all),
data-sizes (the numbers of pixels that a run may ask for) and data-<setting> for any other setting
of that format, e.g. data-layout or data-label. plugins names the packages besides this one whose
factories a run's configuration may name: no message can. (model-weights: see `own_weights`.)
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from fedrobust.data import sources
from fedrobust.data.dataset import SITE_PLACE
from fedrobust.errors import ConfigError, RefusalError
from fedrobust.evaluation.counts import MinCell
from fedrobust.experiment.factories import FACTORY_PACKAGES, find_factory
from fedrobust.experiment.local_settings import DRAWN, REMOTE, check_no_local_settings
from fedrobust.experiment.settings import Settings, from_json, read_settings
from fedrobust.privacy import ledger
from fedrobust.privacy.mechanisms import Delta, SumOf
from fedrobust.privacy.secure import site_condition
from fedrobust.runtime.client.disclosure import MIN_CELL
from fedrobust.runtime.messages.sites import FORMULA, LONGEST
from fedrobust.utils.foreign_text import escape_text
from fedrobust.utils.names import clean_name
from fedrobust.utils.plugins import PLUGINS, Plugin, find_plugin, named_in
from fedrobust.utils.validation import NonNegative, check
from fedrobust.utils.yaml_files import read_yaml

PREFIX = "data-"
CLASSES, SIZES = f"{PREFIX}classes", f"{PREFIX}sizes"
USUAL_SIZES = (16, 28, 32, 64, 96, 128, 224)  # a side's pixels; each takes room in the cache
FIXED = ("size", "every_class")  # not the node's to choose
LISTED = 'a JSON list, e.g. ["a, b", "c"]'
LIST = re.compile(r'\s*\[\s*"')  # how a JSON list of texts begins
NUMBERS = {"threads": 1, "partition-id": 0}  # of a node's own words, with the least of each
# a node's own conditions, each with its kind
CONDITIONS: Mapping[str, Any] = {
    ledger.LIMIT: NonNegative,
    ledger.DELTA: Delta,
    site_condition.CONDITION: SumOf,
    MIN_CELL: MinCell,
}
OWN_KEYS = {f"{PREFIX}root", f"{PREFIX}format", CLASSES, SIZES}  # no settings of a format


def names_data(node: Mapping[str, Any]) -> bool:
    """Whether the node's configuration names data of its own."""
    return f"{PREFIX}root" in node


def is_remote(settings: Settings) -> bool:
    """Whether a configuration leaves the images to the sites (partition=remote)."""
    return settings.partition.target == REMOTE


def read_run(text: str, node: Mapping[str, Any]) -> tuple[dict[str, Any], Settings]:
    """The configuration of a run that came to this node, and the same typed, once it names nothing
    of this machine and orders nothing that the node refuses. Nothing of it is used before that.
    Raises ConfigError.

    A server must never be able to order a hospital to poison: contamination is refused unless the
    node itself allows it.
    """
    check_node_words(node)
    config = from_json(text)
    check_no_local_settings(config)
    config = {**config, PLUGINS: node_plugins(node)}
    settings = read_settings(config)
    # the word "false" is no permission
    allowed = node.get("allow-contamination") is True
    if (settings.poisoned or settings.noisy) and not allowed:
        raise RefusalError(
            "contamination",
            "poisoned/noisy: this node refuses contamination; its own node config "
            "may set allow-contamination=true",
        )
    return config, settings


def check_node_words(node: Mapping[str, Any]) -> None:
    """Whether each text of the node's configuration can be shown and sent, its numbers are numbers
    and its conditions are in their ranges. Raises ConfigError."""
    for key, value in node.items():
        if isinstance(value, str) and not value.isprintable():
            raise RefusalError(
                "node",
                f"{escape_text(key)}={escape_text(value)}: holds a control sign, a line break or "
                "another sign that cannot be printed; write it without, and rename what is called "
                "so",
            )
    for key, least in NUMBERS.items():
        value = str(node.get(key, least))
        if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < least:
            raise RefusalError("node", f"{key}={value}: must be a whole number, at least {least}")
    site = str(node.get("site", ""))
    if len(site) > LONGEST:
        raise RefusalError("node", f"site={site}: must have at most {LONGEST} characters")
    if site.startswith(FORMULA):
        raise RefusalError(
            "node",
            f"site={site}: begins as a formula of a spreadsheet does ({' '.join(FORMULA)}); choose "
            "another name",
        )
    try:
        for key, kind in CONDITIONS.items():
            if key in node:
                check(key, node[key], kind)
        for name in node_plugins(node):
            find_plugin(name)
    except ConfigError as error:
        raise RefusalError("node", str(error)) from error


def node_plugins(node: Mapping[str, Any]) -> list[str]:
    """The packages besides this one whose factories a run may name at this node: those that its own
    configuration names. Raises ConfigError."""
    return named_in(node.get(PLUGINS, []))


def site_formats(plugins: Sequence[str] = ()) -> dict[str, Callable[..., Any]]:
    """{data-format: the factory}, of all modules in fedrobust.data.sources, and of all choices of
    `data` in the plug-ins, whose factory is marked as `usable_at_sites`."""
    found = _own_formats()
    for plugin in map(find_plugin, plugins):
        found |= _formats_of(plugin)
    return found


def _formats_of(plugin: Plugin) -> dict[str, Callable[..., Any]]:
    written = {name: read_yaml(path) for name, path in plugin.choices("data").items()}
    factories = {
        name: find_factory("data", one["_target_"], [plugin.name]) for name, one in written.items()
    }
    return {name: one for name, one in factories.items() if hasattr(one, SITE_PLACE)}


def _own_formats() -> dict[str, Callable[..., Any]]:
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

    size: pixels of an image's side; classes: their names, in the run's order. Raises ConfigError
    where the node does not take part in runs with these.
    """
    return {
        **config,
        "data": own_data(node, size=size, classes=classes),
        "partition": {"_target_": REMOTE, "client": client},
    }


def own_data(node: Mapping[str, Any], *, size: int, classes: Sequence[str]) -> dict[str, Any]:
    """The settings of the node's data set, for `factories.build_group`; the run's order of the
    classes where the node lists them, else the classes that the data show. Raises ConfigError in
    terms of the node's configuration."""
    check_node_words(node)
    if not names_data(node):
        raise RefusalError(
            "node",
            "data-root: this node names no data; start it with --node-config "
            '\'data-root="..." data-format="..."\'',
        )
    kind = node.get(f"{PREFIX}format", "image_folder")
    formats = site_formats(node_plugins(node))
    if kind not in formats:
        raise RefusalError("node", f"data-format={kind}: must be one of {', '.join(formats)}")
    factory = formats[kind]
    given = {
        key.removeprefix(PREFIX).replace("-", "_"): value
        for key, value in node.items()
        if key.startswith(PREFIX) and key not in OWN_KEYS
    }
    if wrong := [key for key in given if key in FIXED]:
        raise RefusalError(
            "node",
            f"{PREFIX}{wrong[0]}={given[wrong[0]]}: comes with the run; leave it out "
            "of the node's configuration",
        )
    _check_size(node, size)
    listed = listed_classes(node)
    if listed and sorted(classes) != sorted(listed):
        raise RefusalError("classes", f"{CLASSES}: {_other_classes(classes)}")
    source: dict[str, Any] = {
        "_target_": f"{factory.__module__}.{factory.__name__}",
        getattr(factory, SITE_PLACE): node[f"{PREFIX}root"],
        "size": size,
        **given,
    }
    source["every_class"] = False
    if listed and "classes" in inspect.signature(factory).parameters:  # else they are fixed
        source["classes"] = list(classes)
    return {
        "_target_": f"{FACTORY_PACKAGES['data']}.sources.one_site.one_site",
        "source": source,
        "site": node.get("site"),
    }


def listed_classes(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that the node's configuration lists; none where it lists none. Raises
    ConfigError."""
    if CLASSES not in node:
        return ()
    names = split_classes(str(node[CLASSES]))
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise RefusalError(
            "node",
            f"{CLASSES}={node[CLASSES]}: must be two or more different names, separated by commas, "
            f"or where a name holds a comma {LISTED}",
        )
    return names


def split_classes(text: str) -> tuple[str, ...]:
    """The names in a text as `join_classes` writes it; none in an empty text. Raises ConfigError
    for what begins like a JSON list of texts and is none."""
    if not LIST.match(text):
        return tuple(clean_name(word) for word in text.split(",")) if text else ()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise RefusalError("node", f"{CLASSES}={text}: must be {LISTED} ({error})") from error
    if not all(isinstance(word, str) for word in found):
        raise RefusalError("node", f"{CLASSES}={text}: must be {LISTED}, of texts alone")
    return tuple(clean_name(word) for word in found)


def join_classes(names: Sequence[str]) -> str:
    """Names of classes as one text: separated by commas, or a JSON list where that would not be
    read as these names."""
    text = ",".join(names)
    plain = not LIST.match(text) and split_classes(text) == tuple(names)
    return text if plain else json.dumps(list(names), ensure_ascii=False)


def check_found_classes(found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises ConfigError unless the node's data have the classes of the run, in the run's order."""
    if list(found) != list(wanted):
        raise RefusalError("classes", f"data-root: {_other_classes(wanted)}")


def _other_classes(wanted: Sequence[str]) -> str:
    """Names no class of the node's own: the line goes to the server."""
    return (
        f"the {len(wanted)} classes of the run, or their order, are not this node's; rename its "
        f'labels, or set {CLASSES}="..." in its configuration if it is to take part'
    )


def _check_size(node: Mapping[str, Any], size: int) -> None:
    """Raises ConfigError for a size that the node does not allow: each fills its disk further."""
    allowed = _allowed_sizes(node)
    if size not in allowed:
        raise RefusalError(
            "size",
            f"{SIZES}: this node reads images of {', '.join(map(str, allowed))} pixels, not of "
            f"{size}; its own configuration may allow that",
        )


def _allowed_sizes(node: Mapping[str, Any]) -> tuple[int, ...]:
    words = str(node.get(SIZES, ",".join(map(str, USUAL_SIZES)))).split(",")
    if not all(word.strip().isdecimal() and len(word) < 6 for word in words):
        raise RefusalError(
            "node",
            f"{SIZES}={node[SIZES]}: must be numbers of pixels, separated by commas, e.g. 64",
        )
    return tuple(int(word) for word in words)


def check_readable(settings: Settings, node: Mapping[str, Any]) -> None:
    """Check a run that does not leave the images to the sites: only the drawn data set may be
    shared out among nodes, and no node with data of its own takes part. Raises ConfigError."""
    if names_data(node):
        raise ConfigError(
            "partition: this node has data of its own; run with partition=remote, or "
            "leave data-root out"
        )
    if settings.data.target != DRAWN:
        raise ConfigError(
            f"data={settings.data.target}: a node reads only what its own configuration names; set "
            "data-root and data-format there"
        )
