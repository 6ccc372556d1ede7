"""What may be called by name: every factory of ours, and no other function however it is named."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

from fedrobust.errors import ConfigError
from fedrobust.targets import MAKES, ROOMS, locate


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("client", "clients.app.train"),  # Flower's entry points
        ("client", "clients.app.evaluate"),
        ("client", "clients.sgd.train"),
        ("client", "clients.disguise.disguised"),
        ("strategy", "strategies.app.main"),
        ("strategy", "strategies.conduct.conduct"),
        ("strategy", "strategies.rounds.make_server"),
        ("engine", "fedrobust.engines.clients.load"),  # imports any module by name
        ("engine", "fedrobust.engines.local.set_identity"),
        ("data", "fedrobust.data.cache.images"),  # writes files
        ("data", "fedrobust.data.cache.folder"),
        ("data", "fedrobust.data.files.open_root"),
        ("contamination", "fedrobust.contamination.contaminate"),
        ("privacy", "fedrobust.privacy.accounting.epsilon"),
        ("privacy", "fedrobust.privacy.noise.secret"),
        ("strategy", "strategies.fedavg.fedavg.__init__"),
        ("strategy", "strategies..fedavg.fedavg"),
        ("strategy", "strategies.fedavg.\nfedavg"),
        ("strategy", "strategiesx.fedavg.fedavg"),
        ("client", "strategies.fedavg.fedavg"),
    ],
)
def test_functions_that_are_no_factories_of_the_group_are_refused(group: str, target: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{group}\._target_="):
        locate(group, target)


def test_of_all_functions_in_all_rooms_only_those_that_make_the_right_thing_are_found() -> None:
    found = {}
    for group, room in ROOMS.items():
        package = importlib.import_module(room)
        names = [room, *(one.name for one in pkgutil.walk_packages(getattr(package, "__path__", []), room + "."))]
        for module in map(importlib.import_module, names):
            for name, function in inspect.getmembers(module, inspect.isfunction):
                try:
                    locate(group, f"{module.__name__}.{name}")
                except ConfigError:
                    continue
                found.setdefault(group, []).append(name)
                made = function.__annotations__["return"]
                assert getattr(made, "__name__", made) in MAKES[group]
    assert set(found) == set(ROOMS) == set(MAKES)
    assert set(found["engine"]) == {"inline_engine", "ray_engine", "auto_engine"}
    assert set(found["evaluation"]) == {"settings"}
    assert set(found["privacy"]) == {"none", "clipping", "local_dp", "secure_aggregation"}
