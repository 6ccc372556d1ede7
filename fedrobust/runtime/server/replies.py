"""Validation of the clients' replies: the first reply of every client that was asked, to what was
asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from flwr.app import Message, Metadata, RecordDict

from fedrobust.evaluation.counts import (
    ClientEvaluation,
    RoundedCounts,
    Scored,
    Withheld,
    count_images,
)
from fedrobust.experiment.claims import ClaimLimit
from fedrobust.experiment.experiment import CONDITIONS
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.arrays import WireError
from fedrobust.runtime.messages.evaluations import read_client_evaluation
from fedrobust.state import Layout, State, views
from fedrobust.types import Failure
from fedrobust.utils.counting import format_count
from fedrobust.utils.foreign_text import LINES, escape_text

# of clients.csv, which metrics must not write over
COLUMNS = {"run", "round", "client", "kind", "num_examples", "weight"}
MOST_METRICS = 16  # names of metrics that one client may use in a whole run
MOST_NOTES = 100  # of replies that are not even read
STRANGER = -1
T = TypeVar("T")


@dataclass(frozen=True)
class Expected:
    """Expected properties of the replies to one set of messages.

    task: the name of what was asked (see `records.task_digest`). claim_limit: how many training
    images of a client count. test_size: how many test images a client has, None if unknown.
    conditions: under which a client evaluates its test images; optional: those of them that a
    client may leave out, all together. metric_names: of each client those that it has used so far;
    the validator adds to them.
    """

    layout: Layout
    num_classes: int
    etf_sha256: str
    task: str
    claim_limit: Callable[[int], ClaimLimit]
    test_size: Callable[[int], int | None]
    conditions: frozenset[str] = frozenset(CONDITIONS)
    optional: frozenset[str] = frozenset()
    metric_names: dict[int, set[str]] = field(default_factory=dict)

    def wanted(self, reported: Iterable[str]) -> frozenset[str]:
        """The conditions that a reply must have which reports these."""
        leaves_out = self.optional.isdisjoint(reported)
        return self.conditions - self.optional if leaves_out else self.conditions


class ReplyValidator:
    """The replies to one set of messages. clients: {node id: client} of those who are asked.

    `notes` lists discarded replies and capped values; none of it costs a client its place in the
    round.
    """

    def __init__(self, expected: Expected, clients: Mapping[int, int]) -> None:
        self.clients = dict(clients)
        self._expected = expected
        self._sent: dict[int, Metadata] = {}
        self._notes: dict[tuple[int, str], Failure] = {}

    @property
    def notes(self) -> tuple[Failure, ...]:
        return tuple(self._notes.values())

    def register(self, messages: Iterable[Message]) -> Iterator[Message]:
        """The messages, remembered as what replies must refer to."""
        for message in messages:
            # the Grid writes the message's id into it
            self._sent[message.metadata.dst_node_id] = message.metadata
            yield message

    def accept_first(self, replies: Iterable[Message]) -> Iterator[Message]:
        """The first reply of each client to its own message; all others are discarded unread."""
        seen: set[int] = set()
        for reply in replies:
            node = reply.metadata.src_node_id
            problem = self._problem(reply.metadata, node in seen)
            if problem:
                self._note(self.clients.get(node, STRANGER), problem)
                continue
            seen.add(node)
            yield reply
            del reply  # the receiver has read it: its memory is free for the next one

    def _problem(self, reply: Metadata, again: bool) -> str:
        sent = self._sent.get(reply.src_node_id)
        if sent is None:
            return f"node {reply.src_node_id} replied without having been asked; put aside"
        if (reply.reply_to_message_id, reply.message_type) != (sent.message_id, sent.message_type):
            return "a reply to another message than this round's; put aside"
        return "a second reply to the same message; put aside" if again else ""

    def _note(self, client: int, text: str) -> None:
        if len(self._notes) < MOST_NOTES:
            self._notes[client, text] = Failure(client, escape_text(text), counts=False)

    def client_of(self, reply: Message) -> int:
        """The number of the client that answers, for one of the replies that `accept_first` let
        through."""
        return self.clients[reply.metadata.src_node_id]

    def read_train(self, message: Message) -> records.TrainReply | Failure:
        """The checked reply to a train message, with as many examples as count at most."""
        client, expected = self.client_of(message), self._expected
        if message.has_error():
            return failure(client, message)
        try:
            layout = expected.layout
            reply = records.read_train_reply(
                _content(message), (layout.num_parameters, layout.num_buffers)
            )
            self._check_info(reply.info, "trained")
            self._check_names(client, reply.metrics)
            _check_variances(layout, reply.state)
            num_examples = self._count(client, reply.num_examples)
        except WireError as error:
            return Failure(client, f"unusable reply: {error}")
        return replace(reply, num_examples=num_examples)

    def _count(self, client: int, claimed: int) -> int:
        """How many of the claimed training images count, at least 1."""
        limit = self._expected.claim_limit(client)
        if limit.count < 1:
            raise WireError(f"metrics: claims {claimed} training images, but has none")
        if claimed > limit.count:
            self._note(
                client, f"claims {claimed} training images, counted as {limit.count} ({limit.why})"
            )
        return min(claimed, limit.count)

    def _check_test_size(self, client: int, part: Scored | RoundedCounts) -> None:
        """As many images as the client is known to have; a real site rounds both numbers alike.
        (`_check_conditions` has compared the conditions.)"""
        found, known = count_images(part), self._expected.test_size(client)
        if known is not None and found != known:
            raise WireError(f"evaluated {format_count(found, 'test image')}, but has {known}")

    def _check_names(self, client: int, metrics: Mapping[str, float]) -> None:
        """Names of metrics become columns of clients.csv: none of the server's own, and few."""
        for name in metrics:
            if name in COLUMNS or name.startswith("server_"):
                raise WireError(f"metrics: {name} is a name of the server's own")
        names = self._expected.metric_names.get(client, set()) | metrics.keys()
        if len(names) > MOST_METRICS:
            raise WireError(
                f"metrics: {len(names)} names from one client in a run, more than {MOST_METRICS}"
            )
        self._expected.metric_names[client] = names

    def read_evaluate(self, message: Message) -> ClientEvaluation | Failure:
        """The checked reply to an evaluate message: what the client reports of its own test images
        under each condition."""
        client = self.client_of(message)
        if message.has_error():
            return failure(client, message)
        try:
            evaluated, info = read_client_evaluation(_content(message), self._expected.num_classes)
            self._check_info(info, "evaluated")
            if not isinstance(evaluated, Withheld):
                _check_conditions(evaluated, self._expected.wanted(evaluated))
                self._check_test_size(client, evaluated["clean"])
        except WireError as error:
            return Failure(client, f"unusable reply: {error}")
        return evaluated

    def read_checked(
        self, message: Message, read: Callable[[RecordDict], tuple[T, Mapping[str, object]]]
    ) -> T | Failure:
        """Result of `read` on a reply's content: (value, info), or a WireError."""
        client = self.client_of(message)
        if message.has_error():
            return failure(client, message)
        try:
            value, info = read(_content(message))
            self._check_info(info, "answered")
        except WireError as error:
            return Failure(client, f"unusable reply: {error}")
        return value

    def _check_info(self, info: Mapping[str, object], verb: str) -> None:
        if info["etf-sha256"] != self._expected.etf_sha256:
            raise WireError(f"{verb} against another ETF (its SHA-256 differs)")
        if info.get("task") != self._expected.task:
            raise WireError("answers another round or another configuration (a replay?)")


