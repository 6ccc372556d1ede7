"""Factories found in their sources are those that are called."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from fedrobust.experiment.choices import choice_names, choice_settings
from fedrobust.experiment.factories import FACTORY_PACKAGES, find_factory
from fedrobust.experiment.factory_sources import module_path, read_factory


@pytest.mark.parametrize("group", sorted(set(FACTORY_PACKAGES) - {"noise", "corruption"}))
def test_the_source_is_that_of_the_factory(group: str) -> None:
    for name in choice_names(group):
        target = choice_settings(group, name)["_target_"]
        source, factory = read_factory(target), find_factory(group, target)
        assert source is not None, target
        assert source.path.samefile(str(sys.modules[factory.__module__].__file__))
        assert source.definition.name == factory.__name__
        assert source.docstring.summary == " ".join(
            (inspect.getdoc(factory) or "").split("\n\n")[0].split()
        )


@pytest.mark.parametrize(
    "target",
    ["fedrobust.strategies.krum.nothing", "fedrobust.nowhere.krum", "no_such_package.krum", "x"],
)
def test_what_is_not_there_is_not_found(target: str) -> None:
    assert read_factory(target) is None


def test_modules_of_other_packages_are_found_where_python_finds_them() -> None:
    assert module_path("yaml.nodes") == Path(str(inspect.getsourcefile(__import__("yaml").nodes)))
    assert module_path("sys") is None
