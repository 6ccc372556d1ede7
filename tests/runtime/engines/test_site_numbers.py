"""A client's number is its partition-id or its place among the names, for any order of
connection."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.runtime.engines.site_numbers import Node, list_nodes, number_sites


def test_partition_ids_decide_where_all_nodes_have_one() -> None:
    nodes = [Node(77, "a", "", 2), Node(5, "c", "", 0), Node(6, "b", "", 1)]
    assert [node.id for node in number_sites(nodes)] == [5, 6, 77]


def test_names_decide_otherwise_and_the_registered_one_comes_first() -> None:
    nodes = [Node(1, "", "vienna"), Node(2, "queensland", "aaa"), Node(3, "molemax", "", 0)]
    assert [(node.id, node.name) for node in number_sites(nodes)] == [
        (3, "molemax"),
        (2, "queensland"),
        (1, "vienna"),
    ]


@given(
    order=st.permutations(range(5)),
    ids=st.lists(st.integers(1, 2**63), min_size=5, max_size=5, unique=True),
    named=st.booleans(),
)
@settings(max_examples=40)
def test_the_order_of_connection_and_the_node_ids_do_not_matter(
    order: list[int], ids: list[int], named: bool
) -> None:
    nodes = [
        Node(ids[one], f"site {one}" if named else "", "", -1 if named else one) for one in range(5)
    ]
    assert [node.id for node in number_sites([nodes[one] for one in order])] == ids


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        (
            [Node(1, "", "", 0), Node(2, "", "", 0)],
            r"partition-id: the nodes have \[0, 0\], not 0 to 1 once each",
        ),
        ([Node(1, "", "", 1), Node(2, "", "", 2)], r"partition-id: the nodes have \[1, 2\]"),
        ([Node(1, "a"), Node(2, "", "a")], "site=a: 2 nodes have this name"),
        ([Node(1, "a"), Node(2)], "site: a node has no name; register its key with --name"),
    ],
)
def test_places_that_are_claimed_twice_or_cannot_be_told_apart(
    nodes: list[Node], words: str
) -> None:
    for shuffled in itertools.permutations(nodes):
        with pytest.raises(ConfigError, match=words):
            number_sites(list(shuffled))


def test_a_list_gives_every_site_its_place_even_where_some_are_missing() -> None:
    nodes = [Node(9, "c"), Node(8, "stranger"), Node(7, "a")]
    assert {client: node.id for client, node in list_nodes(nodes, ["a", "b", "c"]).items()} == {
        0: 7,
        2: 9,
    }
    with pytest.raises(ConfigError, match="site=a: 2 nodes"):
        list_nodes([*nodes, Node(6, "", "a")], ["a", "b"])
