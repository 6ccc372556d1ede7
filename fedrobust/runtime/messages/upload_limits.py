"""Checks of a SuperNode's upload, before Flower makes a message of it: a reply is a tree of
objects, each a short head and a body.

Flower (1.41) believes them: an array's body names the chunks that make it up, and may name one
chunk a million times, so that a few kilobytes become any number of gigabytes in the server's
memory; what cannot be decoded raises all kinds of exceptions. Here the tree is measured first, by
its structure alone, and what is too large or cannot be decoded becomes Flower's own error reply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, inflate_object_from_contents

from fedrobust.errors import ConfigError
from fedrobust.runtime.messages.arrays import WireError
from fedrobust.utils import strict_json

# What may lie inside what.
CHILDREN: Mapping[str, frozenset[str]] = {
    "Message": frozenset({"RecordDict"}),
    "RecordDict": frozenset({"ArrayRecord", "ConfigRecord", "MetricRecord"}),
    "ArrayRecord": frozenset({"Array"}),
    "Array": frozenset({"ArrayChunk"}),
    "ArrayChunk": frozenset(),
    "ConfigRecord": frozenset(),
    "MetricRecord": frozenset(),
}
HEAD_BYTES = 1 << 20
BODY_BYTES = 1 << 20  # of everything but chunks: names, shapes, settings, metrics
MOST_OBJECTS = 20_000
ROOM = 256 << 20  # beside a model: what a site says of each of its test images


@dataclass(frozen=True, slots=True)
class UploadObject:
    """One uploaded object: its kind, the ids of what lies in it, and its body."""

    kind: str
    children: tuple[str, ...]
    body: memoryview


def check_upload(root: str, contents: Mapping[str, bytes], most_bytes: int) -> None:
    """Raises WireError unless the objects are a message whose arrays, written out, hold at most
    `most_bytes`."""
    if len(contents) > MOST_OBJECTS:
        raise WireError(f"upload: {len(contents)} objects, more than {MOST_OBJECTS}")
    uploads = {name: _read_object(content) for name, content in contents.items()}
    if root not in uploads or uploads[root].kind != "Message":
        raise WireError("upload: is no message")
    for upload in uploads.values():
        for name in upload.children:
            if name not in uploads or uploads[name].kind not in CHILDREN[upload.kind]:
                raise WireError(f"upload: something in a {upload.kind} that does not belong there")
    written = sum(
        _written(upload, uploads) for upload in uploads.values() if upload.kind == "Array"
    )
    if written > most_bytes:
        raise WireError(f"upload: its arrays would hold {written} bytes, more than {most_bytes}")


def _read_object(content: bytes) -> UploadObject:
    end = content.find(b"\x00", 0, HEAD_BYTES)
    kind, _, rest = content[: max(end, 0)].decode("ascii", "replace").partition(" ")
    if kind not in CHILDREN:
        raise WireError("upload: an object of an unknown kind")
    children, _, length = rest.partition(" ")
    body = memoryview(content)[end + 1 :]
    if length != str(len(body)) or (kind != "ArrayChunk" and len(body) > BODY_BYTES):
        raise WireError(f"upload: a {kind} with a body of {len(body)} bytes")
    return UploadObject(kind, tuple(children.split(",")) if children else (), body)


def _written(array: UploadObject, uploads: Mapping[str, UploadObject]) -> int:
    """Bytes of an array when all chunks that it names have been put together."""
    try:
        numbers = strict_json.read_object(bytes(array.body).decode(), "upload").get(
            "arraychunk_ids"
        )
    except (ConfigError, UnicodeDecodeError) as error:
        raise WireError(f"upload: an array that cannot be read ({error})") from error
    if not isinstance(numbers, list) or not all(
        type(number) is int and 0 <= number < len(array.children) for number in numbers
    ):
        raise WireError("upload: an array of chunks that are not there")
    return sum(len(uploads[array.children[number]].body) for number in numbers)


@contextmanager
def guard_uploads(most_bytes: int) -> Iterator[None]:
    """Within it Flower's Grid of SuperNodes gives an error reply instead of any upload that
    `check_upload` refuses or Flower cannot decode.

    A private touch of Flower (1.41): the function by which its Grid fetches uploads is another one
    meanwhile.
    """
    from flwr.superlink.grid import http_grid

    original = http_grid.pull_objects
    http_grid.pull_objects = limit_uploads(original, most_bytes)
    try:
        yield
    finally:
        http_grid.pull_objects = original


def limit_reply_size(replies: Iterable[Message], model_bytes: int) -> Iterator[Message]:
    """The replies that a Grid of SuperNodes fetches meanwhile, each no larger than a model and
    `ROOM`."""
    with guard_uploads(model_bytes + ROOM):
        yield from replies


def limit_uploads(
    pull_objects: Callable[..., dict[str, bytes]], most_bytes: int
) -> Callable[..., dict[str, bytes]]:
    """Flower's `pull_objects`, which fetches objects by their ids (the last is the message), with
    every check. It raises Flower's ObjectPullError, and stops fetching as soon as there is too
    much."""

    def pull(
        object_ids: Sequence[str], pull_object_fn: Callable[[str], bytes], **options: Any
    ) -> dict[str, bytes]:
        names, room = list(object_ids), [most_bytes + BODY_BYTES]
        root = names[-1] if names else ""
        if len(names) > MOST_OBJECTS:
            raise ObjectPullError(root, f"upload: {len(names)} objects, more than {MOST_OBJECTS}")

        def one(name: str) -> bytes:
            content = pull_object_fn(name)
            room[0] -= len(content)
            if room[0] < 0:
                raise ObjectPullError(name, f"upload: more than {most_bytes} bytes")
            return content

        contents = pull_objects(names, one, **options)
        try:
            check_upload(root, contents, most_bytes)
            inflate_object_from_contents(root, dict(contents))
        # any exception of Flower's decoder, RecursionError and MemoryError included
        except Exception as error:
            raise ObjectPullError(
                root, str(WireError(f"{type(error).__name__}: {error}"))
            ) from None
        return contents

    return pull
