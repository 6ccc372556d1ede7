"""One hospital: what it answers to each kind of message, in process, on Ray actors and on a real
SuperNode."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from flwr.app import Context, Message
from torch import Tensor

from fedrobust.contamination.apply import attacker_owned
from fedrobust.contamination.base import CLEAN, Contamination
from fedrobust.data import TEST, TRAIN, VALIDATION, cache
from fedrobust.defences.sanitisation.detection import altered_rows, detection_counts
from fedrobust.defences.sanitisation.filtering import sanitise_shard
from fedrobust.errors import ConfigError, DataError, RefusalError
from fedrobust.evaluation.label_detection import label_counts
from fedrobust.experiment import build, factories
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.features import ModelInputs
from fedrobust.experiment.settings import Settings, to_json
from fedrobust.learning import etf
from fedrobust.learning.classifier import Classifier, ModelFactory
from fedrobust.privacy import ledger
from fedrobust.privacy.mechanisms import Privacy
from fedrobust.privacy.noise import secret_noise, seeded_noise
from fedrobust.privacy.secure import site_condition
from fedrobust.runtime.client import disclosure, own_weights, secure_aggregation, site_config
from fedrobust.runtime.client.context_state import (
    clear_memory,
    exchange_received,
    load_memory,
    load_personal,
    save_memory,
    save_personal,
    with_own_buffers,
)
from fedrobust.runtime.client.evaluation import (
    apply_crafted,
    predict_conditions,
    predict_personal,
)
from fedrobust.runtime.client.site_errors import error_code, log_error
from fedrobust.runtime.client.stealth import train_stealthily
from fedrobust.runtime.messages import evaluations, records
from fedrobust.runtime.messages.sites import RECORD, read_assignment, site_info_reply
from fedrobust.state import Layout, State, load, take
from fedrobust.types import PersonalTrainer, Samples, Shard, Task, TrainResult
from fedrobust.utils import devices
from fedrobust.utils.plugins import PLUGINS
from fedrobust.utils.recent import Recent
from fedrobust.utils.seeding import generator
from fedrobust.utils.watchdog import exit_after


def in_time(
    message: Message, context: Context, answer: Callable[[Message, Context], Message]
) -> Message:
    """A SuperNode gives its ClientApp, a process for each message, all the time in the world, and
    nothing else to do until it ends: so a real site's ends by itself once the server no longer
    waits for its reply, and the site can take part in the next round."""
    if context.node_config.get("simulation") is True:
        return answer(message, context)
    with exit_after(message.metadata.ttl):
        return answer(message, context)


@dataclass(frozen=True, slots=True)
class _Request:
    """A message's request to a hospital, and the objects to answer it. order: the message's
    settings; received: the global model in it; model: the one of this process."""

    message: Message
    context: Context
    order: Mapping[str, Any]
    experiment: Experiment
    client: int
    model: Classifier
    layout: Layout
    received: State

    @property
    def round(self) -> int:
        return int(self.order["round"])

    @property
    def simulated(self) -> bool:
        return self.context.node_config.get("simulation") is True

    @property
    def inputs(self) -> ModelInputs:
        """What the model gets of the hospital's images."""
        return ModelInputs(self.experiment, self.model)

    @property
    def honest(self) -> bool:
        """Whether this client is poisoned, and does not attack in this round."""
        poisoned = self.experiment.roles[self.client] == "poisoned"
        return poisoned and self.order.get(records.ATTACK, 1) == 0

    @property
    def contamination(self) -> Contamination:
        """What this client does in this round."""
        return CLEAN if self.honest else self.experiment.contamination(self.client)

    def generator(self, purpose: str) -> torch.Generator:
        return self.experiment.generator(purpose, self.client, self.round)

    def load_received(self) -> None:
        """The received model into that of this process."""
        state = with_own_buffers(self.experiment, self.received, self.context, self.order)
        load(self.model, self.layout, state)

    def info(self) -> dict[str, str]:
        """Facts of a reply."""
        return _info(self.model, self.order)


def _info(model: Classifier, order: Mapping[str, Any]) -> dict[str, str]:
    """Facts of a reply; the anchors are those that were used."""
    return {
        "etf-sha256": "" if model.anchors is None else etf.digest(model.anchors),
        "task": records.task_digest(order),
    }


