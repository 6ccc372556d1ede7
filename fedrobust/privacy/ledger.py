"""A node's ledger of all that it has released over all runs, in a file of its own: no server can
make it forget that, or count differently.

A node that sets `max-epsilon` in its own configuration keeps the ledger `privacy-ledger` and sends
an update only under local DP and only while all updates that it ever sent stay together within that
epsilon at `privacy-delta`; of its test images it reports nothing (runtime.client.disclosure).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from filelock import lock_descriptor

from fedrobust.errors import ConfigError
from fedrobust.privacy.accounting import epsilon
from fedrobust.privacy.mechanisms import Delta, Privacy
from fedrobust.utils.validation import NonNegative, check

LIMIT, LEDGER, DELTA = "max-epsilon", "privacy-ledger", "privacy-delta"
USUAL_DELTA = 1e-5


def keeps(node: Mapping[str, Any]) -> bool:
    """Whether the node's own configuration sets a limit."""
    return LIMIT in node


def record_release(node: Mapping[str, Any], privacy: Privacy) -> None:
    """Enter one more update before it is sent; nothing where the node sets no limit. Raises
    ConfigError where it must not be sent."""
    if not keeps(node):
        return
    limit, delta = (
        check(LIMIT, node[LIMIT], NonNegative),
        check(DELTA, node.get(DELTA, USUAL_DELTA), Delta),
    )
    if not isinstance(node.get(LEDGER), str):
        raise ConfigError(
            f"{LEDGER}: is missing; a node with {LIMIT} names a file there in which it counts"
        )
    if not privacy.noisy:
        raise ConfigError(
            f"privacy={privacy.name}: with {LIMIT}={limit} this node sends nothing "
            "without local DP; use privacy=local_dp"
        )
    with Path(node[LEDGER]).open("a+", encoding="utf-8") as file:
        lock_descriptor(file.fileno())  # given back when the file is closed
        _enter(file, privacy.noise_multiplier, limit, delta)


def _enter(file: TextIO, noise_multiplier: float, limit: float, delta: float) -> None:
    squared = _spent(file) + noise_multiplier**-2
    total = epsilon(1 / math.sqrt(squared), 1, delta)
    if total > limit:
        raise ConfigError(
            f"{LIMIT}={limit}: all that this node ever sent would reach "
            f"epsilon={total:.4g} now; it sends no more"
        )
    line = {
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "mu_squared": noise_multiplier**-2,
        "epsilon": total,
        "delta": delta,
    }
    file.write(json.dumps(line) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _spent(file: TextIO) -> float:
    """The sum of mu squared over all entries: what Gaussian mechanisms cost adds up so."""
    file.seek(0)
    try:
        entries = [json.loads(line)["mu_squared"] for line in file]
        return math.fsum(check("mu_squared", entries, list[NonNegative]))
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise ConfigError(
            f"{LEDGER}={file.name}: cannot be read, so nothing is sent; restore it from a copy"
        ) from error
