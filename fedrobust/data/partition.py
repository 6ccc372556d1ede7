"""Partition of the images into hospitals.

Every rule draws one matrix of shares (strata x clients) and one function applies it to the
training, validation and test images alike, so a client is tested on the class mix it was trained
on. Counts follow the largest-remainder rule; images of one patient or lesion and class stay
together. What a client then lacks is moved to it from the client that has most (`ensure_min_size`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from fedrobust.data.apportionment import largest_remainder
from fedrobust.data.dataset import SPLITS, TRAIN, Dataset
from fedrobust.data.flower_partitioners import FlowerPartitioner, assign_rows
from fedrobust.errors import ConfigError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import shown_list, shown_name
from fedrobust.utils.validation import (
    Count,
    Positive,
    PositiveCount,
    check,
    check_settings,
    flatten_groups,
)

Partitioner = Callable[[Dataset, Tensor, int, Generator], list[Tensor]]
"""(data set, rows to share out (n,), number of clients, generator) -> sorted rows of each client:
disjoint, complete, and at least one image of every split for every client. Raises ConfigError where
that is impossible."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@check_settings("partition")
def iid(min_size: PositiveCount = 1) -> Partitioner:
    """Every client the same number of images and the same class mix.

    Args:
        min_size: training images that every client has at least.

    Returns:
        The rule of partition.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def shares(strata: int, clients: int, _: np.random.Generator) -> Floats:
        return np.full((strata, clients), 1 / clients)

    return _by_class(shares, min_size)


@check_settings("partition")
def dirichlet(alpha: Positive = 0.5, min_size: PositiveCount = 8) -> Partitioner:
    """Label skew: each class is shared out by a draw from a symmetric Dirichlet(alpha) over the
    clients.

    Args:
        alpha: concentration of the draw. Small: a class sits at few clients; large: iid.
        min_size: training images that every client has at least.

    Returns:
        The rule of partition.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Hsu, Qi, Brown 2019, with the draw per class of Yurochkin et al., ICML 2019.
    """

    def shares(strata: int, clients: int, random: np.random.Generator) -> Floats:
        return random.dirichlet(np.full(clients, float(alpha)), size=strata)

    return _by_class(shares, min_size)


@check_settings("partition")
def quantity(alpha: Positive = 2.0, min_size: PositiveCount = 8) -> Partitioner:
    """Size skew only: one draw from Dirichlet(alpha) over the clients decides their sizes, the
    class mix is the same everywhere.

    Args:
        alpha: concentration of the draw. Small: few clients hold most images; large: equal sizes.
        min_size: training images that every client has at least.

    Returns:
        The rule of partition.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def shares(strata: int, clients: int, random: np.random.Generator) -> Floats:
        return np.tile(random.dirichlet(np.full(clients, float(alpha))), (strata, 1))

    return _by_class(shares, min_size)


@dataclass(frozen=True, slots=True)
class BySite:
    """The natural sites; see `by_site`. min_size: training images that every client has at
    least."""

    min_size: int

    def __call__(
        self, dataset: Dataset, index: Tensor, num_clients: int, generator: Generator
    ) -> list[Tensor]:
        if dataset.site_problem:
            raise ConfigError(
                f"partition=by_site: {dataset.site_problem}; give every split its sites, or "
                "choose another partition, e.g. partition=iid"
            )
        random = _random(num_clients, generator)
        present, site_n, sizes = np.unique(
            dataset.sites[index].numpy(), return_inverse=True, return_counts=True
        )
        names = [_site_name(dataset, site) for site in present.tolist()]
        if num_clients >= len(sizes):
            shares_SC = _split_sites(sizes, num_clients)
            pools = Pools(shares_SC.argmax(0), names)
        else:
            shares_SC = _join_sites(sizes, num_clients)
            joined = [
                " + ".join(names[site] for site in np.flatnonzero(column_S))
                for column_S in shares_SC.T
            ]
            pools = Pools(np.arange(num_clients), joined)
        strata_n = site_n * dataset.num_classes + dataset.labels[index].numpy()
        shares_SC = np.repeat(shares_SC, dataset.num_classes, axis=0)
        return _share_out(
            dataset,
            index,
            strata_n,
            shares_SC,
            pools=pools,
            min_size=self.min_size,
            random=random,
        )


@check_settings("partition")
def by_site(min_size: PositiveCount = 1) -> Partitioner:
    """The natural sites. More clients than sites: the site with most images per client is split
    once more, until there are enough. Fewer: the sites are joined, biggest first, each to the
    client that is smallest so far. Images never move to a foreign site.

    Args:
        min_size: training images that every client has at least.

    Returns:
        The rule of partition.

    Raises:
        ConfigError: a setting is out of its range.
    """
    return BySite(min_size)


