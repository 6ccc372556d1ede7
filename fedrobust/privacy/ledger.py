"""A node's ledger of all that it has released over all runs, in a file of its own: no server can
make it forget that, or count differently.

A node that sets `max-epsilon` in its own configuration keeps the ledger `privacy-ledger` and sends
an update only under local DP and only while all updates that it ever sent stay together within that
epsilon at `privacy-delta`; of its test images it reports nothing (runtime.client.disclosure). Each
round of a run is entered before the node looks at its images for it, and once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from filelock import lock_descriptor

from fedrobust.errors import ConfigError, RefusalError
from fedrobust.privacy.accounting import epsilon
from fedrobust.privacy.mechanisms import Delta, Privacy
from fedrobust.utils.validation import NonNegative, check

LIMIT, LEDGER, DELTA = "max-epsilon", "privacy-ledger", "privacy-delta"
USUAL_DELTA = 1e-5


def keeps(node: Mapping[str, Any]) -> bool:
    """Whether the node's own configuration sets a limit."""
    return LIMIT in node


@dataclass(frozen=True, slots=True)
class Order:
    """Which order a release answers. run: Flower's number of the run; round: of the run."""

    run: int
    round: int


def check_mechanism(node: Mapping[str, Any], privacy: Privacy) -> None:
    """Raises RefusalError where the node sets a limit and the run has no local DP."""
    if keeps(node) and not privacy.noisy:
        raise RefusalError(
            "local-dp",
            f"privacy={privacy.name}: with {LIMIT}={node[LIMIT]} this node sends nothing "
            "without local DP; use privacy=local_dp",
        )


def record_release(node: Mapping[str, Any], privacy: Privacy, order: Order) -> None:
    """Enter one more update of a node that sets a limit, before any of its images is looked at:
    whatever becomes of the training, the order is answered and has cost what it costs.

    Raises RefusalError where it must not be answered: without local DP, beyond the limit, a second
    time.
    """
    check_mechanism(node, privacy)
    try:
        limit, delta = (
            check(LIMIT, node[LIMIT], NonNegative),
            check(DELTA, node.get(DELTA, USUAL_DELTA), Delta),
        )
    except ConfigError as error:
        raise RefusalError("ledger", str(error)) from error
    if not isinstance(node.get(LEDGER), str):
        raise RefusalError(
            "ledger",
            f"{LEDGER}: is missing; a node with {LIMIT} names a file there in which it counts",
        )
    try:
        with Path(node[LEDGER]).open("a+", encoding="utf-8") as file:
            lock_descriptor(file.fileno())  # given back when the file is closed
            _enter(file, order, privacy.noise_multiplier, limit, delta)
    except OSError as error:
        raise RefusalError(
            "ledger", f"{LEDGER}={node[LEDGER]}: cannot be written to ({error.strerror})"
        ) from error


def _enter(file: TextIO, order: Order, noise_multiplier: float, limit: float, delta: float) -> None:
    entries = _entries(file)
    if any((one.get("run"), one.get("round")) == (order.run, order.round) for one in entries):
        raise RefusalError(
            "repeated",
            f"round {order.round} of run {order.run}: was answered before; each is answered once",
        )
    squared = math.fsum(one["mu_squared"] for one in entries) + noise_multiplier**-2
    total = epsilon(1 / math.sqrt(squared), 1, delta)
    if total > limit:
        raise RefusalError(
            "budget",
            f"{LIMIT}={limit}: all that this node ever sent would reach "
            f"epsilon={total:.4g} now; it sends no more",
        )
    line = {
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": order.run,
        "round": order.round,
        "mu_squared": noise_multiplier**-2,
        "epsilon": total,
        "delta": delta,
    }
    file.write(json.dumps(line) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _entries(file: TextIO) -> list[dict[str, Any]]:
    """All entries: what Gaussian mechanisms cost adds up by their mu squared."""
    file.seek(0)
    try:
        entries = [json.loads(line) for line in file]
        check("mu_squared", [one["mu_squared"] for one in entries], list[NonNegative])
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise RefusalError(
            "ledger",
            f"{LEDGER}={file.name}: cannot be read, so nothing is sent; restore it from a copy",
        ) from error
    return entries
