"""Clients' states (their Contexts' records) as plain nested values for `fedrobust.utils.nested`,
and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedrobust.runtime.messages.arrays import FlatArray

SCALARS: Mapping[str, Any] = {"config": ConfigRecord, "metrics": MetricRecord}


def to_plain(states: Mapping[int, RecordDict]) -> dict[int, dict[str, Any]]:
    """{client: {name: {"kind": "arrays" | "config" | "metrics", "items": {...}}}}; arrays share
    their memory."""
    return {
        client: {name: _plain_record(record) for name, record in state.items()}
        for client, state in states.items()
    }


def from_plain(plain: Mapping[int, Mapping[str, Any]]) -> dict[int, RecordDict]:
    """The inverse of `to_plain`."""
    return {
        client: RecordDict({name: _record(one) for name, one in state.items()})
        for client, state in plain.items()
    }


def _plain_record(record: Any) -> dict[str, Any]:
    if isinstance(record, ArrayRecord):
        return {
            "kind": "arrays",
            "items": {name: _plain_array(array) for name, array in record.items()},
        }
    kind = next(name for name, one in SCALARS.items() if isinstance(record, one))
    return {"kind": kind, "items": dict(record)}


def _plain_array(array: Any) -> dict[str, Any]:
    if isinstance(array, FlatArray):
        return {"vector": torch.from_numpy(array.numpy())}
    return {
        "dtype": array.dtype,
        "shape": tuple(array.shape),
        "stype": array.stype,
        "data": array.data,
    }


def _record(plain: Mapping[str, Any]) -> Any:
    items = plain["items"]
    if plain["kind"] != "arrays":
        return SCALARS[plain["kind"]](dict(items))
    record = ArrayRecord()
    for name, one in items.items():
        record[name] = (
            FlatArray(one["vector"].numpy())
            if "vector" in one
            else Array(one["dtype"], one["shape"], one["stype"], one["data"])
        )
    return record
