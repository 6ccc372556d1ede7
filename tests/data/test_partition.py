"""Sharing out images: golden counts, and laws over random data sets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.data import SPLITS, Dataset, partition
from fedrobust.data.apportionment import largest_remainder
from fedrobust.data.partition import (
    Partitioner,
    by_site,
    class_table,
    clients_sites,
    dirichlet,
    iid,
    quantity,
)
from fedrobust.errors import ConfigError
from fedrobust.utils.seeding import generator
from tests.helpers.datasets import one_pixel_dataset

RULES = {
    "iid": iid(),
    "dirichlet": dirichlet(0.3, min_size=2),
    "quantity": quantity(1.0, min_size=2),
    "by_site": by_site(),
}


def share(rule: Partitioner, data: Dataset, clients: int, seed: int = 0) -> list[Tensor]:
    return rule(data, torch.arange(len(data)), clients, generator(seed, "test"))


def balanced(per_cell: int, classes: int = 2, sites: int = 2) -> Dataset:
    """`per_cell` images of every (split, class, site)."""
    cells = torch.cartesian_prod(
        torch.arange(3), torch.arange(classes), torch.arange(sites), torch.arange(per_cell)
    )
    return one_pixel_dataset(cells[:, 1], splits=cells[:, 0], sites=cells[:, 2])


def test_largest_remainder_by_hand() -> None:
    # 10 seats, shares .47 .16 .37: quotas 4.7 1.6 3.7, floors 4 1 3, the two seats left go to the
    # remainders .7 (twice)
    assert largest_remainder(10, np.array([0.47, 0.16, 0.37])).tolist() == [5, 1, 4]
    # equal quotas 3.33: the one seat left goes to the highest tie break, else to the first
    assert largest_remainder(10, np.ones(3)).tolist() == [4, 3, 3]
    assert largest_remainder(10, np.ones(3), np.array([0.0, 0.0, 1.0])).tolist() == [3, 3, 4]


@given(
    total=st.integers(0, 500),
    weights=st.lists(st.floats(0, 10), min_size=1, max_size=9).filter(lambda w: sum(w) > 0.1),
)
@settings(max_examples=40)
def test_largest_remainder_sums_up_and_stays_near_its_quota(
    total: int, weights: list[float]
) -> None:
    shares = np.array(weights)
    counts = largest_remainder(total, shares)
    assert counts.sum() == total
    assert np.abs(counts - total * shares / shares.sum()).max() < 1 + 1e-6


def test_iid_by_hand() -> None:
    # every split holds 2 classes x 2 sites x 3 = 6 images a class; 3 clients: 2 of each class and
    # split
    data = balanced(per_cell=3)
    parts = share(iid(), data, 3)
    for split in range(3):
        assert class_table(data, parts, split).tolist() == [[2, 2]] * 3
    assert class_table(data, parts).tolist() == [[6, 6]] * 3


@given(clients=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_iid_sizes_differ_by_one_at_most(clients: int, seed: int) -> None:
    labels = torch.arange(300).remainder(7).sort().values
    data = one_pixel_dataset(labels)
    parts = share(iid(), data, clients, seed)
    for split in range(3):
        counts = class_table(data, parts, split)
        assert counts.sum(1).max() - counts.sum(1).min() <= 1
        assert (counts.max(0).values - counts.min(0).values).max() <= 1


def test_one_share_matrix_serves_all_three_splits() -> None:
    # 200 images of each class in each split: the same shares must give the same counts in each
    data = balanced(per_cell=100, classes=5)
    parts = share(dirichlet(0.5, min_size=1), data, 6)
    train, validation, test = (class_table(data, parts, split) for split in range(3))
    assert (train - validation).abs().max() <= 1
    assert (train - test).abs().max() <= 1
    assert train.float().std() > 30  # and it is no iid split: equal parts would have 33 everywhere


def test_dirichlet_draws_have_the_dirichlet_spread() -> None:
    # a share of a symmetric Dirichlet over C clients has variance (1/C)(1 - 1/C) / (C alpha + 1): C
    # = 4, alpha = .5: .1875 / 3 = .0625
    data = balanced(per_cell=100, classes=4, sites=1)
    shares = [
        class_table(data, share(dirichlet(0.5, min_size=1), data, 4, seed), 0) / 100
        for seed in range(30)
    ]
    assert torch.stack(shares).var().item() == pytest.approx(0.0625, rel=0.15)


def test_quantity_keeps_the_class_mix() -> None:
    data = balanced(per_cell=200, classes=3)
    counts = class_table(data, share(quantity(0.8, min_size=5), data, 5), 0)
    assert (counts.max(1).values - counts.min(1).values).max() <= 1
    assert counts.sum(1).max() > 2 * counts.sum(1).min()


def test_by_site_with_as_many_clients_as_sites_is_the_sites() -> None:
    data = balanced(per_cell=4, sites=3)
    for site, part in enumerate(share(by_site(), data, 3)):
        assert torch.equal(part, (data.sites == site).nonzero().reshape(-1))


def site_sizes(*sizes: int) -> Dataset:
    """Sites of these many images per split, one class."""
    sites = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).repeat(3)
    return one_pixel_dataset(
        torch.zeros_like(sites), splits=torch.arange(3).repeat_interleave(sum(sizes)), sites=sites
    )


def test_by_site_splits_the_biggest_and_joins_the_smallest() -> None:
    # 60, 30, 10 for five clients: 60 -> two of 30; then 30 (site 0, halves), 30 (site 1): the first
    # again -> three of 20
    data = site_sizes(60, 30, 10)
    parts = share(by_site(), data, 5)
    assert class_table(data, parts, 0).reshape(-1).tolist() == [20, 20, 20, 30, 10]
    assert [data.sites[part].unique().tolist() for part in parts] == [[0], [0], [0], [1], [2]]
    # for two clients: 60 to the first, 30 to the second (empty), 10 to the second (30 < 60)
    assert class_table(data, share(by_site(), data, 2), 0).reshape(-1).tolist() == [60, 40]


def test_by_site_never_borrows_from_a_foreign_site() -> None:
    data = balanced(per_cell=2)
    lonely = one_pixel_dataset(
        data.labels, splits=torch.where(data.sites == 1, 0, data.splits), sites=data.sites
    )
    with pytest.raises(
        ConfigError,
        match=r"partition=by_site: site site 1 has 0 validation images, and its client needs 1; "
        r"choose fewer clients than sites \(small ones are joined\), or a partition that ignores "
        r"sites, e\.g\. partition=iid",
    ):
        share(by_site(), lonely, 2)
    assert len(share(by_site(), lonely, 1)[0]) == len(lonely)


def test_a_site_with_too_few_images_for_its_clients_is_named_with_what_helps() -> None:
    data = site_sizes(6, 2)
    with pytest.raises(
        ConfigError,
        match=r"site site 0 has 6 train images, and its 3 clients need 4 each; choose fewer "
        r"clients, a smaller partition\.min_size, or a partition",
    ):
        share(by_site(min_size=4), data, 4)
    with pytest.raises(ConfigError, match=r"site site 0 \+ site 1 has 8 train images"):
        share(by_site(min_size=9), data, 1)
    assert len(share(by_site(), data, 4)) == 4  # a smaller min_size, as the line says


def test_clients_are_named_by_the_sites_they_hold() -> None:
    data = site_sizes(60, 30, 10)
    assert clients_sites(data, share(by_site(), data, 4)) == (
        ("site 0",),
        ("site 0",),
        ("site 1",),
        ("site 2",),
    )
    assert clients_sites(data, share(by_site(), data, 2)) == (("site 0",), ("site 1", "site 2"))
    alone = balanced(per_cell=4, sites=1)
    assert clients_sites(alone, share(by_site(), alone, 2)) == ()


def test_the_poor_get_their_minimum() -> None:
    # alpha = .01 gives each of the 2 classes to practically one client: four of the six clients
    # have nothing before the repairs
    data = balanced(per_cell=40)
    counts = [
        class_table(data, share(dirichlet(0.01, min_size=10), data, 6), split).sum(1)
        for split in range(3)
    ]
    assert counts[0].min() >= 10
    assert counts[1].min() >= 1
    assert counts[2].min() >= 1


@pytest.mark.parametrize("name", RULES)
def test_rows_that_are_not_in_the_index_stay_out(name: str) -> None:
    data = balanced(per_cell=10)
    index = torch.arange(0, len(data), 2)
    parts = RULES[name](data, index, 2, generator(0))
    assert torch.equal(torch.cat(parts).sort().values, index)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """120 to 200 images, up to 4 classes and 3 sites, lesions of up to three images of one
    class."""
    count, seed = draw(st.integers(120, 200)), draw(st.integers(0, 999))
    source = torch.Generator().manual_seed(seed)
    groups = torch.randint(2 * count // 3, (count,), generator=source)
    kinds, places = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    labels = torch.randint(kinds, (count,), generator=source)[groups]
    return one_pixel_dataset(
        torch.unique(labels, return_inverse=True)[1],
        sites=torch.randint(places, (count,), generator=source),
        groups=groups,
    )


@pytest.mark.parametrize("name", ["iid", "dirichlet", "quantity"])
@given(data=datasets(), clients=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_laws(name: str, data: Dataset, clients: int, seed: int) -> None:
    parts = share(RULES[name], data, clients, seed)
    assert len(parts) == clients
    # disjoint and complete
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(data)))
    for part in parts:
        assert part.dtype == torch.int64
        assert torch.equal(part, part.sort().values)
        assert set(data.splits[part].tolist()) == set(range(len(SPLITS)))
    assert all(
        torch.equal(one, two)
        for one, two in zip(parts, share(RULES[name], data, clients, seed), strict=True)
    )


@given(data=datasets(), clients=st.integers(2, 3), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_lesions_of_one_class_stay_at_one_client(data: Dataset, clients: int, seed: int) -> None:
    for part in (parts := share(RULES["dirichlet"], data, clients, seed)):
        others = torch.cat([other for other in parts if other is not part])
        assert not torch.isin(data.groups[part], data.groups[others]).any()


def test_another_seed_gives_another_partition() -> None:
    data = balanced(per_cell=20)
    assert not torch.equal(share(iid(), data, 2, 0)[0], share(iid(), data, 2, 1)[0])


def test_the_inputs_stay_as_they_are() -> None:
    data = balanced(per_cell=5)
    index = torch.arange(len(data))
    RULES["dirichlet"](data, index, 3, generator(0))
    assert torch.equal(index, torch.arange(len(data)))
    assert data.digest == balanced(per_cell=5).digest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dirichlet(alpha=0), "partition.alpha=0: must be greater than 0"),
        (lambda: dirichlet(alpha="big"), "partition.alpha=big: must be a number"),
        (lambda: quantity(alpha=-1), "partition.alpha=-1"),
        (lambda: iid(min_size=0), "partition.min_size=0"),
        (lambda: by_site(min_size=1.5), "partition.min_size=1.5"),
    ],
)
def test_wrong_settings_are_refused_at_once(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_too_many_clients_are_refused_in_one_line() -> None:
    data = balanced(per_cell=1)  # 4 images in each split
    with pytest.raises(
        ConfigError, match=r"num_clients: 5 clients cannot have 1 of 4 train images each"
    ) as caught:
        share(iid(), data, 5)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="num_clients=0"):
        share(iid(), data, 0)
    with pytest.raises(ConfigError, match="3 of 4 train"):
        share(iid(min_size=3), data, 2)


def test_repairs_find_a_donor_that_is_not_the_richest() -> None:
    # class 0: one lesion of 6 images (client with most images, nothing to spare); class 1: three
    # single images
    groups = torch.tensor([0] * 6 + [1, 2, 3])
    owners = partition.ensure_min_size(
        np.array([0] * 6 + [1] * 3), groups.numpy(), np.arange(3), 1, "train"
    )
    assert owners.tolist() == [0] * 6 + [2, 1, 1]


def test_a_group_too_big_to_share_is_refused() -> None:
    groups = torch.tensor([0] * 10 + [1] * 10 + [2] * 10)
    data = one_pixel_dataset(
        torch.zeros(30, dtype=torch.int64),
        splits=torch.arange(3).repeat_interleave(10),
        groups=groups,
    )
    with pytest.raises(ConfigError, match="whole groups"):
        share(iid(), data, 2)


def test_the_module_offers_what_the_configs_name() -> None:
    assert all(callable(getattr(partition, name)) for name in RULES)