@dataclass(frozen=True, slots=True)
class FlowerDatasets:
    """A partitioner of Flower Datasets; see `flwr_datasets`. chosen: the partitioner. min_size:
    training images that every client has at least."""

    chosen: FlowerPartitioner
    min_size: int

    def __call__(
        self, dataset: Dataset, index: Tensor, num_clients: int, generator: Generator
    ) -> list[Tensor]:
        random = _random(num_clients, generator)
        labels_n, sites_n = dataset.labels[index].numpy(), dataset.sites[index].numpy()
        train = np.flatnonzero(dataset.splits[index].numpy() == TRAIN)
        owner_n = np.full(len(index), -1, dtype=np.int64)
        owner_n[train] = self._assign(dataset, index[torch.from_numpy(train)], num_clients, random)
        strata_n = sites_n * dataset.num_classes + labels_n
        sharing = Sharing(
            dataset.groups[index].numpy(),
            dataset.splits[index].numpy(),
            strata_n,
            _shares_as(owner_n[train], strata_n[train], dataset, num_clients),
            Pools(np.zeros(num_clients, dtype=np.int64)),
            random,
        )
        for split in range(len(SPLITS)):
            if split != TRAIN:
                _share_split(owner_n, sharing, split, 1)
        return _rows_of(index, owner_n, num_clients)

    def _assign(
        self, dataset: Dataset, train: Tensor, num_clients: int, random: np.random.Generator
    ) -> Ints:
        """The client of each training image: one row for the images of a group and class, in random
        order, as Flower shuffles."""
        pairs = torch.stack([dataset.groups[train], dataset.labels[train]])
        units, unit_n = torch.unique(pairs, dim=1, return_inverse=True)
        first_u = np.unique(unit_n.numpy(), return_index=True)[1]
        order = random.permutation(units.shape[1])
        sites = dataset.sites[train].numpy()[first_u][order]
        columns = {
            "label": units[1].numpy()[order].tolist(),
            "site": [dataset.site_names[site] for site in sites],
        }
        owner_u = np.empty(len(order), dtype=np.int64)
        owner_u[order] = assign_rows(self.chosen, columns, num_clients, int(random.integers(2**31)))
        owner_n: Ints = owner_u[unit_n.numpy()]
        self._check(dataset, dataset.labels[train].numpy(), owner_n, num_clients)
        return owner_n

    def _check(self, dataset: Dataset, labels_n: Ints, owner_n: Ints, num_clients: int) -> None:
        unused = labels_n[owner_n < 0]
        if len(unused):
            names = shown_list(dataset.class_names[label] for label in np.unique(unused))
            raise ConfigError(
                f"partition.name={self.chosen.name}: leaves {len(unused)} of "
                f"{format_count(len(owner_n), 'train image')} to no client (of {names}); change "
                "partition.options"
            )
        counts = np.bincount(owner_n, minlength=num_clients)
        if counts.min() < self.min_size:
            raise ConfigError(
                f"partition.name={self.chosen.name}: gives client {counts.argmin()} "
                f"{format_count(int(counts.min()), 'train image')}, and "
                f"partition.min_size={self.min_size}; change partition.options"
            )


@flatten_groups
@check_settings("partition")
def flwr_datasets(*, partitioner: FlowerPartitioner, min_size: PositiveCount = 1) -> Partitioner:
    """A partitioner of Flower Datasets shares out the training images; validation and test images
    follow in the same shares of each class and site. Images of one patient or lesion and class are
    one of its rows.

    Args:
        partitioner: which one; its fields are keys of their own.
        min_size: training images that every client has at least, else the partition is refused.

    Returns:
        The rule of partition.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        the extra `partitioners`

    Reference:
        Flower Datasets, flower.ai/docs/datasets.
    """
    return FlowerDatasets(partitioner, min_size)


@dataclass(frozen=True, slots=True)
class Remote:
    """The images lie at the sites of a real federation. client None: this is the server, and no
    client's images are here. Else this is the node of that client, whose images are all that there
    are; the server's own are not to be carved out of them."""

    client: int | None

    def __call__(
        self, dataset: Dataset, index: Tensor, num_clients: int, generator: Generator
    ) -> list[Tensor]:
        nothing = torch.zeros(0, dtype=torch.int64)
        return [
            index.sort().values if client == self.client else nothing
            for client in range(num_clients)
        ]


@check_settings("partition")
def remote(client: Count | None = None) -> Remote:
    """Real sites (docs/federation.md).

    Args:
        client: number of the client whose node this is; filled in by the nodes, never by hand.

    Returns:
        The rule of partition.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        real sites, of Flower
    """
    return Remote(client)