def _content(message: Message) -> RecordDict:
    if not message.has_content():
        raise WireError("message: holds nothing")
    return message.content


def _check_variances(layout: Layout, state: State) -> None:
    """A negative variance is finite and makes every later output NaN."""
    for name, values in views(layout.buffers, state.buffers).items():
        if name.endswith("running_var") and values.numel() and float(values.min()) < 0:
            raise WireError(f"state: {name} is a variance below 0")


def _check_conditions(
    reported: Mapping[str, Scored | RoundedCounts], wanted: frozenset[str]
) -> None:
    if set(reported) != wanted:
        found = ", ".join(sorted(reported)) or "nothing"
        raise WireError(f"evaluated {found}, not {', '.join(sorted(wanted))}")
    counts = {name: count_images(part) for name, part in sorted(reported.items())}
    if len(set(counts.values())) != 1:
        raise WireError(
            "evaluated different numbers of images: "
            f"{', '.join(f'{name} {count}' for name, count in counts.items())}"
        )


def failure(client: int, message: Message) -> Failure:
    """An error reply as a Failure: the last line of the client's traceback is the reason."""
    text = str(message.error.reason or "").strip()
    if not text:
        return Failure(client, "the client failed without saying why")
    before, _, reason = text.rpartition("\n")
    traceback = escape_text(text, LINES, multiline=True) if before else ""
    return Failure(client, escape_text(reason), traceback)
