"""Cross-group validation; every ConfigError names key, value, reason and remedy. Rules for secure
aggregation are in `secure_compatibility`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.aggregation.round import Strategy
from fedrobust.contamination.apply import crafts
from fedrobust.contamination.base import Contamination, Evasion, keep_data
from fedrobust.defences.sanitisation import Sanitiser
from fedrobust.errors import ConfigError
from fedrobust.evaluation.settings import OBLIVIOUS, Evaluation
from fedrobust.experiment.experiment import assign_roles
from fedrobust.experiment.settings import ALWAYS, Settings
from fedrobust.learning.classifier import ModelFactory
from fedrobust.learning.losses import RobustLoss
from fedrobust.privacy.mechanisms import Privacy
from fedrobust.types import NO_PURIFIER, Purifier
from fedrobust.utils.confusion import ESTIMATE, confusion_matrix
from fedrobust.utils.counting import format_count

# trainers whose method is made for one kind of head
NEEDED_HEADS = {"fedetf": "etf", "fedgela": "etf", "fedloge": "linear"}
# trainers that choose layers or models by what trains when they begin, so that a stage before them
# that freezes layers changes their method
CHOOSING = ("fedper", "fedrep", "fedbn", "ditto", "co_teaching", "fedloge")
# trainers that exist together with the rule of the same name, and the rule's settings of how many
# rounds pass before its last stage
PAIRS: Mapping[str, tuple[str, ...]] = {
    "fednoro": ("warmup",),
    "fedcorr": ("preprocessing", "finetuning"),
}


def check_compatibility(settings: Settings, built: Mapping[str, Any], strategy: Strategy) -> None:
    """Everything that can be seen without the data. built: the objects of the groups; strategy:
    composed. Raises ConfigError."""
    evaluation, evasion, purifier = built["evaluation"], built["evasion"], built["purifier"]
    _check_together(settings, strategy)
    _check_evasion(evaluation, evasion, purifier)
    _check_statistics(settings, evaluation, purifier)
    _check_fusion(evaluation, evasion, built["model"])
    _check_sanitiser(settings, built["sanitiser"])
    _check_privacy(settings, built["privacy"])
    _check_training_pixels(settings, built["model"])
    _check_pair(settings, built["privacy"], built["preaggregation"])
    _check_relabelling(settings, built["sanitiser"])
    _check_own_layers(settings, built["model"])
    _check_rule_layers(settings, built["model"])
    _check_stages(settings)
    _check_certificate(settings, strategy, built["privacy"])


def needs_proxy(settings: Settings, evaluation: Evaluation, purifier: Purifier) -> str:
    """The setting that estimates BatchNorm statistics on the server's proxy images and so needs two
    of them; "" where none does."""
    if settings.server.batchnorm == "recalibrate":
        return "recalibrate"
    return f"purifier={purifier.name}" if _estimates(evaluation, purifier) else ""


def _estimates(evaluation: Evaluation, purifier: Purifier) -> bool:
    return evaluation.purified_statistics and purifier.name != NO_PURIFIER.name


def _check_together(settings: Settings, strategy: Strategy) -> None:
    if settings.num_participants < strategy.min_clients:
        key, least = settings.participants_key, strategy.min_clients
        needs, lower = f"strategy={strategy.name}: needs", ""
        if strategy.limited_by:
            asked = _key_and_value(settings, strategy.limited_by)
            needs = f"{asked}: strategy={strategy.name} then needs"
            lower = f"lower {strategy.limited_by}, or "
        raise ConfigError(
            f"{needs} at least {format_count(least, 'client')} a round, and "
            f"{key}={getattr(settings, key)}; {lower}raise {key} to {least}"
        )
    _check_leaving(settings, strategy)
    if "root" in strategy.uses and settings.server.root_per_class == 0:
        other = " or strategy.trust=none" if "trust" in settings.strategy.written else ""
        raise ConfigError(
            f"server.root_per_class=0: strategy={strategy.name} needs root images; "
            f"set server.root_per_class=8{other}"
        )
    if settings.model.get("head") == "linear" and settings.client.get("loss") == "dot_regression":
        raise ConfigError(
            "client.loss=dot_regression: needs model.head=etf; use "
            "client.loss=cross_entropy or balanced_softmax"
        )


def _check_pair(settings: Settings, privacy: Privacy, preaggregation: Preaggregation) -> None:
    """Trainers and rules that talk to each other: what hospitals report must arrive, at the rule
    that answers."""
    for name in PAIRS:
        trains, combines = settings.client.factory == name, settings.strategy.factory == name
        if trains != combines:
            have, lack = ("client", "strategy") if trains else ("strategy", "client")
            raise ConfigError(
                f"{have}={name}: works with {lack}={name} alone, which answers it; set both"
            )
        if not trains:
            continue
        if privacy.noisy:
            raise ConfigError(
                f"client={name}: hospitals report numbers about their labels, and "
                f"privacy={privacy.name} sends nothing but the noisy update; use privacy=none or "
                "clipping"
            )
        if preaggregation.active:
            raise ConfigError(
                f"preaggregation={preaggregation.name}: mixes the updates of clients, "
                f"and strategy={name} treats each by what it reports; use preaggregation=none"
            )
        keys = PAIRS[name]
        before = sum(int(settings.strategy.get(key, 0)) for key in keys)
        if before >= settings.rounds:
            asked = ", ".join(f"strategy.{key}={settings.strategy.get(key)}" for key in keys)
            raise ConfigError(
                f"{asked}: no round would be left of rounds={settings.rounds}; lower it or raise "
                "rounds"
            )


def _check_relabelling(settings: Settings, sanitiser: Sanitiser) -> None:
    """A hospital that relabels keeps its labels by their place among its images."""
    if settings.client.factory == "fedcorr" and sanitiser.score is not None:
        raise ConfigError(
            f"sanitiser={sanitiser.name}: leaves out other images in every round, and "
            "client=fedcorr remembers new labels of all; use sanitiser=none"
        )


def check_remembered_labels(settings: Settings, damage: Contamination) -> None:
    """A hospital that relabels remembers its labels and losses from round to round; they must be
    the same in attacks and in honest rounds. damage: what poisoned clients do. Raises
    ConfigError."""
    if settings.client.factory != "fedcorr" or not settings.poisoned:
        return
    if _is_honest_at_times(settings) and _changes_data(damage):
        asked = settings.schedule.model_dump().items()
        usual = ALWAYS.model_dump()
        keys = ", ".join(f"schedule.{key}={value}" for key, value in asked if value != usual[key])
        raise ConfigError(
            f"{keys}: contamination={damage.name} changes training data in some rounds only, and "
            "client=fedcorr remembers labels from round to round; leave schedule out, or use "
            "another client"
        )


def _is_honest_at_times(settings: Settings) -> bool:
    """Whether poisoned clients take part in rounds in which they do not attack."""
    asked = settings.schedule
    last = settings.rounds if asked.until_round is None else asked.until_round
    stops = last < settings.rounds and asked.afterwards == "behave"
    return asked.from_round > 1 or asked.trusted_at is not None or stops


def _changes_data(damage: Contamination) -> bool:
    changes = damage.data is not keep_data or damage.learnt is not None
    return changes or any(_changes_data(one) for one in damage.parts)


def _check_leaving(settings: Settings, strategy: Strategy) -> None:
    """The rule goes on without attackers who leave, among those that may take part."""
    if settings.schedule.afterwards != "leave" or not settings.poisoned:
        return
    roles = assign_roles(settings.num_clients, settings.poisoned, settings.noisy, settings.seed)
    allowed: Sequence[int] = range(settings.num_clients)
    if settings.participants is not None:
        allowed = settings.participants
    stay = sum(roles[client] != "poisoned" for client in allowed)
    rest, least = min(settings.num_participants, stay), max(1, strategy.min_clients)
    if rest < least:
        lower = f"lower {strategy.limited_by}, or " if strategy.limited_by and rest else ""
        raise ConfigError(
            f"schedule.afterwards=leave: {format_count(rest, 'client')} would be left, and "
            f"strategy={strategy.name} needs at least {least}; {lower}set "
            "schedule.afterwards=behave"
        )


def _check_training_pixels(settings: Settings, model: ModelFactory) -> None:
    """Features computed beforehand have no gradient on an image that is attacked in training."""
    if model.learns_from_features and settings.client.factory == "adversarial":
        raise ConfigError(
            "client=adversarial: attacks the images on which it trains, and with "
            "model.freeze=backbone clients train on cached features; set model.feature_cache=false"
        )


def _check_own_layers(settings: Settings, model: ModelFactory) -> None:
    """Trainers with models of the clients' own: the head that they are made for, layers to keep,
    and others to share."""
    name, freeze = settings.client.factory, f"model.freeze={model.freeze}"
    head = NEEDED_HEADS.get(name, model.head)
    if model.head != head:
        raise ConfigError(
            f"client={name}: needs model.head={head}, not {model.head}; set model.head={head}"
        )
    if name in ("fedper", "fedrep", "fedloge") and model.frozen_backbone and not model.hidden:
        raise ConfigError(
            f"client={name}: hospitals share the layers below the last one, and with {freeze} none "
            "of these train; set model.hidden=[128]"
        )
    own = bool(model.hidden) and model.hidden_batchnorm
    if name == "fedbn" and model.freeze in ("backbone", "batchnorm") and not own:
        raise ConfigError(
            f"client=fedbn: hospitals keep BatchNorm layers, and with {freeze} none of these "
            "train; set model.hidden=[128] model.hidden_batchnorm=true"
        )


def _check_rule_layers(settings: Settings, model: ModelFactory) -> None:
    """Rules that work on the last layer: that it is a classifier, and that it is sent."""
    rule, client = settings.strategy.factory, settings.client.factory
    if rule == "fedloge" and model.head != "linear":
        raise ConfigError(
            f"strategy=fedloge: realigns the class vectors of the last layer, and "
            f"model.head={model.head} has none that train; set model.head=linear"
        )
    if rule == "deepsight" and client in ("fedper", "fedrep"):
        raise ConfigError(
            f"strategy=deepsight: inspects the update of the model's last layer, and "
            f"client={client} does not send it; choose another rule"
        )


def _check_stages(settings: Settings) -> None:
    """A contamination that trains in stages, with trainers that train all layers of one model."""
    name, client = settings.contamination.factory, settings.client.factory
    if name == "backdoor_chameleon" and settings.poisoned and client in CHOOSING:
        raise ConfigError(
            f"contamination={name}: trains the classifier alone in its second stage, and "
            f"client={client} chooses its own layers or models; use client=sgd"
        )


def _check_certificate(settings: Settings, strategy: Strategy, privacy: Privacy) -> None:
    """Groups train as the run does, by the same rule, and their models are compared."""
    asked = settings.certificate
    if asked.groups is None:
        return
    groups = f"certificate.groups={asked.groups}"
    key, size = "certificate.group_size", asked.group_size
    if size is None:
        key, size = "num_clients", settings.num_clients // asked.groups
    if size < strategy.min_clients:
        raise ConfigError(
            f"{groups}: strategy={strategy.name} needs at least "
            f"{format_count(strategy.min_clients, 'client')} a round, and a group has {size}; "
            f"lower certificate.groups, raise {key}, or choose another rule"
        )
    for what, why in (
        (
            settings.participants is not None,
            "participants: makes the groups' clients; leave it out",
        ),
        (settings.clients_per_round is not None, "clients_per_round: groups train whole; set null"),
        (privacy.noisy or privacy.secure, f"privacy={privacy.name}: accounts for one run only"),
        (
            settings.schedule.afterwards == "leave" and bool(settings.poisoned),
            "schedule.afterwards=leave: a group may hold attackers only; set "
            "schedule.afterwards=behave",
        ),
        (settings.partition.factory == "remote", "partition=remote: groups are for simulations"),
    ):
        if what:
            raise ConfigError(f"{groups}: cannot be combined with {why}")


def check_crafting(
    settings: Settings, model: ModelFactory, damage: Mapping[str, Contamination]
) -> None:
    """The same for images that are crafted against the received model. damage: by group. Raises
    ConfigError."""
    if not model.learns_from_features:
        return
    for group, clients in (("contamination", settings.poisoned), ("noise", settings.noisy)):
        if clients and crafts(damage[group]):
            raise ConfigError(
                f"{group}={damage[group].name}: crafts images against the received model, and with "
                "model.freeze=backbone clients train on cached features; set "
                "model.feature_cache=false"
            )


def check_confusion(settings: Settings, num_classes: int) -> None:
    """Whether the confusion of the labels, where one is given, is of so many classes, and an
    estimate is used in some round. Raises ConfigError."""
    if settings.client.get("loss") != "forward_correction":
        return
    robust = settings.client.get("robust_loss") or {}
    given, warmup = robust.get("confusion", ESTIMATE), robust.get("warmup", RobustLoss().warmup)
    if given != ESTIMATE:
        confusion_matrix("client.robust_loss.confusion", given, num_classes)
    elif warmup >= settings.rounds:
        raise ConfigError(
            f"client.robust_loss.warmup={warmup}: no round of rounds={settings.rounds} would use "
            "the estimated confusion; lower it or raise rounds"
        )


def check_learnt_trigger(settings: Settings, model: ModelFactory, damage: Contamination) -> None:
    """A trigger is trained once, against what does not change. damage: what poisoned clients do.
    Raises ConfigError."""
    if settings.poisoned and damage.learnt is not None and not model.frozen_backbone:
        raise ConfigError(
            f"contamination={damage.name}: trains its trigger against a backbone that does not "
            "change; set model.freeze=backbone"
        )


def _key_and_value(settings: Settings, key: str) -> str:
    """`group.key=value` of a setting that is written, also inside another one; else the key."""
    group, *parts = key.split(".")
    value: Any = getattr(settings, group).written
    for part in parts:
        value = value.get(part) if isinstance(value, Mapping) else None
    return key if value is None else f"{key}={value}"


def _check_sanitiser(settings: Settings, sanitiser: Sanitiser) -> None:
    if sanitiser.score is not None and not sanitiser.active(settings.rounds):
        raise ConfigError(
            f"sanitiser.warmup={sanitiser.warmup}: nothing would be left out in "
            f"rounds={settings.rounds}; lower it or raise rounds"
        )
    if sanitiser.anchors == "etf" and settings.model.get("head") == "linear":
        raise ConfigError(
            "sanitiser.anchors=etf: needs model.head=etf; use sanitiser.anchors=centroid"
        )


def _check_privacy(settings: Settings, privacy: Privacy) -> None:
    """Nothing that is computed from a hospital's images may leave it but its noisy or masked
    update."""
    if not privacy.sends_buffers and settings.server.batchnorm == "mean":
        hidden = "would each be seen" if privacy.secure else "hold no noise"
        why = f"averages the hospitals' BatchNorm statistics, which {hidden} and are not sent"
        raise ConfigError(
            f"server.batchnorm=mean: {why} under privacy={privacy.name}; set "
            "server.batchnorm=recalibrate or local"
        )


def _check_evasion(evaluation: Evaluation, evasion: Evasion, purifier: Purifier) -> None:
    """Threat models that know the purifier need one, and a bounded attack to be compared with."""
    threats = list(evaluation.evasion_evaluation.threat_models)
    adaptive = [name for name in threats if name != OBLIVIOUS]
    if not adaptive:
        return
    asked = f"evaluation.evasion_evaluation.threat_models={threats}"
    if purifier.name == NO_PURIFIER.name or evasion.attack is None or not evasion.bounded:
        raise ConfigError(
            f"{asked}: needs a purifier and an attack within eps; set purifier=mdda "
            f"evasion=pgd, or leave only {OBLIVIOUS}"
        )
    if "differentiated" in adaptive and not purifier.differentiable:
        raise ConfigError(
            f"{asked}: purifier={purifier.name} has no gradient; leave differentiated out"
        )


def _check_statistics(settings: Settings, evaluation: Evaluation, purifier: Purifier) -> None:
    """The server estimates BatchNorm statistics behind a purifier on its proxy images."""
    if _estimates(evaluation, purifier) and settings.server.proxy_images < 2:
        why = (
            f"needs images on the server behind purifier={purifier.name}, "
            f"server.proxy_images={settings.server.proxy_images}"
        )
        raise ConfigError(
            f"evaluation.purified_statistics=true: {why}; set server.proxy_images=128 or "
            "evaluation.purified_statistics=false"
        )


def _check_fusion(evaluation: Evaluation, evasion: Evasion, model: ModelFactory) -> None:
    """Client models are there where they are attacked, and have a common space where their anchors
    are fixed."""
    key, asked = "evaluation.evasion_evaluation", evaluation.evasion_evaluation
    if asked.fusion and (evasion.attack is None or not asked.adversarial_clients):
        raise ConfigError(
            f"{key}.fusion=true: fuses the client models that are attacked; set "
            f"evasion=pgd {key}.adversarial_clients=true"
        )
    if asked.fusion and model.head != "etf":
        raise ConfigError(
            f"{key}.fusion=true: model.head={model.head} has no space that "
            "client models share; set model.head=etf"
        )


def check_contaminations(damage: Mapping[str, Contamination]) -> None:
    """Some contaminations are for training images or for poisoned clients alone. damage: by group.
    Raises ConfigError."""
    if damage["corruption"].craft is not None:
        name = damage["corruption"].name
        why = "is crafted against the model that a client receives"
        raise ConfigError(f"corruption={name}: {why}; to attack the final models use evasion=pgd")
    for group in ("noise", "corruption"):
        if damage[group].collude is not None:
            name = damage[group].name
            raise ConfigError(
                f"{group}={name}: only poisoned clients work together; use contamination={name}"
            )
        if damage[group].learnt is not None:
            name = damage[group].name
            raise ConfigError(
                f"{group}={name}: only poisoned clients train a trigger; use contamination={name}"
            )
