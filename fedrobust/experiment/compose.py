"""Hydra configurations as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.experiment.old_names import rename_config, rename_words


def compose(*overrides: str) -> dict[str, Any]:
    """The resolved configuration for Hydra overrides, as plain Python values (for tests, apps and
    notebooks)."""
    return plain_config(_composed("config", overrides))


def default_choices() -> dict[str, str]:
    """{group: the choice that configs/config.yaml names for it}."""
    from omegaconf import OmegaConf

    import fedrobust.configs

    path = Path(str(fedrobust.configs.__file__)).with_name("config.yaml")
    entries: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return {
        key.rpartition("@")[2]: choice
        for entry in entries["defaults"]
        if isinstance(entry, Mapping)
        for key, choice in entry.items()
        if not key.startswith(("optional ", "override "))
    }


def compose_comparison(
    *overrides: str, name: str = "compare"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of configs/<name>.yaml in its two parts: the main job's, and the block of
    that name."""
    container = _composed(name, overrides)
    return plain_config(container), container[name]


def _composed(name: str, overrides: Sequence[str]) -> Any:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("fedrobust.configs", version_base="1.3"):
        return OmegaConf.to_container(hydra_compose(name, rename_words(overrides)), resolve=True)


def change_engine(engine: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Engine settings after the overrides `engine=...` and `engine.key=...`. Raises ConfigError for
    other words, and Hydra's errors."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

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


def plain_config(container: Any) -> dict[str, Any]:
    """A resolved configuration with today's names, without Hydra's own parts and without the grid
    of a comparison or an ablation, none of a run's business."""
    return rename_config(
        {
            str(key): value
            for key, value in container.items()
            if key not in ("hydra", "experiment", "compare", "ablation")
        }
    )
