"""The partitioners of Flower Datasets (extra `partitioners`) on labels and sites of ours.

Only classes named here are used, each by its name in `flwr_datasets.partitioner`: those that share
out rows by numbers, labels or sites. Theirs that part columns, or ask for a function, are not among
them.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fedrobust.errors import ConfigError
from fedrobust.utils.validation import OneOf, Words, check_names, check_settings

NAMES = (
    "ContinuousPartitioner",
    "DirichletPartitioner",
    "DistributionPartitioner",
    "ExponentialPartitioner",
    "GroupedNaturalIdPartitioner",
    "IidPartitioner",
    "InnerDirichletPartitioner",
    "LinearPartitioner",
    "NaturalIdPartitioner",
    "PathologicalPartitioner",
    "ShardPartitioner",
    "SizePartitioner",
    "SquarePartitioner",
)
BY_SITE = ("GroupedNaturalIdPartitioner", "NaturalIdPartitioner")
OURS = {"num_partitions": "num_clients", "seed": "seed"}  # their keywords, our settings
MISSING = (
    'partition=flwr_datasets: the package is not installed; pip install "fedrobust[partitioners]"'
)


@check_settings("partition")
@dataclass(frozen=True, slots=True)
class FlowerPartitioner:
    """A partitioner of Flower Datasets.

    Attributes:
        name: its class in flwr_datasets.partitioner.
        options: its keyword arguments, without num_partitions and seed; partition_by is label
            (default, but for the natural ids) or site.
    """

    name: Annotated[str, OneOf(NAMES)]
    options: Annotated[
        Mapping[Any, Any], Words("a group of the partitioner's keyword arguments")
    ] = field(default_factory=dict)


def assign_rows(
    chosen: FlowerPartitioner,
    columns: Mapping[str, Sequence[Any]],
    num_clients: int,
    seed: int,
) -> NDArray[np.int64]:
    """The client of each row, -1 where the partitioner leaves it to none.

    Args:
        chosen: the partitioner and its options.
        columns: the rows by column: label, site.
        num_clients: how many parts it must make.
        seed: for those that draw.

    Raises:
        ConfigError: the extra is missing, an option is wrong, or it makes other parts than one for
            each client.
    """
    try:
        kind = getattr(import_module("flwr_datasets.partitioner"), chosen.name)
        make_rows = import_module("datasets").Dataset.from_dict
    except ImportError as error:
        raise ConfigError(MISSING) from error
    keywords = _keywords(chosen, kind, set(columns), num_clients, seed)
    count = len(columns["label"])
    rows = make_rows({**columns, "row": list(range(count))})
    # it speaks by warnings and bars; what it leaves out is refused by the caller
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            partitioner = kind(**keywords)
            partitioner.dataset = rows
            parts = int(partitioner.num_partitions)
            found = [partitioner.load_partition(part)["row"] for part in range(parts)]
        except Exception as error:  # whatever it raises is about its options
            line = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"partition.name={chosen.name}: {line or type(error).__name__}; "
                "change partition.options"
            ) from error
    if parts != num_clients:
        raise ConfigError(
            f"partition.name={chosen.name}: makes {parts} parts for num_clients={num_clients}; "
            f"set num_clients={parts} or change partition.options"
        )
    owners = np.full(count, -1, dtype=np.int64)
    for client, part in enumerate(found):
        owners[np.asarray(list(part), dtype=np.int64)] = client
    return owners


def _keywords(
    chosen: FlowerPartitioner,
    kind: Callable[..., Any],
    columns: set[str],
    num_clients: int,
    seed: int,
) -> dict[str, Any]:
    """Their arguments: the options, and what comes from our settings."""
    known = inspect.signature(kind).parameters
    for name, ours in OURS.items():
        if name in chosen.options:
            raise ConfigError(
                f"partition.options.{name}={chosen.options[name]}: comes from {ours}; leave it out "
                f"and set {ours}=..."
            )
    column = "site" if chosen.name in BY_SITE else "label"
    given = {"num_partitions": num_clients, "seed": seed, "partition_by": column}
    keywords = {name: value for name, value in given.items() if name in known}
    keywords |= {name: _as_array(value) for name, value in chosen.options.items()}
    check_names("partition.options", keywords, kind)
    if keywords.get("partition_by", column) not in columns:
        raise ConfigError(
            f"partition.options.partition_by={keywords['partition_by']}: must be one of "
            f"{', '.join(sorted(columns))}"
        )
    return keywords


def _as_array(value: Any) -> Any:
    """Lists of lists as the arrays that they ask for."""
    nested = isinstance(value, list) and value and all(isinstance(one, list) for one in value)
    return np.asarray(value, dtype=np.float64) if nested else value