def _read_request(message: Message, context: Context) -> _Request:
    order = records.read_config(message.content)
    experiment, client = read_experiment(order["experiment"], message, context)
    node = context.node_config
    model, layout = _received_model(experiment.settings, experiment.num_classes, order, node)
    sizes = layout.num_parameters, layout.num_buffers
    received = records.read_state(message.content["state"], sizes)
    return _Request(message, context, order, experiment, client, model, layout, received)


@dataclass(frozen=True, slots=True)
class _Update:
    """What training gave. sent: the model that the client means to send; num_examples: the images
    it was trained on; counts: of images that the sanitiser left out, and of labels that the trainer
    suspects."""

    sent: State
    result: TrainResult
    num_examples: int
    counts: Mapping[str, float]


def train(message: Message, context: Context) -> Message:
    """Train the received global model on the hospital's shard and send the result, contaminated if
    this client is poisoned."""
    if ledger.keeps(context.node_config):
        return _train_within_limit(message, context)
    request = _read_request(message, context)
    _check_permission(request)
    update = _make_update(request)
    if request.experiment.privacy.secure:
        return _mask(request, update)
    return _release(request, update)


def _make_update(request: _Request) -> _Update:
    if request.round == 1:
        clear_memory(request.context, request.order)
    request.load_received()
    kept = _sanitise(request)
    trained, result = _train(request, kept.data)
    counts = {**kept.counts, **_label_counts(request, kept, result)}
    return _Update(_contaminate(request, trained), result, len(kept.data.train), counts)


@dataclass(frozen=True, slots=True)
class _Given:
    """What a message gives a real node, read without a look at its images. privacy: the run's
    mechanism; threshold: of how many hospitals a sum is opened at least."""

    order: Mapping[str, Any]
    privacy: Privacy
    threshold: int
    model: Classifier
    received: State


def _read_without_images(message: Message, context: Context) -> _Given:
    order, node = records.read_config(message.content), context.node_config
    config, settings = site_config.read_run(order["experiment"], node)
    own, _ = _own_run(config, settings, message, node)
    privacy = build.check_without_data(own)
    num_classes = _count_classes(own, settings, message)
    model, layout = _received_model(settings, num_classes, order, node)
    sizes = layout.num_parameters, layout.num_buffers
    received = records.read_state(message.content["state"], sizes)
    records.read_extras(message.content)
    return _Given(order, privacy, privacy.least(settings.num_participants), model, received)


def _train_within_limit(message: Message, context: Context) -> Message:
    """The same at a node that keeps a ledger: what the server sees depends on the images through
    the noisy update alone. All that can be refused is refused without looking at them; then the
    order is entered in the ledger; whatever fails afterwards is in the node's log, and the server
    gets the noisy update of a client that learnt nothing."""
    given, node = _read_without_images(message, context), context.node_config
    privacy, received = given.privacy, given.received
    ledger.check_mechanism(node, privacy)
    site_condition.check_site_condition(node, privacy, given.threshold)
    ledger.record_release(node, privacy, ledger.Order(context.run_id, int(given.order["round"])))
    try:
        update = _make_update(_read_request(message, context))
        released = privacy.release(update.sent, received, secret_noise)
    except Exception as error:
        log_error(error, error_code(error))
        released = privacy.release(received, received, secret_noise)
    count, metrics, _ = privacy.reply_statistics(1, {}, {})  # the same for all under noise
    content = records.train_reply(released, count, metrics, _info(given.model, given.order))
    return Message(content, reply_to=message)


def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the received global model on the hospital's own test shard, clean and under the
    hospital's contamination; its own configuration decides what is reported of that."""
    node = context.node_config
    if node.get("simulation") is not True and (reason := disclosure.find_reason(node)) is not None:
        given = _read_without_images(message, context)
        info = _info(given.model, given.order)
        return Message(evaluations.withheld_reply(reason, info), reply_to=message)
    request = _read_request(message, context)
    if not disclosure.shares_predictions(node):
        disclosure.evaluate_once(context)
    request.load_received()
    predictions = predict_conditions(request.inputs, request.client, request.model)
    if request.experiment.personalises and disclosure.reports_personal(node):
        own = _own_model(request)
        predictions |= predict_personal(request.inputs, request.client, request.model, own)
    return Message(disclosure.disclose(predictions, node, request.info()), reply_to=message)


