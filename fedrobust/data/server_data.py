"""The server's own images, taken out of the training images before the hospitals get theirs."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.data.dataset import TRAIN, Dataset
from fedrobust.errors import ConfigError
from fedrobust.utils.counting import format_count
from fedrobust.utils.validation import Count, check


def reserve_server_data(
    dataset: Dataset, root_per_class: int, proxy: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (root, proxy, rest), each sorted int64, disjoint, together every row; whole groups, from
    training images only.

    root: up to `root_per_class` images of every class (fewer only where whole groups do not fit, at
    least one). proxy: up to `proxy` images drawn without a look at their labels. rest: the
    hospitals' images of all three splits. Raises ConfigError when more than half of a class's or of
    all training images would leave the hospitals.
    """
    _check(dataset, root_per_class, proxy)
    rows = (dataset.splits == TRAIN).nonzero().reshape(-1)
    one_hot = torch.nn.functional.one_hot(dataset.labels[rows], dataset.num_classes)
    room = torch.full((dataset.num_classes,), root_per_class)
    root = _take(rows, dataset.groups[rows], one_hot, room, generator)
    found = torch.bincount(dataset.labels[root], minlength=dataset.num_classes)
    if root_per_class and (found == 0).any():
        name = dataset.class_names[int(found.argmin())]
        raise ConfigError(
            f"server.root_per_class={root_per_class}: no whole group of class {name} "
            "is that small; raise server.root_per_class"
        )
    left = rows[~torch.isin(rows, root)]
    chosen = _take(
        left,
        dataset.groups[left],
        torch.ones(len(left), 1, dtype=torch.int64),
        torch.tensor([proxy]),
        generator,
    )
    used = torch.zeros(len(dataset), dtype=torch.bool)
    used[root] = used[chosen] = True
    return root, chosen, (~used).nonzero().reshape(-1)


def _check(dataset: Dataset, root_per_class: int, proxy: int) -> None:
    check("server.root_per_class", root_per_class, Count)
    check("server.proxy_images", proxy, Count)
    counts = torch.bincount(dataset.labels[dataset.splits == TRAIN], minlength=dataset.num_classes)
    least = int(counts.min())
    if root_per_class > least // 2:
        name = dataset.class_names[int(counts.argmin())]
        remedy = f"try server.root_per_class={least // 2} or more images"
        raise ConfigError(
            f"server.root_per_class={root_per_class}: class {name} has only "
            f"{format_count(least, 'training image')}; {remedy}"
        )
    most = int(counts.sum()) // 2 - root_per_class * dataset.num_classes
    if proxy > most:
        raise ConfigError(
            f"server.proxy_images={proxy}: over half of the training images would leave the "
            f"hospitals; try server.proxy_images={max(most, 0)}"
        )


def _take(
    rows: Tensor, groups: Tensor, kinds_nk: Tensor, room_k: Tensor, generator: Generator
) -> Tensor:
    """Sorted rows of random whole groups that fit into the numbers left of every kind."""
    _, group_n = torch.unique(groups, return_inverse=True)
    num_groups = int(group_n.max()) + 1 if len(group_n) else 0
    contents = torch.zeros(num_groups, kinds_nk.shape[1], dtype=torch.int64).index_add_(
        0, group_n, kinds_nk
    )
    taken, room = torch.zeros(num_groups, dtype=torch.bool), room_k.clone()
    for group in torch.randperm(num_groups, generator=generator).tolist():
        if not room.any():
            break
        if (contents[group] <= room).all():
            taken[group] = True
            room -= contents[group]
    return rows[taken[group_n]]
