"""Contents of the messages: states, settings, metrics and per-sample results as Flower records, and
back with every check.

A train message is {"state": ArrayRecord, "config": ConfigRecord}, its reply {"state", "metrics",
"info"}; an evaluate reply is {"predictions": ArrayRecord, "metrics", "info"}. A train message and
its reply may add "extras" (scalars) and "extra-tensors". Every message is checked before it is
used: a wrong name, type, shape, size or a NaN ends in a `WireError`, a ValueError of one line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedrobust.runtime.messages import limits
from fedrobust.runtime.messages.arrays import (
    FlatArray,
    WireError,
    find_fault,
    pack,
    unpack,
    unpack_any,
)
from fedrobust.runtime.messages.limits import shorten_names, shorten_value
from fedrobust.state import State

ConditionPredictions = Mapping[str, tuple[Tensor, Tensor]]
CONFIG_KEYS: Mapping[str, type] = {"experiment": str, "round": int, "etf": bytes, "etf-sha256": str}
FROZEN_DIGEST = "frozen-sha256"  # of the settings: the digest of what no state holds, if any
ATTACK = "attack"  # of the settings: 0 where poisoned clients are honest in this round, else absent
STATE_DIGEST = "state-sha256"  # of the settings: the digest of the state that is to come
SCALARS = (str, int, float, bytes)
ROUNDING = 1e-5  # of a softmax's shares
SUMMED = 1e-3  # of their sum over the classes


@dataclass(frozen=True, slots=True)
class TrainReply:
    """A checked train reply: the trained state, how many samples it saw (>= 1), finite metrics, and
    what else came along."""

    state: State
    num_examples: int
    metrics: Mapping[str, float]
    info: Mapping[str, Any]
    extras: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EvaluateReply:
    """A checked evaluate reply: per condition probabilities float32 (n, K) and labels int64 (n,),
    with metrics and info."""

    predictions: ConditionPredictions
    num_examples: int
    metrics: Mapping[str, float]
    info: Mapping[str, Any]


def set_identity(run_id: int = 1, node_id: int = 2**32) -> None:
    """Name this process to Flower, which refuses to build a Message outside a run of its own.

    The one private touch of Flower (1.41) that a simulation needs: inside `flwr run` the name is
    set already and this must not be called. The server's node id lies outside the clients' 0 ...
    N-1.
    """
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, run_id, node_id


def state_record(state: State) -> ArrayRecord:
    """The state as an ArrayRecord of two float32 vectors that share the tensors' memory: do not
    change those afterwards.

    Give one and the same record to all messages of a round: the engines then ship it once.
    """
    return pack(
        {
            "parameters": state.parameters.to(torch.float32),
            "buffers": state.buffers.to(torch.float32),
        }
    )


def read_state(record: ArrayRecord, sizes: tuple[int, int]) -> State:
    """The state in a record; `sizes` are (D, B) of the receiver's own layout. Views of the record:
    never change them in place."""
    if set(record) != {"parameters", "buffers"}:
        raise WireError(
            f"state: expected the arrays parameters and buffers, got {shorten_names(record)}"
        )
    vectors = [
        unpack(record, name, torch.float32, (size,))
        for name, size in zip(("parameters", "buffers"), sizes, strict=True)
    ]
    for name, vector in zip(("parameters", "buffers"), vectors, strict=True):
        array = record[name]
        fault = array.fault if isinstance(array, FlatArray) else find_fault(vector)
        if fault:
            raise WireError(f"state: {name} holds {fault}")
    return State(*vectors)


def train_message(
    state: ArrayRecord, config: Mapping[str, Any], extras: Mapping[str, Any] | None = None
) -> RecordDict:
    """The content of a message to a client; `config` holds CONFIG_KEYS and any other str, int,
    float or bytes.

    extras: scalars, and float32 or int64 tensors of any shape, for the client trainer.
    """
    _check_config(config)
    return RecordDict(
        {"state": state, "config": ConfigRecord(dict(config)), **_extras_records(extras or {})}
    )


def read_config(content: RecordDict) -> dict[str, Any]:
    """The settings in a message, with every one of CONFIG_KEYS present and of its type."""
    config = dict(_record(content, "config", ConfigRecord))
    _check_config(config)
    return config


def task_digest(config: Mapping[str, Any]) -> str:
    """The name of what a message asks for, by its settings, which its reply has to repeat: a digest
    of experiment and round and, where the settings announce a model, of that and its anchors."""
    asked = f"{config['round']}\n{config['experiment']}"
    if STATE_DIGEST in config:
        asked += f"\n{config[STATE_DIGEST]}\n{config['etf-sha256']}"
    return hashlib.sha256(asked.encode()).hexdigest()


def read_extras(content: RecordDict) -> dict[str, Any]:
    """The extras of a message or of a reply: scalars and tensors by name; empty where none were
    sent."""
    extras: dict[str, Any] = (
        dict(_record(content, "extras", ConfigRecord)) if "extras" in content else {}
    )
    if "extra-tensors" in content:
        record = _record(content, "extra-tensors", ArrayRecord)
        if twice := set(extras) & set(record):
            raise WireError(
                f"extras: {shorten_names(dict.fromkeys(twice))} stands for a scalar "
                "and for a tensor"
            )
        extras |= {name: unpack_any(record, name) for name in record}
    for name, value in extras.items():
        if not isinstance(value, (Tensor, *SCALARS)):
            raise WireError(
                f"extras: {name} must be a tensor, str, int, float or bytes, got "
                f"{shorten_value(value)}"
            )
        if isinstance(value, (Tensor, float)):
            _check_finite(f"extras: {name}", torch.as_tensor(value))
    return extras


def train_reply(
    state: State,
    num_examples: int,
    metrics: Mapping[str, float],
    info: Mapping[str, Any],
    extras: Mapping[str, Any] | None = None,
) -> RecordDict:
    """The content of a train reply; `info` holds "etf-sha256", "task" (see `task_digest`) and any
    other str, int, float or bytes."""
    content = RecordDict({"state": state_record(state), **_report(num_examples, metrics, info)})
    content.update(_extras_records(extras or {}))
    return content


def read_train_reply(content: RecordDict, sizes: tuple[int, int]) -> TrainReply:
    """The checked reply of a client to a train message; `sizes` are (D, B) of the server's
    layout."""
    limits.check_records(content, ("state", "metrics", "info"), ("extras", "extra-tensors"))
    state = read_state(_record(content, "state", ArrayRecord), sizes)
    limits.check_rest(content, "state")
    num_examples, metrics = read_metrics(_record(content, "metrics", MetricRecord))
    return TrainReply(state, num_examples, metrics, read_info(content), read_extras(content))


def evaluate_reply(
    predictions: ConditionPredictions, metrics: Mapping[str, float], info: Mapping[str, Any]
) -> RecordDict:
    """The content of an evaluate reply: per condition ("clean", "contaminated", ...) probabilities
    float32 (n, K) and labels int64 (n,)."""
    tensors = {f"{name}/probabilities": p.to(torch.float32) for name, (p, _) in predictions.items()}
    tensors |= {
        f"{name}/labels": labels.to(torch.int64) for name, (_, labels) in predictions.items()
    }
    num_examples = max((len(labels) for _, labels in predictions.values()), default=0)
    return RecordDict({"predictions": pack(tensors), **_report(num_examples, metrics, info)})


def read_evaluate_reply(content: RecordDict, num_classes: int) -> EvaluateReply:
    """The checked reply of a client to an evaluate message: rows match labels and sum to 1, labels
    in [0, num_classes), all finite."""
    limits.check_records(content, ("predictions", "metrics", "info"))
    limits.check_rest(content, "predictions")
    record = _record(content, "predictions", ArrayRecord)
    conditions = sorted({name.rpartition("/")[0] for name in record})
    if set(record) != {
        f"{name}/{part}" for name in conditions for part in ("probabilities", "labels")
    }:
        raise WireError(
            "predictions: expected probabilities and labels of each condition, got "
            f"{shorten_names(record)}"
        )
    predictions = {name: _read_predictions(record, name, num_classes) for name in conditions}
    num_examples, metrics = read_metrics(_record(content, "metrics", MetricRecord))
    return EvaluateReply(predictions, num_examples, metrics, read_info(content))


def read_metrics(record: MetricRecord) -> tuple[int, dict[str, float]]:
    """("num-examples", the other metrics): a whole number >= 1, and floats in their ranges."""
    values = dict(record)
    count = values.pop("num-examples", None)
    if (
        not isinstance(count, int)
        or isinstance(count, bool)
        or not 1 <= count <= limits.MOST_EXAMPLES
    ):
        raise WireError(
            "metrics: num-examples must be a whole number of at least 1, got "
            f"{shorten_value(count)}"
        )
    return count, {name: limits.check_metric(name, value) for name, value in values.items()}


def _report(
    num_examples: int, metrics: Mapping[str, float], info: Mapping[str, Any]
) -> dict[str, Any]:
    numbers = {name: float(value) for name, value in metrics.items()}
    return {
        "metrics": MetricRecord({"num-examples": int(num_examples), **numbers}),
        "info": ConfigRecord(dict(info)),
    }


def read_info(content: RecordDict) -> dict[str, Any]:
    """What a reply says of itself, with the digest of the ETF among it. Raises WireError."""
    info = dict(_record(content, "info", ConfigRecord))
    if not isinstance(info.get("etf-sha256"), str):
        raise WireError("info: etf-sha256 is missing")
    for key, value in info.items():
        if not isinstance(value, SCALARS):
            raise WireError(
                f"info: {key} must be a str, int, float or bytes, got {shorten_value(value)}"
            )
    return info


def _read_predictions(record: ArrayRecord, name: str, num_classes: int) -> tuple[Tensor, Tensor]:
    labels = unpack(record, f"{name}/labels", torch.int64)
    if labels.ndim != 1 or (
        len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes
    ):
        raise WireError(
            f"predictions: {name}/labels must be one row of class numbers in [0, {num_classes})"
        )
    probabilities = unpack(
        record, f"{name}/probabilities", torch.float32, (len(labels), num_classes)
    )
    _check_finite(f"predictions: {name}/probabilities", probabilities)
    if (
        len(probabilities)
        and not -ROUNDING
        <= float(probabilities.min())
        <= float(probabilities.max())
        <= 1 + ROUNDING
    ):
        raise WireError(f"predictions: {name}/probabilities must lie in [0, 1]")
    if (
        len(probabilities)
        and float((probabilities.sum(1, dtype=torch.float64) - 1).abs().max()) > SUMMED
    ):
        raise WireError(f"predictions: {name}/probabilities must sum to 1 over the classes")
    return probabilities, labels


def _extras_records(extras: Mapping[str, Any]) -> dict[str, ConfigRecord | ArrayRecord]:
    tensors = {name: value for name, value in extras.items() if isinstance(value, Tensor)}
    scalars = {name: value for name, value in extras.items() if name not in tensors}
    records: dict[str, ConfigRecord | ArrayRecord] = {}
    if scalars:
        records["extras"] = ConfigRecord(scalars)
    if tensors:
        records["extra-tensors"] = pack(tensors)
    return records


def _check_config(config: Mapping[str, Any]) -> None:
    for key, kind in CONFIG_KEYS.items():
        if type(config.get(key)) is not kind:
            raise WireError(
                f"config: {key} must be of type {kind.__name__}, got "
                f"{type(config.get(key)).__name__}"
            )
    for key, value in config.items():
        if not isinstance(value, SCALARS):
            raise WireError(
                f"config: {key} must be a str, int, float or bytes, got {type(value).__name__}"
            )


def _check_finite(what: str, values: Tensor) -> None:
    if fault := find_fault(values):
        raise WireError(f"{what} holds {fault}")


def _record(content: RecordDict, name: str, kind: type) -> Any:
    record = content.get(name)
    if not isinstance(record, kind):
        raise WireError(
            f"message: expected a {kind.__name__} named {name}, got {shorten_names(content)}"
        )
    return record