def report_site_info(message: Message, context: Context) -> Message:
    """Report of a real site before anything is trained: its numbers of images, after reading all of
    them (that of its test images rounded as its counts are), and its device."""
    text = records.read_config(message.content)["experiment"]
    experiment, client = read_experiment(text, message, context)
    node = context.node_config
    train, validation, test = (
        len(experiment.rows(client, split)) for split in (TRAIN, VALIDATION, TEST)
    )
    counts = train, validation, disclosure.reported_images(node, test, experiment.num_classes)
    words = {
        "site": str(node.get("site", "")),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    words |= {"flwr": version("flwr"), "device": devices.device_name(devices.resolve("auto"))}
    return Message(
        site_info_reply(counts, int(node.get("partition-id", -1)), words),
        reply_to=message,
    )


def read_experiment(text: str, message: Message, context: Context) -> tuple[Experiment, int]:
    """The experiment and this client's number. Contamination is refused outside a simulation unless
    the node itself allows it: a server must never be able to order a hospital to poison."""
    node = context.node_config
    if node.get("simulation") is True:
        return _as_client(build.from_text(text), int(node.get("partition-id", -1)))
    config, settings = site_config.read_run(text, node)
    return _at_site(config, settings, message, node)


def _as_client(experiment: Experiment, client: int) -> tuple[Experiment, int]:
    if not 0 <= client < experiment.num_clients:
        raise ConfigError(
            f"partition-id={client}: must be 0 or more and below "
            f"num_clients={experiment.num_clients}; set it in the node config"
        )
    return experiment, client


def _own_run(
    config: dict[str, Any], settings: Settings, message: Message, node: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """What becomes of a run's configuration on a real node, and this client's number: the images
    are those that its own configuration names, and the server sends it its number."""
    if not site_config.is_remote(settings):
        site_config.check_readable(settings, node)
        given = read_assignment(message.content).client if RECORD in message.content else -1
        return config, int(node.get("partition-id", -1)) if given < 0 else given
    order = read_assignment(message.content)
    client = max(order.client, 0)  # any number will do while the sites are only counted
    return site_config.own_config(
        config, node, client, size=order.size, classes=order.classes
    ), client


def _at_site(
    config: dict[str, Any], settings: Settings, message: Message, node: Mapping[str, Any]
) -> tuple[Experiment, int]:
    """The experiment on a real node, with its own images."""
    if "threads" in node:
        torch.set_num_threads(int(node["threads"]))
    own, client = _own_run(config, settings, message, node)
    if not site_config.is_remote(settings):
        return _as_client(_draw_images(own), client)
    # before anything of the server's is built
    found = build.load_data(own["data"], settings.plugins)
    site_config.check_found_classes(found.class_names, read_assignment(message.content).classes)
    return _as_client(build.from_text(to_json(own), found), client)


def _draw_images(config: dict[str, Any]) -> Experiment:
    """The experiment of a run that shares drawn images out among nodes."""
    with cache.in_memory():  # else a server could fill the disk with ever other drawn images
        return build.from_text(to_json(config))


def _count_classes(own: dict[str, Any], settings: Settings, message: Message) -> int:
    """The classes of a run at a real node, without a look at its images."""
    if site_config.is_remote(settings):
        return len(read_assignment(message.content).classes)
    return _draw_images(own).num_classes


def _received_model(
    settings: Settings, num_classes: int, order: Mapping[str, Any], node: Mapping[str, Any]
) -> tuple[Classifier, Layout]:
    """The model that a message is about, with any weights: those of the run come with it, but for
    what is frozen. That is drawn by the run's seed, or of the node's own copy of pretrained
    weights. Raises RefusalError where it is not the server's."""
    wanted = order.get(records.FROZEN_DIGEST, "")
    written = to_json({"model": settings.model.written, PLUGINS: list(settings.plugins)})
    weights = own_weights.weights_to_try(node) if wanted else (own_weights.NONE,)
    reasons = []
    for one in weights:
        try:
            model, layout, frozen = _model(
                (written, one),
                num_classes,
                settings.seed,
                settings.device,
                order["etf"],
                sha256=order["etf-sha256"],
            )
        except (ConfigError, DataError) as error:
            if one == own_weights.NONE:
                raise
            reasons.append(f"; {error}")
            continue
        if frozen == wanted:
            return model, layout
    key = own_weights.WEIGHTS
    copy = f"name the server's weights in {key}, for pretrained ones: a file, or {key}=packaged"
    raise RefusalError(
        "frozen",
        f"model.freeze={settings.model.get('freeze')}: what is frozen here is not what the server "
        f"has (its SHA-256 differs{''.join(reasons)}); in this node's configuration {copy}; give "
        "both the same versions of fedrobust, timm and torch, or use model.freeze=none",
    )


@lru_cache(maxsize=1)
def _model(
    written: tuple[str, str],
    num_classes: int,
    seed: int,
    device: str,
    anchors: bytes,
    *,
    sha256: str,
) -> tuple[Classifier, Layout, str]:
    """The one resident model of this process, into which every client's state is loaded, and the
    digest of its frozen part. written: the group of the model, and the plug-ins, as text; and
    `weights_to_try`'s of what is frozen."""
    text, weights = written
    factory: ModelFactory = factories.build_group(json.loads(text), "model")
    etf_dK = etf.from_bytes(anchors, num_classes, sha256) if anchors else None
    g = generator(seed, "init")
    model = own_weights.build_with(weights, factory.without_sent(), num_classes, etf_dK, g)
    model.to("cuda" if torch.cuda.is_available() and device != "cpu" else "cpu")
    return model, Layout.of(model), model.frozen_digest()


def _check_permission(request: _Request) -> None:
    """Raises ConfigError where the node's own conditions forbid the answer."""
    experiment, node = request.experiment, request.context.node_config
    threshold = experiment.privacy.least(experiment.settings.num_participants)
    site_condition.check_site_condition(node, experiment.privacy, threshold)
    if experiment.privacy.secure:
        secure_aggregation.check_masking_request(request.message, request.context, request.received)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The hospital's images of a round. kept_N: of all its training images those in it; None: all.
    counts: of images left out."""

    data: Shard
    kept_N: Tensor | None
    counts: Mapping[str, float]


def _sanitise(request: _Request) -> _Kept:
    """The hospital's training images of this round and its counts of images left out; only a
    simulation knows which were altered."""
    experiment, client, inputs = request.experiment, request.client, request.inputs
    if request.honest:
        own = shard = _clean_shard(inputs, client)
    else:
        own = _shard(inputs, client)
        shard = apply_crafted(experiment, client, request.model, own, request.round)
    if experiment.sanitiser.score is None or attacker_owned(request.contamination):
        return _Kept(shard, None, {})
    data, kept_N = sanitise_shard(experiment.sanitiser, request.model, shard, request.round)
    altered_N = _altered_rows(request, own) if request.simulated else None
    return _Kept(data, kept_N, detection_counts(kept_N, altered_N))


def _label_counts(request: _Request, kept: _Kept, result: TrainResult) -> Mapping[str, float]:
    """Counts of labels that the trainer suspects, where it suspects any; only a simulation knows
    which are wrong."""
    if result.labels is None:
        return {}
    true_N = None
    if request.simulated:
        true_N = request.inputs.clean_shard(request.client).train.labels
        true_N = true_N if kept.kept_N is None else true_N[kept.kept_N]
    return label_counts(kept.data.train.labels, result.labels, true_N)


def _train(request: _Request, data: Shard) -> tuple[State, TrainResult]:
    """Train on these images; returns the result and its report, and stores the trainer's memory for
    the next round. A stealthy attacker trains twice."""
    experiment, context, order = request.experiment, request.context, request.order
    task = _task(request, data, "client")
    disguise, layout, trainer = request.contamination.stealth, request.layout, experiment.trainer
    if request.contamination.train is not None:
        trainer = request.contamination.train(trainer)
    if disguise is None:
        result = trainer(task)
        trained = take(task.model, layout)
    else:
        clean = _clean_shard(request.inputs, request.client)
        g = request.generator("disguise")
        trained, result = train_stealthily(
            disguise, trainer, task, clean, layout=layout, generator=g
        )
    keeps_buffers = experiment.settings.server.batchnorm == "local"
    save_memory(context, order, result.memory, trained if keeps_buffers else None)
    save_personal(context, order, result.personal)
    return trained, result


def _task(request: _Request, data: Shard, purpose: str) -> Task:
    """What the trainer gets. purpose: of its randomness."""
    return Task(
        model=request.model,
        data=data,
        round=request.round,
        extras=records.read_extras(request.message.content),
        memory=load_memory(request.context, request.order),
        generator=request.generator(purpose),
        personal=load_personal(request.context, request.order),
    )


def _own_model(request: _Request) -> Mapping[str, Tensor]:
    """The tensors of the client's own model by name; the model of this process holds the global one
    before and after."""
    trainer = request.experiment.trainer
    if not isinstance(trainer, PersonalTrainer) or trainer.adapt is None:
        return load_personal(request.context, request.order)
    adapted = trainer.adapt(_task(request, _sanitise(request).data, "adapt"))
    request.load_received()
    return adapted


def _contaminate(request: _Request, trained: State) -> State:
    """Apply the client's model poisoning before the model is sent; an honest model is not
    changed. An attacker who waits watches the global model meanwhile."""
    contamination, received = request.contamination, request.received
    sent = contamination.update(trained, received, request.generator("update"))
    if request.experiment.contamination(request.client).track is None:
        return sent
    before = exchange_received(received, request.context, request.order)
    return sent if contamination.track is None else contamination.track(sent, received, before)


def _mask(request: _Request, update: _Update) -> Message:
    """The reply under secure aggregation: the clipped update under masks."""
    return secure_aggregation.answer_masked(
        request.message,
        request.context,
        request.experiment,
        request.experiment.privacy.clip_update(update.sent, request.received),
        num_examples=update.num_examples,
        etf_sha256=request.info()["etf-sha256"],
    )


def _release(request: _Request, update: _Update) -> Message:
    """The reply with what may leave the hospital. A real one draws its noise in secret: the server
    knows every seed of the run."""
    privacy = request.experiment.privacy
    noise = seeded_noise(request.generator("privacy")) if request.simulated else secret_noise
    released = privacy.release(update.sent, request.received, noise)
    result = update.result
    means = {name: total / max(result.num_examples, 1) for name, total in result.sums.items()}
    count, metrics, extras = privacy.reply_statistics(
        update.num_examples, {**means, **update.counts}, result.extras
    )
    content = records.train_reply(released, count, metrics, request.info(), extras)
    return Message(content, reply_to=request.message)


def _altered_rows(request: _Request, own: Shard) -> Tensor:
    """The hospital's training images that its contamination mislabelled or gave a trigger. own:
    its images of this round."""
    inputs, client = request.inputs, request.client
    if request.honest:
        return torch.zeros_like(own.train.labels, dtype=torch.bool)

    def compare() -> Tensor:
        return altered_rows(
            inputs.clean_shard(client).train,
            own.train,
            triggered=inputs.experiment.contamination(client).backdoor is not None,
        )

    return _ALTERED.get((*inputs.key, client), compare)


def _shard(inputs: ModelInputs, client: int) -> Shard:
    """The hospital's images, resident where the model is: bytes, so that 10,000 images of 224
    pixels take 1.5 GB; or their features."""
    return _SHARDS.get(
        (*inputs.key, client), lambda: _resident(inputs.shard(client), inputs.device)
    )


def _clean_shard(inputs: ModelInputs, client: int) -> Shard:
    """The same without the hospital's contamination: for attackers who need to know what they would
    have learnt."""
    return _CLEAN_SHARDS.get(
        (*inputs.key, client), lambda: _resident(inputs.clean_shard(client), inputs.device)
    )


_ALTERED: Recent[Tensor] = Recent(64)
_SHARDS: Recent[Shard] = Recent(64)
_CLEAN_SHARDS: Recent[Shard] = Recent(8)


def forget_runs() -> None:
    """Keep nothing of any run in this process: no experiment, no images of hospitals, no model."""
    build.forget_experiments()
    _model.cache_clear()
    for kept in (_ALTERED, _SHARDS, _CLEAN_SHARDS):
        kept.clear()


def _resident(shard: Shard, device: torch.device) -> Shard:
    return Shard(
        *(
            Samples(part.images.to(device), part.labels.to(device))
            for part in (shard.train, shard.validation, shard.test)
        )
    )
