"""Every yaml of the groups data and partition says what its factory says."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted([*(CONFIGS / "data").glob("*.yaml"), *(CONFIGS / "partition").glob("*.yaml")])


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.stem}" for path in FILES])
def test_settings_and_defaults_are_those_of_the_factory(path: Path) -> None:
    settings = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(settings, dict)
    module, _, name = settings.pop("_target_").rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    assert name == path.stem
    assert settings == {
        key: "???" if one.default is one.empty else one.default for key, one in parameters.items()
    }
