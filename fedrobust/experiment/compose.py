"""Hydra configurations as plain values."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.experiment import overrides
from fedrobust.experiment.old_names import rename_config, rename_words
from fedrobust.experiment.own_choices import (
    CONFIGS,
    available_plugins,
    named_by_words,
    used_plugins,
)
from fedrobust.utils.plugins import PLUGIN_CONFIGS, PLUGINS, named_in
from fedrobust.utils.yaml_files import read_yaml

_FOLDERS: ContextVar[tuple[tuple[str, Path], ...]] = ContextVar("folders", default=())


def compose(*words: str) -> dict[str, Any]:
    """The resolved configuration for Hydra overrides, as plain Python values (for tests, apps and
    notebooks). Raises ConfigError."""
    return plain_config(_composed("config", words), words)


def default_choices() -> dict[str, str]:
    """{group: the choice that configs/config.yaml names for it}."""
    return {
        key.rpartition("@")[2]: choice
        for entry in _main_file()["defaults"]
        if isinstance(entry, Mapping)
        for key, choice in entry.items()
        if not key.startswith(("optional ", "override "))
    }


def main_settings(group: str) -> dict[str, Any]:
    """What configs/config.yaml itself says of a group, whichever its choice."""
    return dict(_main_file().get(group, {}))


def _main_file() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(CONFIGS / "config.yaml")
    return found


def compose_comparison(*words: str, name: str = "compare") -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of configs/<name>.yaml in its two parts: the main job's, and the block of
    that name. Raises ConfigError."""
    container = _composed(name, words)
    return plain_config(container, words), container[name]


def _composed(name: str, words: Sequence[str]) -> Any:
    from omegaconf import OmegaConf

    words = rename_words(words)
    with explained(words, name):
        return OmegaConf.to_container(_hydra_composed(name, words), resolve=True)


def _hydra_composed(name: str, words: Sequence[str]) -> Any:
    from hydra import compose as hydra_compose

    with _initialized(words):
        return hydra_compose(name, list(words))


@contextmanager
def _initialized(words: Sequence[str]) -> Iterator[None]:
    """Hydra, ready for `hydra.compose`, with the choices of the plug-ins for these words."""
    from hydra import initialize_config_module

    with with_plugins(words), initialize_config_module("fedrobust.configs", version_base="1.3"):
        yield


@contextmanager
def with_plugins(words: Sequence[str]) -> Iterator[None]:
    """Inside, Hydra finds the choices of the plug-ins that the words name and of those that are
    installed, beside ours. Raises ConfigError for a plug-in that is not there."""
    _register_folders()
    found = tuple((one.name, one.place / PLUGIN_CONFIGS) for one in available_plugins(words))
    with with_choices(*((name, place) for name, place in found if place.is_dir())):
        yield


@contextmanager
def with_choices(*folders: tuple[str, Path]) -> Iterator[None]:
    """Inside, Hydra finds the choices in these folders, too: (who has them, a folder with one
    folder for each group)."""
    before = _FOLDERS.set((*_FOLDERS.get(), *folders))
    try:
        yield
    finally:
        _FOLDERS.reset(before)


@functools.cache
def _register_folders() -> None:
    """Once in a process: Hydra asks for further folders whenever it makes a search path."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class FurtherFolders(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for name, folder in _FOLDERS.get():
                search_path.append(provider=name, path=f"file://{folder}")

    Plugins.instance().register(FurtherFolders)


def check_command_line(words: Sequence[str]) -> list[str]:
    """The typed words with today's names of settings. Raises ConfigError where they
    contradict each other or cannot be read."""
    words = rename_words(words)
    typed = list(overrides.settings_among(words))
    overrides.check_once(typed)
    check_syntax(typed)
    return words


def check_syntax(words: Sequence[str]) -> None:
    """Whether each word can be read by itself. Raises ConfigError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    overrides.check_words(words)
    parser = OverridesParser.create()
    for word in words:
        try:
            override = parser.parse_override(word)
        except (HydraException, ValueError) as error:
            raise overrides.unreadable(word) from error
        if not override.is_sweep_override():
            overrides.check_path(word, override.value())


