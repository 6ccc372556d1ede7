"""The report's section on what was run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrobust.data import TEST, TRAIN, VALIDATION
from fedrobust.data.partition import class_table
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.local_settings import without_local_settings
from fedrobust.reporting.report.details import NamedSettings, SetupSection

TARGET = "_target_"
# of the model: the rest describes training rather than the network
MODEL_SETTINGS = ("head", "dimension", "pretrained", "freeze")


def describe_setup(experiment: Experiment) -> SetupSection:
    """What was run.

    Args:
        experiment: as built.

    Returns:
        The section `setup`.
    """
    config, dataset = without_local_settings(experiment.config), experiment.dataset

    def split_size(split: int) -> int:
        return int((dataset.splits == split).sum())

    table = None
    if not experiment.remote:
        table = class_table(dataset, experiment.parts).tolist()
    purifier = _named(config["purifier"], experiment.purifier.name)
    return SetupSection(
        data=dataset.name,
        images=(split_size(TRAIN), split_size(VALIDATION), split_size(TEST)),
        image_size=int(dataset.images.shape[-1]),
        classes=tuple(dataset.class_names),
        client_images=None if table is None else tuple(map(tuple, table)),
        model=_model(experiment),
        partition=_named(config["partition"]),
        attack=_contamination(experiment, config, "poisoned", "contamination"),
        noise=_contamination(experiment, config, "noisy", "noise"),
        corruption=_named(config["corruption"], experiment.corruption.name),
        purifier=purifier if experiment.purifies else None,
    )


def _model(experiment: Experiment) -> NamedSettings:
    """The network's name and the settings that tell it apart; whether weights came pretrained is
    no place on a machine."""
    group = experiment.settings.model
    chosen = {name: group.get(name) for name in MODEL_SETTINGS}
    return _named({TARGET: group.target, **chosen}, str(group.get("name", group.factory)))


def _contamination(
    experiment: Experiment, config: Mapping[str, Any], kind: str, group: str
) -> NamedSettings | None:
    if kind not in experiment.roles:
        return None
    return _named(config[group], experiment.contaminations[kind].name)


def _named(group: Mapping[str, Any], name: str = "") -> NamedSettings:
    """A group of the configuration; what is None, a list or a mapping is left out."""
    settings = {
        key: value
        for key, value in group.items()
        if key != TARGET and isinstance(value, bool | int | float | str) and value != ""
    }
    return NamedSettings(name=name or group[TARGET].rpartition(".")[2], settings=settings)
