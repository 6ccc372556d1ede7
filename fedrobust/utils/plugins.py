"""Plug-ins: packages of a user that hold own rules, trainers, contaminations and the like. Found by
name, never imported here."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.utils.machine import installed_version
from fedrobust.utils.names import shown_name

PLUGINS = "plugins"
ENTRY_POINTS = "fedrobust.plugins"  # the group by which an installed package says that it is one
PLUGIN_CONFIGS = "configs"  # a plug-in's folder of yaml files, one folder a group

PLUGINS_HELP = "your own packages that are needed, with commas between"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in.

    Attributes:
        name: of the package or module, as it is imported.
        place: the package's folder, or the file of a single module.
    """

    name: str
    place: Path

    def choices(self, group: str) -> dict[str, Path]:
        """{choice: its yaml file} that it adds to a group of the configuration."""
        folder = self.place / PLUGIN_CONFIGS / group
        return {path.stem: path for path in sorted(folder.glob("*.yaml"))}

    def sources(self) -> list[Path]:
        """Its Python files, in a fixed order."""
        return sorted(self.place.rglob("*.py")) if self.place.is_dir() else [self.place]

    @property
    def version(self) -> str | None:
        """Of the installed distribution that holds it; None where it is not installed."""
        declared = _declared().get(self.name)
        if declared is not None and declared.dist is not None:
            return declared.dist.version
        found = installed_version(self.name)
        if found is not None:
            return found
        holders = packages_distributions().get(self.name, [])
        return installed_version(holders[0]) if holders else None


def find_plugin(name: str) -> Plugin:
    """The plug-in of this name; nothing of it is imported.

    Args:
        name: of a package or module that can be imported, without dots.

    Raises:
        ConfigError: there is none, or it is no user's.
    """
    written = f"{PLUGINS}=[{shown_name(name)}]"
    if not name.isidentifier():
        raise ConfigError(f"{written}: must be the name of a package, without dots, e.g. mylab")
    if name == "fedrobust" or name in sys.stdlib_module_names or name == "__main__":
        raise ConfigError(f"{written}: is no plug-in; name a package of your own")
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places and spec is not None and spec.origin is not None:
        places = [spec.origin] if spec.origin.endswith(".py") else []
    if not places:
        raise ConfigError(
            f"{written}: no such package can be imported; install it, or set PYTHONPATH to the "
            "folder that holds it"
        )
    return Plugin(name, Path(places[0]).resolve())


@functools.cache
def _declared() -> dict[str, EntryPoint]:
    return {one.module.partition(".")[0]: one for one in entry_points(group=ENTRY_POINTS)}


def installed_plugins() -> tuple[str, ...]:
    """Names of the installed packages that declare themselves as plug-ins by an entry point."""
    return tuple(sorted(name for name in _declared() if _is_there(name)))


def _is_there(name: str) -> bool:
    """Whether a declared package can be found: one that is broken ends no run that is without
    it."""
    try:
        find_plugin(name)
    except ConfigError:
        return False
    return True


def package_of(target: str) -> str:
    """The first part of a dotted name."""
    return target.partition(".")[0]


def named_in(written: Any) -> list[str]:
    """Names of plug-ins as a setting has them: one, several with commas, or a list.

    Raises:
        ConfigError: it is no text and no list of texts.
    """
    words = written.replace(",", " ").split() if isinstance(written, str) else written
    if not isinstance(words, Sequence) or not all(isinstance(one, str) for one in words):
        raise ConfigError(
            f"{PLUGINS}={written}: must be a list of packages, e.g. {PLUGINS}=[mylab]"
        )
    return sorted(set(words))


def plugins_as_option(line: str) -> str:
    """An error line of a command that takes plug-ins as an option, not as a setting."""
    return line.replace(f"add {PLUGINS}=", f"add --{PLUGINS}=")


@functools.cache
def sources_digest(name: str) -> str:
    """SHA-256 over the Python files of a plug-in, as they were when first asked for. Raises
    ConfigError as `find_plugin`."""
    plugin = find_plugin(name)
    base = plugin.place.parent
    sha = hashlib.sha256()
    for path in plugin.sources():
        sha.update(f"{path.relative_to(base).as_posix()};".encode() + path.read_bytes())
    return sha.hexdigest()


def plugin_facts(names: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """{plug-in: {"version", "sources"}}: what its code is, for the manifest of a run."""
    return {
        name: {"version": find_plugin(name).version, "sources": sources_digest(name)}
        for name in names
    }