def clients_sites(dataset: Dataset, parts: Sequence[Tensor]) -> tuple[tuple[str, ...], ...]:
    """The names of the sites whose images each client holds, in the data set's order; empty for a
    data set of one site, which has no name of its own."""
    if len(dataset.site_names) == 1:
        return ()
    return tuple(
        tuple(_site_name(dataset, site) for site in torch.unique(dataset.sites[part]).tolist())
        for part in parts
    )


def _site_name(dataset: Dataset, site: int) -> str:
    return shown_name(dataset.site_names[site]) or "(no name)"


def class_table(dataset: Dataset, parts: Sequence[Tensor], split: int | None = None) -> Tensor:
    """(N, K) int64 images of each class at each client; of one split only, if named (0 train, 1
    validation, 2 test)."""
    rows = [part if split is None else part[dataset.splits[part] == split] for part in parts]
    return torch.stack(
        [torch.bincount(dataset.labels[part], minlength=dataset.num_classes) for part in rows]
    )


def _by_class(
    draw: Callable[[int, int, np.random.Generator], Floats], min_size: int
) -> Partitioner:
    def partition(
        dataset: Dataset, index: Tensor, num_clients: int, generator: Generator
    ) -> list[Tensor]:
        random = _random(num_clients, generator)
        shares_KC = draw(dataset.num_classes, num_clients, random)
        strata_n = dataset.labels[index].numpy()
        pools = Pools(np.zeros(num_clients, dtype=np.int64))
        return _share_out(
            dataset, index, strata_n, shares_KC, pools=pools, min_size=min_size, random=random
        )

    return partition


def _random(num_clients: int, generator: Generator) -> np.random.Generator:
    """A generator of numpy (torch offers no Dirichlet draw from a named generator), seeded by one
    draw from torch's."""
    check("num_clients", num_clients, PositiveCount)
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator).item()))


def _split_sites(sizes_S: Ints, num_clients: int) -> Floats:
    """(S, C) shares where every site has one client or more; the clients of a site follow each
    other and get equal parts."""
    seats = np.ones(len(sizes_S), dtype=np.int64)
    for _ in range(num_clients - len(sizes_S)):
        seats[np.argmax(sizes_S / seats)] += 1
    owner_C = np.repeat(np.arange(len(seats)), seats)
    shares_SC: Floats = (owner_C[None, :] == np.arange(len(seats))[:, None]) / seats[:, None]
    return shares_SC


def _join_sites(sizes_S: Ints, num_clients: int) -> Floats:
    """(S, C) zeros and ones: every site goes whole to one client."""
    shares_SC, loads = np.zeros((len(sizes_S), num_clients)), np.zeros(num_clients)
    for site in np.argsort(-sizes_S, kind="stable"):
        client = int(np.argmin(loads))
        shares_SC[site, client], loads[client] = 1.0, loads[client] + sizes_S[site]
    return shares_SC


@dataclass(frozen=True, slots=True)
class Pools:
    """Between which clients images may be moved. number_C: (C,) pool of each client; sites: names
    of the sites of each pool, empty where pools have nothing to do with sites."""

    number_C: Ints
    sites: Sequence[str] = ()

    def site(self, pool: int) -> str:
        return self.sites[pool] if self.sites else ""


def _share_out(
    dataset: Dataset,
    index: Tensor,
    strata_n: Ints,
    shares_SC: Floats,
    *,
    pools: Pools,
    min_size: int,
    random: np.random.Generator,
) -> list[Tensor]:
    """The one allocation: owner of every row, split by split, then the repairs (only between
    clients of one pool)."""
    groups_n, splits_n = dataset.groups[index].numpy(), dataset.splits[index].numpy()
    sharing = Sharing(groups_n, splits_n, strata_n, shares_SC, pools, random)
    owner_n = np.full(len(index), -1, dtype=np.int64)
    for split in range(len(SPLITS)):
        _share_split(owner_n, sharing, split, min_size if split == TRAIN else 1)
    return _rows_of(index, owner_n, len(pools.number_C))


@dataclass(frozen=True, slots=True)
class Sharing:
    """Rows to be shared out, and how: their groups, splits and strata (n,), the shares of each
    stratum (S, C), the pools of the clients, and the generator of what is drawn."""

    groups_n: Ints
    splits_n: Ints
    strata_n: Ints
    shares_SC: Floats
    pools: Pools
    random: np.random.Generator


