"""An experiment from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedrobust.aggregation.composition import compose_strategy
from fedrobust.aggregation.round import Strategy
from fedrobust.contamination.base import CLEAN, Contamination
from fedrobust.data import Dataset, reserve_server_data
from fedrobust.data.dataset import DataSource
from fedrobust.data.files import stamp
from fedrobust.data.partition import BySite, Remote, clients_sites
from fedrobust.errors import ConfigError
from fedrobust.experiment import compatibility, factories, old_names, secure_compatibility
from fedrobust.experiment.experiment import Experiment, assign_roles
from fedrobust.experiment.learnt_triggers import with_learnt_trigger
from fedrobust.experiment.settings import GroupSettings, Settings, read_settings, to_json
from fedrobust.privacy.mechanisms import Privacy
from fedrobust.utils import strict_json
from fedrobust.utils.counting import format_count
from fedrobust.utils.plugins import PLUGINS
from fedrobust.utils.recent import Recent
from fedrobust.utils.seeding import generator

GROUPS = (  # built without the data
    *("data", "partition", "model", "client", "strategy", "preaggregation", "server_optimizer"),
    *("evaluation", "sanitiser", "evasion", "purifier", "privacy"),
)
_DATASETS: Recent[Dataset] = Recent(2)
_EXPERIMENTS: Recent[Experiment] = Recent(4)


def build_experiment(config: Mapping[str, Any], settings: Settings | None = None) -> Experiment:
    """Check a resolved configuration, load its data and build all its objects, and keep the
    experiment for the clients of this process (`from_text`).

    Args:
        config: The resolved configuration as plain values, with all groups.
        settings: What `read_settings` gave for it, if it was read before; they are not read again.

    Returns:
        A new experiment; its `text` is what travels to the clients of a simulation.

    Raises:
        ConfigError: A setting is wrong, or two do not go together.
        DataError: The data cannot be read.
    """
    text = to_json(config)
    strict_json.check_object(dict(config), text, "experiment")
    return remember(_build(config, text, settings))


def remember(experiment: Experiment) -> Experiment:
    """Keep an experiment, so that the inline engine's clients do not build it again from the text
    of each message. Returns it."""
    return _EXPERIMENTS.keep(experiment.text, experiment)


def from_text(text: str, dataset: Dataset | None = None) -> Experiment:
    """The experiment of the text in a message: the one that this process keeps, else built from the
    checked text.

    dataset: its data set as `load_data` gives it now, where files may have changed between two
    messages: a kept experiment with another one is built anew. Raises ConfigError or DataError.
    """

    def build() -> Experiment:
        config = strict_json.read_object(text, "experiment")
        return _build(config, to_json(config))

    if dataset is not None:
        _EXPERIMENTS.drop(text, lambda kept: kept.dataset is not dataset)
    return _EXPERIMENTS.get(text, build)


def forget_experiments() -> None:
    """Keep no experiment any longer; the data sets stay."""
    _EXPERIMENTS.clear()


def load_data(data: Mapping[str, Any], plugins: Sequence[str] = ()) -> Dataset:
    """The data set of these settings of the group `data`, kept for an experiment that has them.
    plugins: packages in which its factory may lie. Raises ConfigError or DataError."""
    group = {"data": dict(data), PLUGINS: list(plugins)}
    return _load(dict(data), factories.build_group(group, "data"))


def _load(written: Mapping[str, Any], source: DataSource) -> Dataset:
    """The data set of a source, read again once its files have changed. written: its settings."""
    known = to_json({"settings": dict(written), "files": stamp(source.places())})
    return _DATASETS.get(known, source.load)


def _build(config: Mapping[str, Any], text: str, settings: Settings | None = None) -> Experiment:
    """text: the canonical one of the configuration, in the names of its time: memories and
    checkpoints are known by it."""
    config = old_names.rename_config(config)
    settings = read_settings(config) if settings is None else settings
    built, strategy = _build_groups(config, settings)
    dataset = _load(settings.data.written, built["data"])
    classes = {"num_classes": len(dataset.class_names), "class_names": dataset.class_names}
    damage = {
        group: factories.build_group(config, group, **classes)
        for group in ("contamination", "noise", "corruption")
    }
    compatibility.check_contaminations(damage)
    compatibility.check_remembered_labels(settings, damage["contamination"])
    compatibility.check_confusion(settings, len(dataset.class_names))
    compatibility.check_crafting(settings, built["model"], damage)
    compatibility.check_learnt_trigger(settings, built["model"], damage["contamination"])
    secure_compatibility.check_update_readers(
        settings, built["privacy"], built["evaluation"], built["evasion"], damage["contamination"]
    )
    reason = compatibility.needs_proxy(settings, built["evaluation"], built["purifier"])
    root, proxy, rest = _server_images(settings, dataset, built["partition"], reason)
    num_clients, seed = settings.num_clients, settings.seed
    parts = built["partition"](dataset, rest, num_clients, generator(seed, "partition"))
    built_experiment = Experiment(
        config=config,
        text=text,
        settings=settings,
        dataset=dataset,
        parts=tuple(parts),
        root=root,
        proxy=proxy,
        client_sites=(
            clients_sites(dataset, parts) if isinstance(built["partition"], BySite) else ()
        ),
        roles=assign_roles(num_clients, settings.poisoned, settings.noisy, seed),
        contaminations={
            "clean": CLEAN,
            "noisy": damage["noise"],
            "poisoned": damage["contamination"],
        },
        corruption=damage["corruption"],
        severities=_severities(settings.corruption, classes),
        model=built["model"],
        trainer=built["client"],
        strategy=strategy,
        evaluation=built["evaluation"],
        sanitiser=built["sanitiser"],
        evasion=built["evasion"],
        purifier=built["purifier"],
        privacy=built["privacy"],
    )
    return with_learnt_trigger(built_experiment)


def _build_groups(config: Mapping[str, Any], settings: Settings) -> tuple[dict[str, Any], Strategy]:
    """The objects of all groups that can be made without the data, and the rule composed with what
    belongs to it."""
    built: dict[str, Any] = {}
    for group in GROUPS:  # "model" comes before "client", whose factories may need to know it
        built[group] = factories.build_group(
            config, group, **({"model": built["model"]} if group == "client" else {})
        )
    strategy = compose_strategy(
        built["strategy"], built["preaggregation"], built["server_optimizer"]
    )
    secure_compatibility.check_sum_only(
        settings, built["privacy"], built["strategy"], built["preaggregation"]
    )
    compatibility.check_compatibility(settings, built, strategy)
    return built, strategy


def check_without_data(config: Mapping[str, Any]) -> Privacy:
    """Check as much of a configuration, in today's names, as can be without a look at the data.
    Returns its privacy mechanism. Raises ConfigError."""
    privacy: Privacy = _build_groups(config, read_settings(config))[0]["privacy"]
    return privacy


def _server_images(
    settings: Settings, dataset: Dataset, partition: object, reason: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (root, proxy, rest); on the node of a real site all images are its own. reason: what
    needs proxy images, or nothing."""
    if isinstance(partition, Remote) and partition.client is not None:
        nothing = torch.zeros(0, dtype=torch.int64)
        return nothing, nothing, torch.arange(len(dataset))
    server = settings.server
    root, proxy, rest = reserve_server_data(
        dataset, server.root_per_class, server.proxy_images, generator(settings.seed, "carve")
    )
    if reason and len(proxy) < 2:
        raise ConfigError(
            f"server.proxy_images={server.proxy_images}: whole patients or lesions gave "
            f"{format_count(len(proxy), 'image')}, {reason} needs 2; raise it"
        )
    return root, proxy, rest


def _severities(corruption: GroupSettings, classes: Mapping[str, Any]) -> dict[str, Contamination]:
    """The corruption at severities 1 to 5, where its settings have a severity."""
    if "severity" not in corruption.written:
        return {}
    graded = {
        f"corrupted_s{grade}": {**corruption.written, "severity": grade} for grade in range(1, 6)
    }
    return {
        name: factories.build_group({"corruption": one}, "corruption", **classes)
        for name, one in graded.items()
    }
