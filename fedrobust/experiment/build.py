"""An experiment from its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fedrobust.aggregation.composition import compose_strategy
from fedrobust.contamination.base import CLEAN, Contamination
from fedrobust.data import Dataset, reserve_server_data
from fedrobust.data.partition import Remote
from fedrobust.errors import ConfigError
from fedrobust.experiment import compatibility, factories, secure_compatibility, settings
from fedrobust.experiment.experiment import Experiment, assign_roles
from fedrobust.seeding import generator
from fedrobust.utils import strict_json

GROUPS = (  # built without the data
    *("data", "partition", "model", "client", "strategy", "preaggregation", "server_optimizer"),
    *("evaluation", "sanitiser", "evasion", "purifier", "privacy"),
)


@lru_cache(maxsize=2)
def _dataset(text: str) -> Dataset:
    dataset: Dataset = factories.build_group({"data": json.loads(text)}, "data").load()
    return dataset


def build_experiment(config: Mapping[str, Any]) -> Experiment:
    """Check a resolved configuration, load its data and build all its objects. Raises ConfigError
    or DataError."""
    settings.check_settings(config)
    built: dict[str, Any] = {}
    for group in GROUPS:  # "model" comes before "client", whose factories may need to know it
        built[group] = factories.build_group(
            config, group, **({"model": built["model"]} if group == "client" else {})
        )
    strategy = compose_strategy(
        built["strategy"], built["preaggregation"], built["server_optimizer"]
    )
    secure_compatibility.check_sum_only(
        config, built["privacy"], built["strategy"], built["preaggregation"]
    )
    compatibility.check_compatibility(config, built, strategy)
    dataset = _dataset(settings.to_json(config["data"]))
    classes = {"num_classes": len(dataset.class_names), "class_names": dataset.class_names}
    damage = {
        group: factories.build_group(config, group, **classes)
        for group in ("contamination", "noise", "corruption")
    }
    compatibility.check_contaminations(damage)
    secure_compatibility.check_update_readers(
        config, built["privacy"], built["evaluation"], built["evasion"], damage["contamination"]
    )
    seed = config["seed"]
    reason = compatibility.needs_proxy(config, built["evaluation"], built["purifier"])
    root, proxy, rest = _server_images(config, dataset, built["partition"], reason)
    parts = built["partition"](dataset, rest, config["num_clients"], generator(seed, "partition"))
    return Experiment(
        config=config,
        text=settings.to_json(config),
        dataset=dataset,
        parts=tuple(parts),
        root=root,
        proxy=proxy,
        roles=assign_roles(config["num_clients"], *settings.contaminated_clients(config), seed),
        contaminations={
            "clean": CLEAN,
            "noisy": damage["noise"],
            "poisoned": damage["contamination"],
        },
        corruption=damage["corruption"],
        severities=_severities(config, classes),
        model=built["model"],
        trainer=built["client"],
        strategy=strategy,
        evaluation=built["evaluation"],
        sanitiser=built["sanitiser"],
        evasion=built["evasion"],
        purifier=built["purifier"],
        privacy=built["privacy"],
    )


def _server_images(
    config: Mapping[str, Any], dataset: Dataset, partition: object, reason: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (root, proxy, rest); on the node of a real site all images are its own. reason: what
    needs proxy images, or nothing."""
    server = config["server"]
    if isinstance(partition, Remote) and partition.client is not None:
        nothing = torch.zeros(0, dtype=torch.int64)
        return nothing, nothing, torch.arange(len(dataset))
    root, proxy, rest = reserve_server_data(
        dataset, server["root_per_class"], server["proxy"], generator(config["seed"], "carve")
    )
    if reason and len(proxy) < 2:
        raise ConfigError(
            f"server.proxy={server['proxy']}: whole patients or lesions gave "
            f"{len(proxy)} images, {reason} needs 2; raise it"
        )
    return root, proxy, rest


def _severities(config: Mapping[str, Any], classes: Mapping[str, Any]) -> dict[str, Contamination]:
    """The corruption at severities 1 to 5, where its settings have a severity."""
    if "severity" not in config["corruption"]:
        return {}
    graded = {
        f"corrupted_s{grade}": {**config["corruption"], "severity": grade} for grade in range(1, 6)
    }
    return {
        name: factories.build_group({"corruption": one}, "corruption", **classes)
        for name, one in graded.items()
    }


@lru_cache(maxsize=4)
def from_text(text: str) -> Experiment:
    """The experiment of a configuration's canonical text: a process that gets it every round builds
    it once."""
    return build_experiment(strict_json.read_object(text, "experiment"))


def clean_twin(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same run without any contamination."""
    return {**config, "poisoned": 0, "noisy": 0}
