"""Functions that may be called by name: every factory of ours, and no other."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

from fedrobust.errors import ConfigError
from fedrobust.experiment.factories import FACTORY_PACKAGES, FACTORY_RETURNS, find_factory
from fedrobust.experiment.old_targets import OLD_TARGETS


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("client", "fedrobust.runtime.client.handlers.train"),
        ("client", "fedrobust.clients.app.app"),  # Flower's entry point
        ("client", "fedrobust.runtime.client.handlers.evaluate"),
        ("client", "fedrobust.clients.sgd.train_local"),
        ("client", "fedrobust.runtime.client.stealth.train_stealthily"),
        ("strategy", "fedrobust.strategies.app.main"),
        ("strategy", "fedrobust.runtime.server.run.run_experiment"),
        ("strategy", "fedrobust.runtime.server.loop.build_server_context"),
        # imports any module by name
        ("engine", "fedrobust.runtime.engines.client_runner.load_client_app"),
        ("engine", "fedrobust.runtime.engines.base.set_identity"),
        ("data", "fedrobust.data.cache.images"),  # writes files
        ("data", "fedrobust.data.cache.folder"),
        ("data", "fedrobust.data.files.open_root"),
        ("contamination", "fedrobust.contamination.apply.contaminate"),
        ("privacy", "fedrobust.privacy.accounting.epsilon"),
        ("privacy", "fedrobust.privacy.noise.secret_noise"),
        ("strategy", "fedrobust.strategies.fedavg.fedavg.__init__"),
        ("strategy", "fedrobust.strategies..fedavg.fedavg"),
        ("strategy", "fedrobust.strategies.fedavg.\nfedavg"),
        ("strategy", "fedrobust.strategiesx.fedavg.fedavg"),
        ("client", "fedrobust.strategies.fedavg.fedavg"),
    ],
)
def test_functions_that_are_no_factories_of_the_group_are_refused(group: str, target: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{group}\._target_="):
        find_factory(group, target)


def test_of_all_functions_in_all_rooms_only_those_that_make_the_right_thing_are_found() -> None:
    found = {}
    for group, room in FACTORY_PACKAGES.items():
        package = importlib.import_module(room)
        names = [
            room,
            *(
                one.name
                for one in pkgutil.walk_packages(getattr(package, "__path__", []), room + ".")
            ),
        ]
        for module in map(importlib.import_module, names):
            for name, function in inspect.getmembers(module, inspect.isfunction):
                try:
                    find_factory(group, f"{module.__name__}.{name}")
                except ConfigError:
                    continue
                found.setdefault(group, []).append(name)
                made = function.__annotations__["return"]
                assert getattr(made, "__name__", made) in FACTORY_RETURNS[group]
    assert set(found) == set(FACTORY_PACKAGES) == set(FACTORY_RETURNS)
    assert set(found["engine"]) == {"inline_engine", "ray_engine", "auto_engine"}
    assert set(found["evaluation"]) == {"settings"}
    assert set(found["privacy"]) == {"none", "clipping", "local_dp", "secure_aggregation"}


def test_every_old_name_leads_to_a_factory() -> None:
    for new in OLD_TARGETS.values():
        assert any(
            new.startswith(room + ".") and _found(group, new)
            for group, room in FACTORY_PACKAGES.items()
        ), new


def _found(group: str, target: str) -> bool:
    try:
        return find_factory(group, target) is not None
    except ConfigError:
        return False
