"""Hydra configurations as plain values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fedrobust.errors import ConfigError
from fedrobust.experiment import overrides
from fedrobust.experiment.old_names import rename_config, rename_words


def compose(*words: str) -> dict[str, Any]:
    """The resolved configuration for Hydra overrides, as plain Python values (for tests, apps and
    notebooks). Raises ConfigError."""
    return plain_config(_composed("config", words), words)


def default_choices() -> dict[str, str]:
    """{group: the choice that configs/config.yaml names for it}."""
    import fedrobust.configs

    path = Path(str(fedrobust.configs.__file__)).with_name("config.yaml")
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        key.rpartition("@")[2]: choice
        for entry in entries["defaults"]
        if isinstance(entry, Mapping)
        for key, choice in entry.items()
        if not key.startswith(("optional ", "override "))
    }


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
    from hydra import initialize_config_module

    with initialize_config_module("fedrobust.configs", version_base="1.3"):
        return hydra_compose(name, list(words))


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
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    choices: list[list[str]] = []
    with explained(words), initialize_config_module("fedrobust.configs", version_base="1.3"):
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
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module

    with explained(words), initialize_config_module("fedrobust.configs", version_base="1.3"):
        found = hydra_compose("config", list(words), return_hydra_config=True)
        return f"hydra.sweep.dir={quote_text(str(found.hydra.sweep.dir))}"


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
        chosen = [word for word in words if word.partition("=")[0] in overrides.GROUPS]
        try:
            found = _hydra_composed(name, chosen)
        except HydraException:
            found = _hydra_composed(name, [])
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
    return plain_config(OmegaConf.to_container(chosen))


def plain_config(container: Any, words: Sequence[str] = ()) -> dict[str, Any]:
    """A resolved configuration with today's names, without Hydra's own parts and without the grid
    of a comparison or an ablation, none of a run's business. words: the overrides in it."""
    parts = {
        str(key): value
        for key, value in container.items()
        if key not in ("hydra", "experiment", "compare", "ablation")
    }
    return rename_config(parts, rename_words(words))
