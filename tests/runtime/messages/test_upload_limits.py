"""Flower's own Grid of SuperNodes behind the check of uploads: a SuperLink made of a dictionary,
everything else is Flower's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.superlink.grid.http_grid import HttpGrid

from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.arrays import WireError
from fedrobust.runtime.messages.upload_limits import (
    MOST_OBJECTS,
    check_upload,
    guard_uploads,
    limit_reply_size,
)
from fedrobust.state import State

INFO = {"etf-sha256": "", "task": ""}


def reply() -> Message:
    records.set_identity()
    content = records.train_reply(State(torch.arange(3.0), torch.ones(2)), 5, {"loss": 1.0}, INFO)
    return Message(content, reply_to=Message(RecordDict(), 7, "train"))


def objects(message: Message) -> dict[str, bytes]:
    return {name: one.deflate() for name, one in get_all_nested_objects(message).items()}


class SuperLink:
    """Flower's call over the uploads of one node."""

    def __init__(self, message: Message, contents: dict[str, bytes]) -> None:
        self.message, self.contents, self.confirmed = message, contents, []

    def PullMessages(self, request):  # noqa: N802
        light = message_to_proto(self.message)
        light.ClearField("content")
        light.metadata.message_id = self.message.object_id
        light.metadata.reply_to_message_id = request.message_ids[0]
        return PullAppMessagesResponse(
            messages_list=[light], message_object_trees=[get_object_tree(self.message)]
        )

    def PullObject(self, request):  # noqa: N802
        content = self.contents[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)


def grid_of(message: Message, contents: dict[str, bytes]) -> HttpGrid:
    grid = HttpGrid(token="any")
    grid._client = SuperLink(message, contents)
    grid._run = SimpleNamespace(run_id=1)
    return grid


def of_kind(contents: dict[str, bytes], kind: bytes) -> str:
    return next(name for name, content in contents.items() if content.startswith(kind + b" "))


def test_a_good_upload_arrives_as_it_is() -> None:
    message = reply()
    grid = grid_of(message, objects(message))
    with guard_uploads(1 << 20):
        (found,) = grid.pull_messages(["asked"])
    assert records.read_train_reply(found.content, (3, 2)).state.parameters.tolist() == [
        0.0,
        1.0,
        2.0,
    ]
    assert grid._client.confirmed == [message.object_id]


SPOILT = {
    "not json": (b"Array", lambda content: content[:-9] + b"{{{{{{{{{"),
    "deep": (b"Array", lambda content: _with_body(content, b'{"arraychunk_ids":' + b"[" * 100_000)),
    "kind": (b"ConfigRecord", lambda content: content.replace(b"ConfigRecord", b"Unknown")),
    "protobuf": (b"MetricRecord", lambda content: _with_body(content, b"\xff" * 40)),
    "utf-8": (b"ArrayRecord", lambda content: _with_body(content, b"\xff\xfe")),
    "chunks": (
        b"Array",
        lambda content: content.replace(b'"arraychunk_ids": [0]', b'"arraychunk_ids": [7]'),
    ),
    "negative": (
        b"Array",
        lambda content: _with_body(
            content, content.split(b"\x00", 1)[1].replace(b"[0]}", b"[-1]}")
        ),
    ),
    "length": (b"ArrayChunk", lambda content: content + b"\x00"),
    "head": (b"ArrayChunk", lambda content: b"\xff" * 100),
    "empty": (b"RecordDict", lambda content: b""),
    "many bytes": (b"ArrayChunk", lambda content: _with_body(content, bytes(3 << 20))),
    "large record": (b"ConfigRecord", lambda content: _with_body(content, bytes(2 << 20))),
    "amplified": (
        b"Array",
        lambda content: _with_body(
            content, content.split(b"\x00", 1)[1].replace(b"[0]}", b"[" + b"0," * 50_000 + b"0]}")
        ),
    ),
}


def _with_body(content: bytes, body: bytes) -> bytes:
    kind, children, _ = content.split(b"\x00", 1)[0].split(b" ")
    return b" ".join([kind, children, str(len(body)).encode()]) + b"\x00" + body


@pytest.mark.parametrize("kind", SPOILT)
def test_a_bad_upload_is_an_error_reply_to_what_was_asked(kind: str) -> None:
    what, spoil = SPOILT[kind]
    message = reply()
    contents = objects(message)
    name = of_kind(contents, what)
    contents[name] = spoil(contents[name])
    with guard_uploads(1 << 20):
        (found,) = grid_of(message, contents).pull_messages(["asked"])
    assert found.has_error()
    assert found.metadata.reply_to_message_id == "asked"
    assert "Failed to pull object" in found.error.reason
    assert len(found.error.reason) < 1000


def test_without_the_guard_flower_would_raise_or_write_it_all_out() -> None:
    """The reason for the guard. Should this fail with a later Flower, the guard may be
    superfluous."""
    message = reply()
    contents = objects(message)
    name = of_kind(contents, b"MetricRecord")
    with pytest.raises(Exception, match=r"(?i)pars|decod|wire"):
        grid_of(message, contents | {name: SPOILT["protobuf"][1](contents[name])}).pull_messages(
            ["asked"]
        )
    name = of_kind(contents, b"Array")
    (found,) = grid_of(
        message, contents | {name: SPOILT["amplified"][1](contents[name])}
    ).pull_messages(["asked"])
    # out of 100 kB
    assert max(len(array.data) for array in found.content["state"].values()) > 6_000_000


def test_the_guard_ends_with_its_context() -> None:
    from flwr.superlink.grid import http_grid

    original = http_grid.pull_objects
    replies = limit_reply_size(iter([1, 2]), 0)
    assert http_grid.pull_objects is original
    assert next(replies) == 1
    assert http_grid.pull_objects is not original
    assert list(replies) == [2]
    assert http_grid.pull_objects is original


def test_too_many_objects_and_things_in_wrong_places() -> None:
    message = reply()
    contents = objects(message)
    with pytest.raises(WireError, match="objects, more than"):
        check_upload(message.object_id, {str(number): b"" for number in range(MOST_OBJECTS + 1)}, 1)
    with pytest.raises(WireError, match="is no message"):
        check_upload(of_kind(contents, b"Array"), contents, 1 << 20)
    moved = {
        **contents,
        of_kind(contents, b"ArrayRecord"): contents[of_kind(contents, b"ConfigRecord")],
    }
    # a record where a record may lie: what it is called is looked at later
    check_upload(message.object_id, moved, 1 << 20)
    nested = dict(contents)
    name = of_kind(contents, b"Array")
    nested[name] = contents[of_kind(contents, b"ArrayRecord")]
    with pytest.raises(WireError, match="does not belong there"):
        check_upload(message.object_id, nested, 1 << 20)


def test_arrays_of_the_largest_model_that_is_expected_pass() -> None:
    # 12 MB in chunks of 5
    content = RecordDict({"state": ArrayRecord({"x": Array(torch.zeros(3 << 20))})})
    message = Message(content, reply_to=reply())
    contents = objects(message)
    check_upload(message.object_id, contents, 13 << 20)
    with pytest.raises(WireError, match="its arrays would hold 12583"):
        check_upload(message.object_id, contents, 12 << 20)
