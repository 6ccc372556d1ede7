"""The Grid of real sites over a made-up Flower: who is asked, who answers for whom, who is
missing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedrobust.errors import RunError
from fedrobust.runtime.engines import site_grid
from fedrobust.runtime.engines.site_grid import FederationGrid, ask, collect_site_info
from fedrobust.runtime.engines.site_numbers import Node
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.sites import RECORD, WORDS, read_assignment, site_info_reply
from tests.helpers.flower import NOWHERE, FakeFlower, echo
from tests.runtime.messages.test_upload_limits import grid_of, objects


def grid(
    flower: FakeFlower,
    nodes: dict[int, Node] | None = None,
    names: tuple[str, ...] = ("a", "b", "c"),
) -> FederationGrid:
    known = {0: Node(900, "a"), 1: Node(30, "b"), 2: Node(5, "c")} if nodes is None else nodes
    return FederationGrid(flower, known, names, size=16, classes=("x", "y"))


def messages(clients: Iterable[int] = (0, 1, 2)) -> list[Message]:
    return [
        Message(RecordDict({"config": ConfigRecord({"to": client})}), client, "train")
        for client in clients
    ]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_grid, "POLL_SECONDS", 0.01)


ALL = {30: "b", 900: "a", 5: "c"}


def test_each_message_reaches_its_site_with_its_number_and_replies_come_from_clients() -> None:
    flower = FakeFlower(dict(ALL), echo)
    one = grid(flower)
    replies = list(one.send_and_receive(messages(), timeout=5))
    assert one.get_node_ids() == [0, 1, 2]
    assert {
        sent.metadata.dst_node_id: sent.content["config"]["to"] for sent in flower.sent.values()
    } == {900: 0, 30: 1, 5: 2}
    assert {read_assignment(sent.content).client for sent in flower.sent.values()} == {0, 1, 2}
    assert all(sent.metadata.ttl == 5 for sent in flower.sent.values())
    assert sorted(
        (reply.metadata.src_node_id, reply.content["config"]["to"]) for reply in replies
    ) == [(0, 0), (1, 1), (2, 2)]


def test_a_site_that_is_away_fails_at_once_and_is_found_again_by_name() -> None:
    flower = FakeFlower({30: "b", 5: "c"}, echo)
    one = grid(flower)
    replies = {
        reply.metadata.src_node_id: reply for reply in one.send_and_receive(messages(), timeout=5)
    }
    assert replies[0].error.reason == "site a is not connected"
    assert not replies[1].has_error()
    flower.nodes[901] = "a"  # the same site under another node id
    assert not any(reply.has_error() for reply in one.send_and_receive(messages(), timeout=5))


def test_silence_becomes_an_error_after_the_deadline() -> None:
    one = grid(
        FakeFlower(
            dict(ALL), lambda message: [] if message.metadata.dst_node_id == 30 else echo(message)
        )
    )
    replies = {
        reply.metadata.src_node_id: reply for reply in one.send_and_receive(messages(), timeout=0.2)
    }
    assert {client: reply.has_error() for client, reply in replies.items()} == {
        0: False,
        1: True,
        2: False,
    }
    assert replies[1].error.reason == "no reply of site b within 0.2 s"


def test_flower_s_own_errors_are_the_client_s_that_was_asked() -> None:
    def dead(message: Message) -> list[Message]:
        reply = Message(Error(5, "Node Unavailable"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = NOWHERE
        return [reply]

    replies = list(grid(FakeFlower(dict(ALL), dead)).send_and_receive(messages([2]), timeout=5))
    assert [(reply.metadata.src_node_id, reply.error.reason) for reply in replies] == [
        (2, "Node Unavailable")
    ]


def test_what_a_client_raised_is_shown_as_python_shows_it() -> None:
    reason = "<class 'fedrobust.errors.DataError'>:<'/data: holds 'nothing''>"
    one = grid(FakeFlower(dict(ALL), lambda message: [Message(Error(2, reason), reply_to=message)]))
    [reply] = one.send_and_receive(messages([0]), timeout=5)
    assert reply.error.reason == "DataError: /data: holds 'nothing'"


def test_a_reply_that_flower_cannot_decode_is_that_site_s_failure() -> None:
    def broken(message: Message) -> list[Message]:
        if message.metadata.dst_node_id == 5:
            raise ValueError("no such record")
        return echo(message)

    replies = {
        reply.metadata.src_node_id: reply
        for reply in grid(FakeFlower(dict(ALL), broken)).send_and_receive(messages(), timeout=5)
    }
    assert replies[2].error.reason.startswith("unusable reply: Flower cannot decode it (ValueError")
    assert not replies[0].has_error()


def test_a_message_that_the_superlink_does_not_take_ends_the_run() -> None:
    flower = FakeFlower(dict(ALL), echo)
    flower.push_messages = lambda messages: []  # what HttpGrid gives for a body that is too large
    with pytest.raises(RunError, match="the SuperLink did not take a message"):
        list(grid(flower).send_and_receive(messages(), timeout=5))


def test_waiting_ends_with_the_last_site_or_with_the_time() -> None:
    told: list[str] = []
    assert [
        node.id for node in collect_site_info(FakeFlower(dict(ALL), echo), 3, (), 5, told.append)
    ] == [30, 900, 5]
    assert told == ["connected: 3 of 3 nodes: a, b, c"]
    assert len(collect_site_info(FakeFlower({30: "b"}, echo), 3, (), 0.05, told.append)) == 1
    assert (
        len(collect_site_info(FakeFlower({30: "b", 31: ""}, echo), 5, ("b",), 5, told.append)) == 2
    )


def test_asking_who_they_are() -> None:
    def answer(message: Message) -> list[Message]:
        assert read_assignment(message.content).client == -1
        if message.metadata.dst_node_id == 5:
            return [Message(RecordDict({}), reply_to=message)]
        return [
            Message(site_info_reply((7, 2, 1), 4, dict.fromkeys(WORDS, "word")), reply_to=message)
        ]

    flower = FakeFlower(dict(ALL), answer)
    unnumbered = FederationGrid(
        flower, {0: Node(900), 1: Node(5)}, ["a", "c"], size=16, classes=("x", "y"), numbered=False
    )
    found = ask(unnumbered, "{}", 5)
    assert (found[0].counts, found[0].partition) == ((7, 2, 1), 4)
    assert found[1] == "unusable answer: census: expected metrics and info"
    assert all(sent.metadata.message_type == "query" for sent in flower.sent.values())
    assert all(set(sent.content) == {"config", RECORD} for sent in flower.sent.values())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"metrics": {"train": -1}}, "must not be negative"),
        ({"metrics": {"train": 2**50}}, "must be whole numbers"),
        ({"metrics": {"train": 0.5}}, "must be whole numbers"),
        ({"metrics": {"partition-id": -2}}, "must not be negative"),
        ({"info": {"site": "=1+1"}}, "site must not begin with one of = + - @"),
        ({"info": {"site": "\x1b[2Jvienna"}}, "must be printable words"),
        ({"info": {"torch": "x" * 201}}, "must be printable words of at most 200"),
        ({"info": {"device": 3}}, "must be printable words"),
        ({"info": None}, "expected metrics and info"),
    ],
)
def test_an_answer_that_cannot_be_true_is_no_census(
    spoil: dict[str, dict[str, object] | None], reason: str
) -> None:
    def answer(message: Message) -> list[Message]:
        content = site_info_reply((7, 2, 1), 4, dict.fromkeys(WORDS, "word"))
        for name, values in spoil.items():
            content[name] = (
                ArrayRecord()
                if values is None
                else type(content[name])({**content[name], **values})
            )
        return [Message(content, reply_to=message)]

    found = ask(grid(FakeFlower({900: "a"}, answer), {0: Node(900, "a")}, ("a",)), "{}", 5)
    assert str(found[0]).startswith("unusable answer: census: ")
    assert reason in str(found[0])


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (50_000, 50_000), "numpy.ndarray", b"\x93NUMPY"),
        Array("uint8", (1,), "numpy.ndarray", bytes(2**21)),
    ],
)
def test_an_answer_of_gigabytes_is_not_fetched(array: Array) -> None:
    """Over Flower's own Grid: what a site uploads is measured while the sites are asked, as in a
    round."""
    content = site_info_reply((7, 2, 1), 4, dict.fromkeys(WORDS, "word"))
    content["bomb"] = ArrayRecord({"x": array})
    records.set_identity()
    upload = Message(content, reply_to=Message(RecordDict(), 900, "query"))
    real = grid_of(upload, objects(upload))
    flower = FakeFlower({900: "a"}, lambda _: list(real.pull_messages(["asked"])))
    found = ask(grid(flower, {0: Node(900, "a")}, ("a",)), "{}", 5)
    assert "upload: " in str(found[0])
