"""Malformed and hostile messages of secure aggregation: replies through the server's
readers, orders through the app.

As in test_fuzz: a WireError, ConfigError or RunError of one printable line, or acceptance of what
an independent check accepts, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fedrobust.clients.app import app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from hypothesis import given

from fedrobust.errors import ConfigError, RunError
from fedrobust.privacy.secure import ciphers
from fedrobust.privacy.secure import client as hospital
from fedrobust.runtime.messages import records, secure
from fedrobust.runtime.messages.arrays import WireError
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.state import state_digest
from tests.helpers import federations
from tests.helpers.secure_rounds import after_key_exchange
from tests.runtime.test_fuzz import (
    BATCH,
    NUMBERS,
    PROFILE,
    SEEDS,
    fuzz,
    is_accepted,
    mutate,
    other_value,
    plain,
    valid_array,
)

INFO = {"etf-sha256": "ab" * 32, "task": "cd" * 32}
TABLE = after_key_exchange(4, 3)
SIZE = 6


def replies() -> dict[str, RecordDict]:
    """One good reply a stage, of client 0."""
    letters = {client: bytes([client]) * hospital.SEALED_BYTES for client in (1, 2, 3)}
    shares = {client: bytes(33) for client in (0, 1, 2)}
    return {
        "keys": plain(secure.reply(INFO, keys={0: TABLE.keys[0]})),
        "shares": plain(secure.reply(INFO, shares=letters)),
        "masked": plain(secure.masked_reply(INFO, torch.arange(SIZE))),
        "unmask": plain(secure.reply(INFO, seeds=shares, masks={3: bytes(33)})),
    }


READERS: dict[str, Callable[[RecordDict], Any]] = {
    "keys": lambda content: secure.read_keys(content, 0, set()),
    "shares": lambda content: secure.read_shares(content, {1, 2, 3}),
    "masked": lambda content: secure.read_masked(content, SIZE),
    "unmask": lambda content: secure.read_unmasking(content, {0, 1, 2}, {3}),
}


def valid_table(record: Any, size: int, allowed: set[int]) -> bool:
    """Written anew: what a table is."""
    if type(record) is not ConfigRecord or sorted(record) != ["bytes", "clients"]:
        return False
    clients = record["clients"]
    numbers = isinstance(clients, list) and all(
        isinstance(one, int) and not isinstance(one, bool) for one in clients
    )
    return (
        numbers
        and sorted(set(clients)) == clients
        and set(clients) <= allowed
        and len(record["bytes"]) == size * len(clients)
    )


def valid(stage: str, content: RecordDict) -> bool:
    info = content["info"]
    if set(info) != {"etf-sha256", "task"} or not all(
        isinstance(one, str) for one in info.values()
    ):
        return False
    if stage == "keys":
        return (
            set(content) == {"info", "keys"}
            and valid_table(content["keys"], 64, {0})
            and len(content["keys"]["clients"]) == 1
        )
    if stage == "shares":
        whole = content["shares"]["clients"] == [1, 2, 3]
        return (
            set(content) == {"info", "shares"}
            and valid_table(content["shares"], hospital.SEALED_BYTES, {1, 2, 3})
            and whole
        )
    if stage == "masked":
        values = valid_array(content["masked"]["values"], "int64")
        return set(content) == {"info", "masked"} and values is not None and values.shape == (SIZE,)
    tables = valid_table(content["seeds"], 33, {0, 1, 2}) and valid_table(content["masks"], 33, {3})
    return set(content) == {"info", "seeds", "masks"} and tables


def mutated(r: random.Random, content: RecordDict) -> RecordDict:
    """Half the time as any message is, else a table in which something is not as it should be."""
    names = [
        name
        for name, record in content.items()
        if isinstance(record, ConfigRecord) and "clients" in record
    ]
    if not names or r.random() < 0.5:
        return mutate(r, content)
    name = r.choice(names)
    clients, text = list(content[name]["clients"]), bytes(content[name]["bytes"])
    kind = r.randrange(7)
    if kind == 0:
        r.shuffle(clients)
    elif kind == 1:
        clients = [r.choice([*range(6), -1, 2**20, 2**62]) for _ in range(r.randrange(6))]
    elif kind == 2:
        text = text[: r.randrange(len(text) + 1)]
    elif kind == 3:
        text += r.randbytes(r.choice([1, 33, 64]))
    elif kind == 4:
        text = r.randbytes(len(text))
    elif kind == 5 and clients:
        place, size = r.randrange(len(clients)), len(text) // max(len(clients), 1)
        del clients[place]
        text = text[: size * place] + text[size * (place + 1) :]
    try:
        table: Any = ConfigRecord({"clients": clients, "bytes": text})
        if kind == 6:
            table = ConfigRecord(
                {"clients": other_value(r), "bytes": r.choice([text, r.choice(NUMBERS)])}
            )
    except (TypeError, OverflowError):  # what no network delivers either
        return content
    return RecordDict({**content, name: table})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("stage", READERS)
def test_replies(stage: str) -> None:
    good = replies()[stage]

    def batch(seed: int) -> int:
        r, accepted = random.Random(seed), 0
        for number in range(BATCH // 2):
            content = mutated(r, good)
            accepted += is_accepted(
                f"secure {stage}",
                seed,
                number,
                lambda: READERS[stage](content),  # noqa: B023
                lambda: valid(stage, content),  # noqa: B023
            )
        return accepted

    assert fuzz(batch) >= 20


# --- orders through the app ---


def orders() -> Iterator[tuple[str, RecordDict]]:
    """(kind, a good order) for each stage but training, as client 0 of three gets them in turn."""
    server = build_server_context(
        federations.build_experiment("strategy=fedavg", "privacy=secure_aggregation", "poisoned=0")
    )
    config = {**server.message_config(1), records.STATE_DIGEST: state_digest(server.initial)}
    yield "train.keys", secure.stage_message(config)
    yield "train.shares", secure.stage_message(config, keys=after_key_exchange(3, 2).keys)
    yield "train.unmask", secure.stage_message(config, survivors={0: b"", 1: b""})


ORDERS = dict(orders())


@PROFILE
@given(SEEDS)
def test_orders(seed: int) -> None:
    """A client that has answered nothing, or only the first message, and gets anything: it answers,
    or refuses in one line."""
    r = random.Random(seed)
    records.set_identity()
    for _ in range(BATCH // 5):
        context = Context(
            1, 0, {"partition-id": 0, "num-partitions": 3, "simulation": True}, RecordDict(), {}
        )
        if r.random() < 0.7:
            app(Message(ORDERS["train.keys"], 0, "train.keys"), context)
        kind = r.choice(list(ORDERS))
        before = dict(next(iter(context.state.values()), {}))
        try:
            reply = app(Message(mutated(r, plain(ORDERS[kind])), 0, kind), context)
        except (WireError, ConfigError, RunError) as error:
            assert str(error).isprintable()  # noqa: PT017
            assert len(str(error)) < 2100  # noqa: PT017
            # nothing is remembered of what was refused
            assert dict(next(iter(context.state.values()), {})) == before
            continue
        assert kind != "train.unmask"  # without a masked update there is nothing to unmask
        assert set(reply.content) == {"info", kind.removeprefix("train.")}


def test_keys_that_leave_no_secret() -> None:
    """The points of small order (RFC 7748, section 6.1): agreement with one of them gives a key
    that everybody knows."""
    small = [0, 1, 2**255 - 19 - 1, 2**255 - 19, 2**255 - 18]
    small += [325606250916557431795983626356110631294008115727848805560023387167927233504]
    small += [39382357235489614581723060781553021112529911719440698176882885853963445705823]
    assert not any(ciphers.leaves_a_secret(one.to_bytes(32, "little")) for one in small)
    assert all(
        ciphers.leaves_a_secret(both[:32]) and ciphers.leaves_a_secret(both[32:])
        for both in TABLE.keys.values()
    )


def test_an_array_of_gigabytes_is_refused_by_its_numbers() -> None:
    record = ArrayRecord()
    array = replies()["masked"]["masked"]["values"]
    array.shape = (2_500_000_000,)
    record["values"] = array
    with pytest.raises(WireError, match=r"values: expected the shape \(6,\)"):
        secure.read_masked(RecordDict({"info": ConfigRecord(INFO), "masked": record}), SIZE)