def expand_sweep(words: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep: every combination of the values that the words list for their keys.

    Args:
        words: overrides, e.g. ["strategy=krum,median", "rounds=3"].

    Returns:
        The overrides of each job; the last key changes first.

    Raises:
        ConfigError: a kind of sweep without a list of values, e.g. interval(0, 1).
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    choices: list[list[str]] = []
    with explained(words), _initialized(words):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for word, override in zip(words, parser.parse_overrides(list(words)), strict=True):
            if not override.is_sweep_override():
                choices.append([word])
            elif override.is_discrete_sweep():
                key = word.partition("=")[0]
                choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
            else:
                raise ConfigError(f"{word}: names no values; list them, separated by commas")
    return [list(job) for job in itertools.product(*choices)]


def sweep_folder(words: Sequence[str]) -> str:
    """The override that names the folder of a sweep with these overrides: its jobs share it,
    whatever the time at which they start. Raises ConfigError."""
    return f"hydra.sweep.dir={quote_text(str(_hydras_own(words).sweep.dir))}"


def run_folder(words: Sequence[str]) -> Path:
    """The output folder of a run with these overrides, which is not made. Raises ConfigError."""
    return Path(str(_hydras_own(words).run.dir))


def _hydras_own(words: Sequence[str]) -> Any:
    """Hydra's part of the configuration. Raises ConfigError."""
    from hydra import compose as hydra_compose

    with explained(words), _initialized(words):
        return hydra_compose("config", list(words), return_hydra_config=True).hydra


def quote_text(text: str) -> str:
    """A text as it stands in an override, whatever signs it has."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return str(QuotedString(text, Quote.single).with_quotes())


@contextmanager
def explained(words: Sequence[str], name: str = "config") -> Iterator[None]:
    """Hydra's refusals of these words inside become ConfigErrors of one line.

    Args:
        words: overrides of configs/<name>.yaml.
        name: the configuration that they change.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def known() -> Any:
        """With the choices alone, as far as they exist."""
        kept = {*overrides.GROUPS, PLUGINS}
        chosen = [word for word in words if word.partition("=")[0] in kept]
        try:
            found = _hydra_composed(name, chosen)
        except HydraException:
            found = _hydra_composed(name, [one for one in chosen if one.startswith(PLUGINS)])
        return OmegaConf.to_container(found)

    check_syntax(words)
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(overrides.refusal(str(error), words, known)) from error


def change_engine(engine: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Engine settings after the overrides `engine=...` and `engine.key=...`. Raises ConfigError for
    other words."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    check_syntax(words)
    choices = [word for word in words if word.startswith("engine=")]
    chosen = OmegaConf.create(compose(*choices)["engine"] if choices else dict(engine))
    for override in OverridesParser.create().parse_overrides(
        [word for word in words if word not in choices]
    ):
        key = override.get_key_element()
        if not key.startswith("engine.") or override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line}: cannot be changed here; only engine=... and "
                "engine.<key>=<value> can"
            )
        OmegaConf.update(chosen, key.removeprefix("engine."), override.value())
    return dict(rename_config({"engine": OmegaConf.to_container(chosen)})["engine"])


def plain_config(container: Any, words: Sequence[str] = ()) -> dict[str, Any]:
    """A resolved configuration with today's names, without Hydra's own parts and without the grid
    of a comparison or an ablation, none of a run's business; with the plug-ins that it needs.
    words: the overrides in it. Raises ConfigError."""
    parts = {
        str(key): value
        for key, value in container.items()
        if key not in ("hydra", "experiment", "compare", "ablation", "contribution")
    }
    named = named_by_words(words)
    if sorted(named_in(parts[PLUGINS])) != list(named):
        raise ConfigError(
            f"{PLUGINS}={parts[PLUGINS]}: stands in a yaml file, which is found too late; name "
            f"plug-ins on the command line: {PLUGINS}=[...]"
        )
    return rename_config({**parts, PLUGINS: used_plugins(parts, named)}, rename_words(words))
