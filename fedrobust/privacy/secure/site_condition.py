"""A hospital's own condition, which no message can change: its update leaves in a sum of at least
so many hospitals, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrobust.errors import ConfigError, RefusalError
from fedrobust.privacy.mechanisms import Privacy, SumOf
from fedrobust.utils.validation import check

CONDITION = "sum-of-at-least"  # in the node's own configuration


def check_site_condition(node: Mapping[str, Any], privacy: Privacy, threshold: int) -> None:
    """Raises ConfigError where the node sets the condition and the run does not keep to it.
    threshold: of how many hospitals the run opens a sum at least, under secure aggregation."""
    if CONDITION not in node:
        return
    try:
        least = check(CONDITION, node[CONDITION], SumOf)
    except ConfigError as error:
        raise RefusalError("node", str(error)) from error
    if not privacy.secure:
        raise RefusalError(
            "sums",
            f"privacy={privacy.name}: with {CONDITION}={least} this node sends sums "
            "only; use privacy=secure_aggregation",
        )
    if threshold < least:
        raise RefusalError(
            "sums",
            f"privacy.threshold={threshold}: with {CONDITION}={least} this node sends "
            "nothing; raise it",
        )
