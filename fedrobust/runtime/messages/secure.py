"""The messages of secure aggregation: tables {client: so many bytes}, and a masked update.

An order adds tables to the usual settings, a reply is {"info", its tables} or {"info", "masked"}. A
table travels as a ConfigRecord of the clients' numbers in ascending order and of all clients' bytes
in a row; one of no bytes is a list of clients.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedrobust.privacy.secure.ciphers import KEY_BYTES, leaves_a_secret
from fedrobust.privacy.secure.client import KEYS_BYTES, SEALED_BYTES
from fedrobust.privacy.secure.secret_sharing import SHARE_BYTES
from fedrobust.privacy.secure.server import RevealedSecrets
from fedrobust.runtime.messages import limits
from fedrobust.runtime.messages.arrays import WireError, pack, unpack
from fedrobust.utils.counting import format_count

ByteTable = Mapping[int, bytes]
HIGHEST = 1 << 20  # more than any client's number


def stage_digest(task_of_round: str, stage: str) -> str:
    """Digest that the reply to one of a round's messages repeats (see `records.task_digest`)."""
    return f"{task_of_round} {stage}"


def stage_message(config: Mapping[str, Any], **tables: ByteTable) -> RecordDict:
    """The content of a message without a model; `config` as in `records.train_message`."""
    return RecordDict(
        {
            "config": ConfigRecord(dict(config)),
            **{name: table_record(one) for name, one in tables.items()},
        }
    )


def table_record(table: ByteTable) -> ConfigRecord:
    """To be added to a message."""
    clients = sorted(table)
    return ConfigRecord(
        {"clients": clients, "bytes": b"".join(table[client] for client in clients)}
    )


def read_table(content: RecordDict, name: str, size: int) -> dict[int, bytes]:
    """The table of a message, each of its entries of `size` bytes. Raises WireError."""
    record = content.get(name)
    if not isinstance(record, ConfigRecord) or set(record) != {"clients", "bytes"}:
        raise WireError(
            f"message: expected a table named {name}, got {limits.shorten_names(content)}"
        )
    clients, text = record["clients"], record["bytes"]
    if not isinstance(clients, list) or not all(
        type(one) is int and 0 <= one < HIGHEST for one in clients
    ):
        raise WireError(f"{name}: the clients must be a list of their numbers")
    if any(one >= other for one, other in pairwise(clients)):
        raise WireError(f"{name}: the clients must stand in ascending order, each once")
    if type(text) is not bytes or len(text) != size * len(clients):
        raise WireError(
            f"{name}: expected {size} bytes for each of "
            f"{format_count(len(clients), 'client')}, got {limits.shorten_value(text)}"
        )
    return {client: text[size * place : size * (place + 1)] for place, client in enumerate(clients)}


def reply(info: Mapping[str, Any], **tables: ByteTable) -> RecordDict:
    """The content of a reply; `info` as in `records.train_reply`."""
    return RecordDict(
        {
            "info": ConfigRecord(dict(info)),
            **{name: table_record(one) for name, one in tables.items()},
        }
    )


def read_keys(content: RecordDict, client: int, seen: set[bytes]) -> tuple[bytes, dict[str, Any]]:
    """(both public keys, info) of a client's checked reply; seen: the round's keys so far, to which
    these are added. Raises WireError, as the following do."""
    tables, info = _read_reply(content, {"keys": KEYS_BYTES})
    if set(tables["keys"]) != {client}:
        raise WireError("keys: are not those of the client that was asked")
    keys = tables["keys"][client]
    halves = {keys[:KEY_BYTES], keys[KEY_BYTES:]}
    if not all(leaves_a_secret(one) for one in halves):
        raise WireError("keys: a public key with which nothing stays secret")
    if len(halves) < 2 or halves & seen:
        raise WireError("keys: one of them came before")
    seen |= halves
    return keys, info


def read_shares(
    content: RecordDict, receivers: Collection[int]
) -> tuple[dict[int, bytes], dict[str, Any]]:
    """({receiver: sealed shares}, info): exactly one for each."""
    tables, info = _read_reply(content, {"shares": SEALED_BYTES})
    if set(tables["shares"]) != set(receivers):
        raise WireError(
            f"shares: expected those for {len(receivers)} other clients, got "
            f"{len(tables['shares'])} or others"
        )
    return tables["shares"], info


def read_unmasking(
    content: RecordDict, survivors: Collection[int], lost: Collection[int]
) -> tuple[RevealedSecrets, dict[str, Any]]:
    """(shares of survivors' seeds and of lost clients' mask keys, info). A client that could not
    open a message has no share to give."""
    tables, info = _read_reply(content, {"seeds": SHARE_BYTES, "masks": SHARE_BYTES})
    if not set(tables["seeds"]) <= set(survivors) or not set(tables["masks"]) <= set(lost):
        raise WireError("shares: of other clients than those they were asked of")
    return RevealedSecrets(tables["seeds"], tables["masks"]), info


def masked_reply(info: Mapping[str, Any], vector: Tensor) -> RecordDict:
    """The content of the reply that holds an int64 vector."""
    return RecordDict({"info": ConfigRecord(dict(info)), "masked": pack({"values": vector})})


def read_masked(content: RecordDict, size: int) -> tuple[Tensor, dict[str, Any]]:
    """(the (size,) int64 vector, info) of a checked reply. Any whole numbers will do: that is the
    point of a mask."""
    limits.check_records(content, ("info", "masked"))
    limits.check_rest(content, "masked")
    record = content["masked"]
    if not isinstance(record, ArrayRecord) or set(record) != {"values"}:
        raise WireError(f"masked: expected the array values, got {limits.shorten_names(record)}")
    return unpack(record, "values", torch.int64, (size,)), _read_info(content)


def _read_reply(
    content: RecordDict, sizes: Mapping[str, int]
) -> tuple[dict[str, dict[int, bytes]], dict[str, Any]]:
    """({name: table}, info); sizes: {name: bytes of an entry}."""
    limits.check_records(content, ("info", *sizes))
    limits.check_rest(content)
    return {name: read_table(content, name, size) for name, size in sizes.items()}, _read_info(
        content
    )


def _read_info(content: RecordDict) -> dict[str, Any]:
    info = content["info"]
    if (
        not isinstance(info, ConfigRecord)
        or set(info) != {"etf-sha256", "task"}
        or not all(type(value) is str for value in info.values())
    ):
        raise WireError("info: expected the words etf-sha256 and task")
    return dict(info)
