"""One hospital: what it answers to each kind of message, in process, on Ray actors and on a real
SuperNode."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from flwr.app import Context, Message
from torch import Tensor

from fedrobust.contamination.apply import attacker_owned
from fedrobust.data import TEST, TRAIN, VALIDATION
from fedrobust.defences.sanitisation.detection import altered_rows, detection_counts
from fedrobust.defences.sanitisation.filtering import sanitise_shard
from fedrobust.errors import ConfigError
from fedrobust.experiment import build
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.settings import Settings, from_json, read_settings, to_json
from fedrobust.learning import etf
from fedrobust.learning.classifier import Classifier
from fedrobust.privacy import ledger
from fedrobust.privacy.noise import secret_noise, seeded_noise
from fedrobust.privacy.secure import site_condition
from fedrobust.runtime.client import secure_aggregation, site_config
from fedrobust.runtime.client.context_state import (
    clear_memory,
    exchange_received,
    load_memory,
    save_memory,
    with_own_buffers,
)
from fedrobust.runtime.client.evaluation import apply_crafted, predict_conditions
from fedrobust.runtime.client.stealth import train_stealthily
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.sites import RECORD, read_assignment, site_info_reply
from fedrobust.state import Layout, State, load, take
from fedrobust.types import Samples, Shard, Task, TrainResult
from fedrobust.utils import devices
from fedrobust.utils.watchdog import exit_after


def in_time(
    message: Message, context: Context, answer: Callable[[Message, Context], Message]
) -> Message:
    """A SuperNode gives its ClientApp, a process for each message, all the time in the world, and
    nothing else to do until it ends: so a real site's ends by itself when nobody waits for its
    reply any more, and the site can take part in the next round."""
    if context.node_config.get("simulation") is True:
        return answer(message, context)
    with exit_after(message.metadata.ttl):
        return answer(message, context)


def train(message: Message, context: Context) -> Message:
    """Train the received global model on the hospital's shard and send the result, contaminated if
    this client is poisoned."""
    order = records.read_config(message.content)
    experiment, client = read_experiment(order["experiment"], message, context)
    model, layout = _model(experiment.text, order["etf"], order["etf-sha256"])
    reference = records.read_state(
        message.content["state"], (layout.num_parameters, layout.num_buffers)
    )
    site_condition.check_site_condition(
        context.node_config,
        experiment.privacy,
        experiment.privacy.least(experiment.settings.num_participants),
    )
    if experiment.privacy.secure:
        secure_aggregation.check_masking_request(message, context)
    if order["round"] == 1:
        clear_memory(context, order)
    load(model, layout, with_own_buffers(experiment, reference, context, order))
    data, sifted = _sanitise(
        experiment,
        client,
        model,
        order["round"],
        simulated=context.node_config.get("simulation") is True,
    )
    task = Task(
        model=model,
        data=data,
        round=order["round"],
        extras=records.read_extras(message.content),
        memory=load_memory(context, order),
        generator=experiment.generator("client", client, order["round"]),
    )
    contamination = experiment.contamination(client)
    trained, result = _train(experiment, client, task, layout)
    save_memory(
        context,
        order,
        result.memory,
        trained if experiment.settings.server.batchnorm == "local" else None,
    )
    sent = contamination.update(
        trained, reference, experiment.generator("update", client, order["round"])
    )
    if contamination.track is not None:
        sent = contamination.track(sent, reference, exchange_received(reference, context, order))
    if experiment.privacy.secure:
        update_D = experiment.privacy.clip_update(sent, reference)
        return secure_aggregation.answer_masked(
            message,
            context,
            experiment,
            update_D,
            num_examples=len(data.train),
            etf_sha256=_sha256(model),
        )
    metrics: Mapping[str, float] = {
        name: total / max(result.num_examples, 1) for name, total in result.sums.items()
    } | sifted
    sent = _release(experiment, client, sent, reference, order=order, node=context.node_config)
    count, metrics, extras = experiment.privacy.reply_statistics(
        len(task.data.train), metrics, result.extras
    )
    content = records.train_reply(
        sent,
        count,
        metrics,
        {"etf-sha256": _sha256(model), "task": records.task_digest(order)},
        extras,
    )
    return Message(content, reply_to=message)


def evaluate(message: Message, context: Context) -> Message:
    """Judge the received global model on the hospital's own test shard, clean and under the
    hospital's contamination."""
    order = records.read_config(message.content)
    experiment, client = read_experiment(order["experiment"], message, context)
    model, layout = _model(experiment.text, order["etf"], order["etf-sha256"])
    state = records.read_state(
        message.content["state"], (layout.num_parameters, layout.num_buffers)
    )
    load(model, layout, with_own_buffers(experiment, state, context, order))
    ledger.check_verdict(context.node_config)
    predictions = predict_conditions(experiment, client, model)
    return Message(
        records.evaluate_reply(
            predictions, {}, {"etf-sha256": _sha256(model), "task": records.task_digest(order)}
        ),
        reply_to=message,
    )


