"""State that a client keeps from one message to the next, in Flower's Context: it never leaves the
hospital."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from torch import Tensor

from fedrobust.experiment.experiment import Experiment
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.arrays import pack, unpack, unpack_any
from fedrobust.state import State


def memory_key(kind: str, order: Mapping[str, Any]) -> str:
    """Key of this run's entry in the Context, which may serve several runs (the run and
    its clean twin share a Grid)."""
    return f"{kind}-{hashlib.sha256(order['experiment'].encode()).hexdigest()}"


def load_memory(context: Context, order: Mapping[str, Any]) -> Mapping[str, Any]:
    """The trainer's memory, empty at first."""
    record = context.state.get(memory_key("memory", order))
    values = json.loads(str(record["json"])) if isinstance(record, ConfigRecord) else {}
    tensors = context.state.get(memory_key("memory-tensors", order))
    if not isinstance(tensors, ArrayRecord):
        return values
    return {**values, **{name: unpack_any(tensors, name) for name in tensors}}


def clear_memory(context: Context, order: Mapping[str, Any]) -> None:
    """A new run must not see the memory of an earlier one with the same settings."""
    for kind in ("memory", "memory-tensors", "own", "received", "personal"):
        context.state.pop(memory_key(kind, order), None)


def save_memory(
    context: Context, order: Mapping[str, Any], memory: Mapping[str, Any], own: State | None
) -> None:
    """The trainer's memory (JSON values; float32 or int64 tensors, which must not be changed
    afterwards) and, under server.batchnorm=local, the client's own BatchNorm statistics."""
    tensors = {name: value for name, value in memory.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in memory.items() if name not in tensors}
    context.state[memory_key("memory", order)] = ConfigRecord({"json": json.dumps(values)})
    context.state.pop(memory_key("memory-tensors", order), None)
    if tensors:
        context.state[memory_key("memory-tensors", order)] = pack(tensors)
    if own is not None:
        context.state[memory_key("own", order)] = records.state_record(
            State(torch.zeros(0), own.buffers)
        )


def load_personal(context: Context, order: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the client's own model by name; empty before it has one."""
    record = context.state.get(memory_key("personal", order))
    if not isinstance(record, ArrayRecord):
        return {}
    return {name: unpack(record, name, torch.float32) for name in record}


def save_personal(
    context: Context, order: Mapping[str, Any], personal: Mapping[str, Tensor]
) -> None:
    """Keep the tensors of the client's own model, where it has one. They must not be changed
    afterwards."""
    if personal:
        context.state[memory_key("personal", order)] = pack(personal)


def exchange_received(reference: State, context: Context, order: Mapping[str, Any]) -> State | None:
    """The state that this client received the last time; the one received now takes its place."""
    name = memory_key("received", order)
    record = context.state.get(name)
    context.state[name] = records.state_record(
        State(reference.parameters.clone(), reference.buffers.clone())
    )
    sizes = reference.parameters.numel(), reference.buffers.numel()
    return records.read_state(record, sizes) if isinstance(record, ArrayRecord) else None


def with_own_buffers(
    experiment: Experiment, state: State, context: Context, order: Mapping[str, Any]
) -> State:
    """The state with the client's own BatchNorm statistics, where the policy is
    server.batchnorm=local and it has some."""
    record = context.state.get(memory_key("own", order))
    if experiment.settings.server.batchnorm != "local" or not isinstance(record, ArrayRecord):
        return state
    return State(state.parameters, records.read_state(record, (0, state.buffers.numel())).buffers)
