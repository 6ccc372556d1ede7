"""What a node reports of its test images: its own configuration decides, no message can.

A simulated client reports the predictions of each image. A real site reports rounded counts
(`fedrobust.evaluation.counts`), of one model in a run, with `share-personal=true` also of its own
one where client=ditto or the like gives it one; with `share-predictions=true` predictions;
nothing where it counts its privacy loss (`max-epsilon`), and, unless `share-counts=true`, where its
updates leave in sums only (`sum-of-at-least`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context, RecordDict

from fedrobust.errors import ConfigError, RefusalError
from fedrobust.evaluation.counts import (
    USUAL_CELL,
    MinCell,
    RoundedCounts,
    Withheld,
    round_counts,
    round_images,
)
from fedrobust.privacy import ledger
from fedrobust.privacy.secure import site_condition
from fedrobust.runtime.messages import evaluations, records
from fedrobust.runtime.messages.records import ConditionPredictions
from fedrobust.utils.validation import check

MIN_CELL = "min-cell"
SHARE_PREDICTIONS = "share-predictions"
SHARE_COUNTS = "share-counts"
SHARE_PERSONAL = "share-personal"
EVALUATED = "evaluated"  # in the Context, which a run has for itself


def find_reason(node: Mapping[str, Any]) -> Withheld | None:
    """Reason why this node reports nothing of its test images; None where it reports something."""
    if ledger.keeps(node):
        return Withheld("max-epsilon")
    # any other word than true is no permission
    allowed = node.get(SHARE_COUNTS) is True
    if site_condition.CONDITION in node and not allowed:
        return Withheld("sum-of-at-least")
    return Withheld("share-counts") if SHARE_COUNTS in node and not allowed else None


def shares_predictions(node: Mapping[str, Any]) -> bool:
    """Whether predictions of single images may leave this node."""
    if node.get("simulation") is True:
        return True
    insists = find_reason(node) is not None or site_condition.CONDITION in node
    return node.get(SHARE_PREDICTIONS) is True and not insists


def reports_personal(node: Mapping[str, Any]) -> bool:
    """Whether anything about a second model, the client's own, may leave this node: without
    predictions only with `share-personal`, since two matrices of the same images say more of them
    than one."""
    return shares_predictions(node) or node.get(SHARE_PERSONAL) is True


def read_min_cell(node: Mapping[str, Any]) -> int:
    """The node's smallest cell, images. Raises RefusalError: a wrong one is the node's to mend."""
    try:
        return int(check(MIN_CELL, node.get(MIN_CELL, USUAL_CELL), MinCell))
    except ConfigError as error:
        raise RefusalError("node", str(error)) from error


def reported_images(node: Mapping[str, Any], number: int, num_classes: int) -> int:
    """The node's number of test images as it may be reported."""
    if shares_predictions(node):
        return number
    return round_images(number, num_classes, read_min_cell(node))


def evaluate_once(context: Context) -> None:
    """Note that this run has had its answer. Raises RefusalError for a second one: differences
    between the counts of many models would show single images."""
    if EVALUATED in context.state:
        raise RefusalError(
            "evaluated", "this node has evaluated a model in this run; it evaluates one in a run"
        )
    context.state[EVALUATED] = ConfigRecord({"models": 1})


def disclose(
    predictions: ConditionPredictions, node: Mapping[str, Any], info: Mapping[str, Any]
) -> RecordDict:
    """The content of the reply with these predictions, in the form in which they may leave."""
    if shares_predictions(node):
        return records.evaluate_reply(predictions, {}, info)
    if not all(scores.isfinite().all() for scores, _ in predictions.values()):
        return evaluations.withheld_reply(Withheld("not-finite"), info)
    cell = read_min_cell(node)
    counts: dict[str, RoundedCounts] = {
        name: round_counts(labels, scores.argmax(dim=1), scores.shape[1], cell)
        for name, (scores, labels) in predictions.items()
    }
    return evaluations.counts_reply(counts, info)