def _share_split(owner_n: Ints, sharing: Sharing, split: int, need: int) -> None:
    """Set the owners of one split's rows; `need` images for each client."""
    rows = np.flatnonzero(sharing.splits_n == split)
    owner_n[rows] = _allocate(
        sharing.strata_n[rows], sharing.groups_n[rows], sharing.shares_SC, sharing.random
    )
    pools, word = sharing.pools, SPLITS[split]
    for pool in np.unique(pools.number_C).tolist():
        clients, site = np.flatnonzero(pools.number_C == pool), pools.site(pool)
        mine = rows[np.isin(owner_n[rows], clients)]
        if len(mine) < need * len(clients):
            raise _too_few(len(clients), len(mine), word, need, site)
        owner_n[mine] = ensure_min_size(
            owner_n[mine], sharing.groups_n[mine], clients, need, word, site=site
        )


def _rows_of(index: Tensor, owner_n: Ints, num_clients: int) -> list[Tensor]:
    return [
        index[torch.from_numpy(np.flatnonzero(owner_n == client))].sort().values
        for client in range(num_clients)
    ]


def _shares_as(owner_n: Ints, strata_n: Ints, dataset: Dataset, num_clients: int) -> Floats:
    """(S, C) shares of each stratum (site x class) as these rows have them; of a stratum without
    rows those of its class, or of all rows."""
    classes = dataset.num_classes
    counts_SC = np.zeros((len(dataset.site_names) * classes, num_clients))
    np.add.at(counts_SC, (strata_n, owner_n), 1)
    of_class_KC = counts_SC.reshape(-1, classes, num_clients).sum(0)
    of_class_KC[of_class_KC.sum(1) == 0] = counts_SC.sum(0)
    empty = np.flatnonzero(counts_SC.sum(1) == 0)
    counts_SC[empty] = of_class_KC[empty % classes]
    shares_SC: Floats = counts_SC / counts_SC.sum(1, keepdims=True)
    return shares_SC


def _too_few(clients: int, images: int, word: str, need: int, site: str = "") -> ConfigError:
    """site: whose images these are, where no others may be used."""
    found, wanted = format_count(images, f"{word} image"), format_count(clients, "client")
    smaller = "a smaller partition.min_size, " if need > 1 and images >= clients else ""
    if not site:
        return ConfigError(
            f"num_clients: {wanted} cannot have {need} of {found} each; try fewer clients, "
            f"{smaller}or more images"
        )
    fewer = (
        "fewer clients"
        if clients > 1 and images >= need
        else "fewer clients than sites (small ones are joined)"
    )
    lacking = f"its client needs {need}" if clients == 1 else f"its {wanted} need {need} each"
    return ConfigError(
        f"partition=by_site: site {site} has {found}, and {lacking}; choose "
        f"{fewer}, {smaller}or a partition that ignores sites, e.g. partition=iid"
    )


def _allocate(
    strata_n: Ints, groups_n: Ints, shares_SC: Floats, random: np.random.Generator
) -> Ints:
    """(n,) owners: each stratum in random order of its groups, cut where the largest-remainder
    counts say, or at the next group's start. Equal remainders go to the client that is furthest
    below its total so far, then by lot."""
    owner_n, lacking_C = np.empty(len(strata_n), dtype=np.int64), np.zeros(shares_SC.shape[1])
    for stratum in np.unique(strata_n):
        rows = np.flatnonzero(strata_n == stratum)
        group = np.unique(groups_n[rows], return_inverse=True)[1]
        rows = rows[np.argsort(random.permutation(group.max() + 1)[group], kind="stable")]
        lot = random.random(len(lacking_C)) * 1e-3
        counts = largest_remainder(len(rows), shares_SC[stratum], lacking_C + lot)
        starts = np.append(np.flatnonzero(np.diff(groups_n[rows], prepend=-1)), len(rows))
        cuts = starts[np.searchsorted(starts, np.cumsum(counts))]
        owner_n[rows] = np.searchsorted(cuts, np.arange(len(rows)), side="right")
        lacking_C += len(rows) * shares_SC[stratum] - np.bincount(
            owner_n[rows], minlength=len(lacking_C)
        )
    return owner_n


def ensure_min_size(
    owner_n: Ints, groups_n: Ints, clients: Ints, need: int, word: str, *, site: str = ""
) -> Ints:
    """Owners after moving whole groups, the smallest first, from the richest client that can spare
    one to the poorest, until each client has `need` images."""
    owner_n = owner_n.copy()
    while True:
        counts = np.array([(owner_n == client).sum() for client in clients])
        poorest = int(counts.argmin())
        if counts[poorest] >= need:
            return owner_n
        for donor in np.argsort(-counts, kind="stable"):
            own = np.flatnonzero(owner_n == clients[donor])
            values, sizes = np.unique(groups_n[own], return_counts=True)
            if counts[donor] > need and counts[donor] - sizes.min() >= need:
                owner_n[own[groups_n[own] == values[sizes.argmin()]]] = clients[poorest]
                break
        else:
            whole = f"{word} (whole groups)"
            raise _too_few(len(clients), len(owner_n), whole, need, site)
