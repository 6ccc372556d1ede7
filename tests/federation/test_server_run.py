"""Assembly of a run by the ServerApp from the connected nodes: who gets which number, and
when a run is refused."""

from __future__ import annotations

import pytest
from flwr.app import Error, Message

from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment.experiment import Experiment
from fedrobust.federation.server_run import assemble, compose_for_sites
from fedrobust.runtime.engines import site_grid
from fedrobust.runtime.messages.sites import WORDS, site_info_reply
from tests.helpers import federations
from tests.helpers.federations import MEAN
from tests.helpers.flower import FakeFlower

NODES = {70: "c", 30: "a", 50: "b"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_grid, "POLL_SECONDS", 0.01)


@pytest.fixture
def experiment() -> Experiment:
    return federations.build_experiment(*MEAN, "poisoned=0", "partition=remote")


def answer(message: Message) -> list[Message]:
    """Each site holds as many images as its node id says."""
    node = message.metadata.dst_node_id
    return [Message(site_info_reply((node, 2, 1), -1, dict.fromkeys(WORDS, "x")), reply_to=message)]


def test_sites_are_numbered_by_their_registered_names(experiment: Experiment) -> None:
    told: list[str] = []
    grid, known = assemble(FakeFlower(dict(NODES), answer), experiment, (), 1, told.append)
    assert grid.get_node_ids() == [0, 1, 2]
    assert known.sites == ("a", "b", "c")
    assert [known.num_examples(client) for client in range(3)] == [30, 50, 70]
    assert told[1].startswith("client 0: site a: 30 training, 2 validation, 1 test image; python x")


def test_a_list_decides_who_takes_part_and_in_which_order(experiment: Experiment) -> None:
    _, known = assemble(
        FakeFlower({**NODES, 90: "d"}, answer), experiment, ("c", "d", "a"), 1, lambda _: None
    )
    assert (known.sites, known.reported_sizes) == (("c", "d", "a"), (70, 90, 30))
    few = {30: "a", 50: "b"}
    with pytest.raises(
        RunError, match=r"connected: 2 of 3 sites \(missing: c; server.max_failures=0\)"
    ):
        assemble(FakeFlower(few, answer), experiment, ("a", "b", "c"), 0.05, lambda _: None)
    patient = federations.build_experiment(
        *MEAN, "poisoned=0", "partition=remote", "server.max_failures=1"
    )
    _, known = assemble(FakeFlower(few, answer), patient, ("a", "c", "b"), 0.05, lambda _: None)
    assert (known.sites, known.reported_sizes) == (("a", "c", "b"), (30, None, 50))


def test_a_site_that_says_it_has_more_than_its_share_is_cut_down_and_that_is_said() -> None:
    """Its number is its own word: with 1,000,000 images it would weigh 0.9999."""
    experiment = federations.build_experiment(*MEAN, "poisoned=0", "partition=remote")
    told: list[str] = []
    nodes = {30: "a", 50: "b", 1_000_000: "c"}
    _, known = assemble(FakeFlower(nodes, answer), experiment, (), 1, told.append)
    assert known.reported_sizes == (30, 50, 1_000_000)
    assert known.reported_test_sizes == (1, 1, 1)
    assert [known.claim_limit(client).count for client in range(3)] == [30, 50, 160]
    assert told[-1] == (
        "client 2: counts as 160 of its 1000000 training images "
        "(server.max_share: 0.667 of all images)"
    )


def test_too_few_and_too_many(experiment: Experiment) -> None:
    with pytest.raises(
        RunError, match=r"connected: 2 of 3 sites \(connect the others, or raise wait\)"
    ):
        assemble(FakeFlower({30: "a", 50: "b"}, answer), experiment, (), 0.05, lambda _: None)
    with pytest.raises(ConfigError, match="num_clients=3: 4 nodes are connected"):
        assemble(FakeFlower({**NODES, 90: "d"}, answer), experiment, (), 1, lambda _: None)


def test_a_site_that_cannot_take_part_ends_the_run_with_its_reason(experiment: Experiment) -> None:
    def broken(message: Message) -> list[Message]:
        if message.metadata.dst_node_id != 50:
            return answer(message)
        return [
            Message(
                Error(2, "<class 'fedrobust.errors.DataError'>:<'/data: does not exist'>"),
                reply_to=message,
            )
        ]

    with pytest.raises(RunError, match="site b cannot take part: DataError: /data: does not exist"):
        assemble(FakeFlower(dict(NODES), broken), experiment, (), 1, lambda _: None)


def test_the_words_of_a_run() -> None:
    settings = compose_for_sites("rounds=2 'data.path=/a b/c.npz' data=npz", ("x", "y"))
    assert settings["partition"]["_target_"] == "fedrobust.data.partition.remote"
    assert (settings["num_clients"], settings["rounds"], settings["evaluation"]["twin"]) == (
        2,
        2,
        False,
    )
    assert settings["data"]["path"] == "/a b/c.npz"
    assert (
        compose_for_sites("partition=iid", ())["partition"]["_target_"]
        == "fedrobust.data.partition.iid"
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "rounds=2 'data=npz",
            r"^overrides=rounds=2 'data=npz: cannot be read \(No closing quotation\)",
        ),
        ("colour=3", "^colour=3: unknown key"),
        ("strategy=zigzag", "^strategy=zigzag: no such choice"),
        ("rounds", "^rounds: has no value; write rounds="),
        ("rounds=${nothing}", "nothing"),
    ],
)
def test_words_that_nobody_can_read_end_in_one_line(words: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        compose_for_sites(words, ())
    assert "\n" not in str(caught.value)
