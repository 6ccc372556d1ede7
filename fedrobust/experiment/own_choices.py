"""What a user's own packages add to the configuration: choices of its groups, and factories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fedrobust.configs
from fedrobust.errors import ConfigError
from fedrobust.experiment.factories import FACTORY_PACKAGES, WITHOUT_PLUGINS
from fedrobust.utils.plugins import (
    PLUGINS,
    Plugin,
    find_plugin,
    installed_plugins,
    named_in,
    package_of,
)

CONFIGS = Path(str(fedrobust.configs.__file__)).parent
WORD = re.compile(rf"\+*{PLUGINS}=(.*)", re.DOTALL)


def named_by_words(words: Sequence[str]) -> tuple[str, ...]:
    """The plug-ins that a command line names by `plugins=[...]`, in alphabetical order.

    Raises:
        ConfigError: it names them twice, or not by a name or a list of names.
    """
    given = [match[1].strip() for match in map(WORD.fullmatch, words) if match]
    if len(given) > 1:
        raise ConfigError(f"{PLUGINS}={given[1]}: stands there twice; give one list")
    if not given:
        return ()
    text = given[0]
    if re.fullmatch(r"\[.*\]", text):
        text = text[1:-1]
    elif "," in text:
        raise ConfigError(f"{PLUGINS}={text}: several are a list; write {PLUGINS}=[{text}]")
    return tuple(named_in([one.strip(" \"'") for one in text.split(",") if one.strip()]))


def plugin_words(text: str) -> list[str]:
    """The text of an option `--plugins` as words of a command line."""
    return [f"{PLUGINS}=[{text.strip('[]')}]"]


def available_plugins(words: Sequence[str]) -> list[Plugin]:
    """The plug-ins that the words name and those that are installed, each with choices that no
    other has.

    Raises:
        ConfigError: one is not there, or has a choice that there is already.
    """
    names = sorted({*named_by_words(words), *installed_plugins()})
    found = [find_plugin(name) for name in names]
    _check_choices(found)
    return found


def _check_choices(plugins: Sequence[Plugin]) -> None:
    """Hydra would take the first of two files of one name, and say nothing."""
    for group in _groups() if plugins else ():
        owners = dict.fromkeys(choice_files(group), "fedrobust")
        for plugin in plugins:
            for choice, path in plugin.choices(group).items():
                if choice in owners:
                    raise ConfigError(
                        f"{PLUGINS}=[{plugin.name}]: {path} has the name of a choice of "
                        f"{owners[choice]}; rename it"
                    )
                owners[choice] = plugin.name


def _groups() -> list[str]:
    """Groups to which a plug-in can add choices: folders of yaml files."""
    made_elsewhere = {"noise", "corruption"}  # of contamination
    return sorted({*FACTORY_PACKAGES} - WITHOUT_PLUGINS - made_elsewhere)


def choice_files(group: str, plugins: Sequence[Plugin] = ()) -> dict[str, Path]:
    """{choice: its yaml file} of a group, sorted: those of this package and of the plug-ins."""
    name = group.partition("@")[0]
    found = {path.stem: path for path in (CONFIGS / name).glob("*.yaml")}
    for plugin in plugins:
        found |= plugin.choices(name)
    return dict(sorted(found.items()))


def known_choices(group: str, words: Sequence[str] = ()) -> list[str]:
    """The names of a group's choices: those of this package, of the plug-ins that the words name,
    and of those that are installed. Raises ConfigError as `available_plugins`."""
    return list(choice_files(group, available_plugins(words)))


def used_plugins(config: Mapping[str, Any], named: Sequence[str]) -> list[str]:
    """The plug-ins of a configuration: those that were named, and of those that are installed the
    ones whose factories it has."""
    return sorted({*named, *(set(installed_plugins()) & foreign_packages(config))})


def foreign_packages(config: Mapping[str, Any]) -> set[str]:
    """The packages but this one in which factories of a configuration lie."""
    return {package_of(target) for target in _targets(config)} - {package_of(__name__)}


def _targets(value: Any) -> Iterator[str]:
    """Every `_target_` in a configuration."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "_target_":
                yield str(inner)
            else:
                yield from _targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _targets(inner)


def check_plugins(config: Mapping[str, Any], named: Sequence[str], source: object) -> None:
    """Whether the plug-ins of a configuration that was found in a file are those that the user
    trusts: importing a package runs it, and the file may be somebody else's.

    Args:
        config: the configuration.
        named: plug-ins that the user names now.
        source: the file, for the error line.

    Raises:
        ConfigError: the configuration has one that is neither named nor installed as a plug-in.
    """
    known = {*named, *installed_plugins()}
    wanted = named_in(config.get(PLUGINS, []))
    if unknown := [name for name in wanted if name not in known]:
        listed = ",".join(wanted)
        raise ConfigError(
            f"{PLUGINS}=[{','.join(unknown)}]: stands in {source} alone, and no code runs because "
            f"a file says so; add {PLUGINS}=[{listed}], or install it with an entry point "
            "(docs/plugins.md)"
        )
    for name in wanted:
        find_plugin(name)
