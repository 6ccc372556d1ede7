"""Client numbers of real sites: never by the order in which their nodes happened to connect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedrobust.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Node:
    """A connected node. id: Flower's number of it. registered: the name that the server's
    administrator gave to its key, or "". site: what it calls itself, or "". partition: its
    partition-id, or -1."""

    id: int
    registered: str = ""
    site: str = ""
    partition: int = -1

    @property
    def name(self) -> str:
        """The registered name, which the node cannot choose, else its own word."""
        return (
            self.registered
            or self.site
            or (f"partition {self.partition}" if self.partition >= 0 else "")
        )


def number_sites(nodes: Sequence[Node]) -> list[Node]:
    """The nodes by client number: by partition-id where every node has one, else in the
    alphabetical order of their names.

    Raises ConfigError where two nodes claim the same place, or where nothing distinguishes them.
    """
    partitions = sorted(node.partition for node in nodes)
    if partitions and partitions[0] >= 0:
        if partitions != list(range(len(nodes))):
            raise ConfigError(
                f"partition-id: the nodes have {partitions}, not 0 to "
                f"{len(nodes) - 1} once each; mend their node configs"
            )
        return sorted(nodes, key=lambda node: node.partition)
    _check_names(nodes)
    return sorted(nodes, key=lambda node: node.name)


def list_nodes(nodes: Sequence[Node], names: Sequence[str]) -> Mapping[int, Node]:
    """{client number: node} where the sites that take part are listed: a site's number is its place
    in the list, whether its node is there or not; nodes that are not on the list are left out.
    Raises ConfigError where two nodes have one of the names."""
    chosen = [node for node in nodes if node.name in names]
    _check_names(chosen)
    return {names.index(node.name): node for node in chosen}


def _check_names(nodes: Sequence[Node]) -> None:
    names = [node.name for node in nodes]
    if "" in names:
        raise ConfigError(
            "site: a node has no name; register its key with --name, or set site in "
            "every node's config"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"site={twice[0]}: {names.count(twice[0])} nodes have this name; register "
            "them under different ones"
        )
