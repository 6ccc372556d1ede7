"""A hospital's answers under secure aggregation as Flower messages; what it answers is decided in
`fedrobust.privacy.secure.client`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, Message
from torch import Tensor

from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment import factories
from fedrobust.experiment.experiment import Experiment, most_weight, sum_scale
from fedrobust.experiment.settings import settings_from_text
from fedrobust.privacy import ledger
from fedrobust.privacy.mechanisms import Privacy
from fedrobust.privacy.secure import Random, Session, fixed_point, seeded_random, site_condition
from fedrobust.privacy.secure import client as hospital
from fedrobust.runtime.client import context_state, site_config
from fedrobust.runtime.messages import records, secure
from fedrobust.runtime.messages.arrays import WireError
from fedrobust.runtime.messages.sites import RECORD, read_assignment
from fedrobust.state import State, state_digest
from fedrobust.utils.seeding import generator


def answer_keys(message: Message, context: Context) -> Message:
    """The first message of a round: draw key pairs, tell the public keys."""
    order, session = _session(message, context)
    first_of_a_simulation = order["round"] == 1 and context.node_config.get("simulation") is True
    kept = (
        {} if first_of_a_simulation else _load_secrets(context, order)
    )  # there the same settings may be run twice; a real run is a new Context
    now, public = hospital.make_keys(session, kept, _random(context, order, session, "keys"))
    _save_secrets(context, order, now)
    return Message(
        secure.reply(_info(order, "keys"), keys={session.client: public}), reply_to=message
    )


def answer_shares(message: Message, context: Context) -> Message:
    """The second: all public keys have arrived; seal shares of the own secrets for the
    others."""
    order, session = _session(message, context)
    known = secure.read_table(message.content, "keys", hospital.KEYS_BYTES)
    now, sealed = hospital.make_shares(
        session, _load_secrets(context, order), known, _random(context, order, session, "shares")
    )
    _save_secrets(context, order, now)
    return Message(secure.reply(_info(order, "shares"), shares=sealed), reply_to=message)


def check_masking_request(message: Message, context: Context, received: State) -> None:
    """Whether the third message, which asks for training, may be answered: it holds the model that
    was announced, and nothing else that could differ from hospital to hospital. Raises RunError."""
    order, session = _session(message, context)
    if state_digest(received) != order[records.STATE_DIGEST]:
        raise hospital.UnlikeTasksError(
            "secure aggregation: the model that came is not the one that was announced"
        )
    if records.read_extras(message.content):
        raise hospital.UnlikeTasksError(
            "secure aggregation: extras came with the model, and none are compared"
        )
    hospital.check_masking(session, _load_secrets(context, order), _sealed_shares(message))


def answer_masked(
    message: Message,
    context: Context,
    experiment: Experiment,
    update_D: Tensor,
    *,
    num_examples: int,
    etf_sha256: str,
) -> Message:
    """The answer to the third: the clipped update, weighted and under masks."""
    order, session = _session(message, context)
    if num_examples < 1:
        raise RunError("secure aggregation: this hospital has no training images; nothing is sent")
    vector = fixed_point.encode(
        update_D, min(num_examples, most_weight(experiment)), sum_scale(experiment)
    )
    _save_secrets(
        context,
        order,
        hospital.mask(session, _load_secrets(context, order), _sealed_shares(message), vector),
    )
    return Message(
        secure.masked_reply({**_info(order, "masked"), "etf-sha256": etf_sha256}, vector),
        reply_to=message,
    )


def answer_unmask(message: Message, context: Context) -> Message:
    """The last: those whose updates arrived are known; tell the shares that take the masks off
    their sum."""
    order, session = _session(message, context)
    survivors = secure.read_table(message.content, "survivors", 0)
    now, seeds, masks = hospital.reveal_shares(session, _load_secrets(context, order), survivors)
    _save_secrets(context, order, now)
    return Message(secure.reply(_info(order, "unmask"), seeds=seeds, masks=masks), reply_to=message)


STAGES = {"keys": answer_keys, "shares": answer_shares, "unmask": answer_unmask}


def _session(message: Message, context: Context) -> tuple[dict[str, Any], Session]:
    """The message's settings, and this client's part in the round. The images are not looked at: a
    process that has to answer only this need not read them."""
    order, node = records.read_config(message.content), context.node_config
    settings = (
        settings_from_text(order["experiment"])
        if node.get("simulation") is True
        else site_config.read_run(order["experiment"], node)[1]
    )
    privacy: Privacy = factories.build_group({"privacy": settings.privacy.written}, "privacy")
    if not privacy.secure:
        raise ConfigError(
            f"privacy={privacy.name}: a message of privacy=secure_aggregation came; "
            "the server's program is another one"
        )
    ledger.check_mechanism(node, privacy)
    if not isinstance(order.get(records.STATE_DIGEST), str):
        raise WireError(f"config: {records.STATE_DIGEST} of the model that is to come is missing")
    given = read_assignment(message.content) if RECORD in message.content else None
    client = (
        int(node.get("partition-id", -1)) if given is None or given.client < 0 else given.client
    )
    told = "" if given is None else json.dumps([given.size, *given.classes])
    threshold = privacy.least(settings.num_participants)
    site_condition.check_site_condition(node, privacy, threshold)
    task = records.task_digest(order)
    return order, Session(task, order["round"], client, threshold, told)


def _random(context: Context, order: Mapping[str, Any], session: Session, stage: str) -> Random:
    """From the run's seed in a simulation, so that runs repeat: it protects no one there, since the
    server knows the seed."""
    if context.node_config.get("simulation") is not True:
        return os.urandom
    seed = settings_from_text(order["experiment"]).seed
    return seeded_random(
        generator(seed, "secure aggregation", session.client, session.round, stage)
    )


def _sealed_shares(message: Message) -> dict[int, bytes]:
    return secure.read_table(message.content, "shares", hospital.SEALED_BYTES)


def _info(order: Mapping[str, Any], stage: str) -> dict[str, Any]:
    return {
        "etf-sha256": order["etf-sha256"],
        "task": secure.stage_digest(records.task_digest(dict(order)), stage),
    }


def _load_secrets(context: Context, order: Mapping[str, Any]) -> dict[str, Any]:
    record = context.state.get(context_state.memory_key("secure", order))
    return dict(record) if isinstance(record, ConfigRecord) else {}


def _save_secrets(context: Context, order: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    context.state[context_state.memory_key("secure", order)] = ConfigRecord(dict(kept))