def report_site_info(message: Message, context: Context) -> Message:
    """Of a real site, before anything is trained: how many images it holds, after reading all of
    them, and on what it computes."""
    text = records.read_config(message.content)["experiment"]
    experiment, client = read_experiment(text, message, context)
    counts = [len(experiment.rows(client, split)) for split in (TRAIN, VALIDATION, TEST)]
    words = {
        "site": str(context.node_config.get("site", "")),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    words |= {"flwr": version("flwr"), "device": devices.device_name(devices.resolve("auto"))}
    return Message(
        site_info_reply(counts, int(context.node_config.get("partition-id", -1)), words),
        reply_to=message,
    )


def read_experiment(text: str, message: Message, context: Context) -> tuple[Experiment, int]:
    """The experiment and this client's number. Contamination is refused outside a simulation unless
    the node itself allows it: a server must never be able to order a hospital to poison."""
    node = context.node_config
    if node.get("simulation") is True:
        return _as_client(build.from_text(text), int(node.get("partition-id", -1)))
    config = from_json(text)
    settings = read_settings(config)
    # the word "false" is no permission
    allowed = node.get("allow-contamination") is True
    if (settings.poisoned or settings.noisy) and not allowed:
        raise ConfigError(
            "poisoned/noisy: this node refuses contamination; its own node config "
            "may set allow-contamination=true"
        )
    return _at_site(text, config, settings, message, node)


def _as_client(experiment: Experiment, client: int) -> tuple[Experiment, int]:
    if not 0 <= client < experiment.num_clients:
        raise ConfigError(
            f"partition-id={client}: must be 0 or more and below "
            f"num_clients={experiment.num_clients}; set it in the node config"
        )
    return experiment, client


def _at_site(
    text: str,
    config: dict[str, Any],
    settings: Settings,
    message: Message,
    node: Mapping[str, Any],
) -> tuple[Experiment, int]:
    """The same on a real node: the images are those that its own configuration names, and the
    server tells it its number."""
    if "threads" in node:
        torch.set_num_threads(int(node["threads"]))
    if not site_config.is_remote(settings):
        site_config.check_readable(settings, node)
        given = read_assignment(message.content).client if RECORD in message.content else -1
        partition = int(node.get("partition-id", -1))
        return _as_client(build.from_text(text), partition if given < 0 else given)
    order = read_assignment(message.content)
    client = max(order.client, 0)  # any number will do while the sites are only counted
    own = site_config.own_config(config, node, client, size=order.size, classes=order.classes)
    experiment = build.from_text(to_json(own))
    if experiment.dataset.class_names != order.classes:
        wanted, found = ", ".join(order.classes), ", ".join(experiment.dataset.class_names)
        raise ConfigError(
            f"data-root: the classes are {found}, those of the run {wanted}; rename "
            "them, or choose other data"
        )
    return _as_client(experiment, client)


def _release(
    experiment: Experiment,
    client: int,
    sent: State,
    reference: State,
    *,
    order: Mapping[str, Any],
    node: Mapping[str, Any],
) -> State:
    """What leaves the hospital. A real one draws its noise in secret: the server knows every seed
    of the run."""
    noise = (
        seeded_noise(experiment.generator("privacy", client, order["round"]))
        if node.get("simulation") is True
        else secret_noise
    )
    released = experiment.privacy.release(sent, reference, noise)
    ledger.record_release(node, experiment.privacy)
    return released


@lru_cache(maxsize=1)
def _model(text: str, anchors: bytes, sha256: str) -> tuple[Classifier, Layout]:
    """The one resident model of this process; every client's state is loaded into it."""
    experiment = build.from_text(text)
    etf_dK = etf.from_bytes(anchors, experiment.num_classes, sha256) if anchors else None
    model = experiment.model.untrained().build(
        experiment.num_classes, etf_dK, experiment.generator("init")
    )  # the weights come with the message
    model.to("cuda" if torch.cuda.is_available() and experiment.settings.device != "cpu" else "cpu")
    return model, Layout.of(model)


def _train(
    experiment: Experiment, client: int, task: Task, layout: Layout
) -> tuple[State, TrainResult]:
    """What the trainer makes of the hospital's shard, and its report; an attacker that must not be
    noticed learns twice."""
    disguise = experiment.contamination(client).stealth
    if disguise is None:
        result = experiment.trainer(task)
        return take(task.model, layout), result
    clean = _clean_shard(experiment.text, client, next(task.model.parameters()).device)
    g = experiment.generator("disguise", client, task.round)
    return train_stealthily(disguise, experiment.trainer, task, clean, layout=layout, generator=g)


def _sanitise(
    experiment: Experiment, client: int, model: Classifier, server_round: int, *, simulated: bool
) -> tuple[Shard, dict[str, float]]:
    """What the hospital trains on in this round, and how many images it left out; only a simulation
    knows how many of them rightly."""
    device = next(model.parameters()).device
    shard = apply_crafted(
        experiment, client, model, _shard(experiment.text, client, device), server_round
    )
    if experiment.sanitiser.score is None or attacker_owned(experiment.contamination(client)):
        return shard, {}
    data, kept_N = sanitise_shard(experiment.sanitiser, model, shard, server_round)
    return data, detection_counts(
        kept_N, _altered_rows(experiment.text, client, device) if simulated else None
    )


@lru_cache(maxsize=64)
def _altered_rows(text: str, client: int, device: torch.device) -> Tensor:
    """Which of the hospital's training images its contamination mislabelled or gave a trigger."""
    experiment = build.from_text(text)
    clean = experiment.samples(experiment.rows(client, TRAIN))
    return altered_rows(
        clean,
        _shard(text, client, device).train,
        triggered=experiment.contamination(client).backdoor is not None,
    )


@lru_cache(maxsize=64)
def _shard(text: str, client: int, device: torch.device) -> Shard:
    """The hospital's images, resident where the model is: bytes, so that 10,000 images of 224
    pixels take 1.5 GB."""
    shard = build.from_text(text).shard(client)
    return _resident(shard.train, shard.validation, shard.test, device)


@lru_cache(maxsize=8)
def _clean_shard(text: str, client: int, device: torch.device) -> Shard:
    """The same without the hospital's contamination: for attackers who need to know what they would
    have learnt."""
    experiment = build.from_text(text)
    train, validation, test = (
        experiment.samples(experiment.rows(client, split)) for split in (TRAIN, VALIDATION, TEST)
    )
    return _resident(train, validation, test, device)


def _resident(train: Samples, validation: Samples, test: Samples, device: torch.device) -> Shard:
    return Shard(
        *(
            Samples(part.images.to(device), part.labels.to(device))
            for part in (train, validation, test)
        )
    )


def _sha256(model: Classifier) -> str:
    """Of the anchors that were really used, after training."""
    return "" if model.anchors is None else etf.digest(model.anchors)
