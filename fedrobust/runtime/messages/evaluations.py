"""What a client's answer to an evaluate message holds: predictions (`records.evaluate_reply`), or,
of a real site, rounded counts or a reason why there is nothing.

A reply of counts is {"counts": ArrayRecord, "metrics", "info"} with a matrix of counts for each
condition; one that reports nothing is {"withheld": ConfigRecord, "info"} with a code of
`counts.REASONS`: no text of the site's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedrobust.errors import ConfigError
from fedrobust.evaluation.counts import REASONS, ClientEvaluation, MinCell, RoundedCounts, Withheld
from fedrobust.runtime.messages import limits, records
from fedrobust.runtime.messages.arrays import WireError, pack, unpack
from fedrobust.runtime.messages.limits import shorten_names, shorten_value
from fedrobust.utils.counting import format_count
from fedrobust.utils.validation import check

COUNTS, WITHHELD = "counts", "withheld"  # records that mark the two kinds of reply
MOST_IMAGES = 1 << 40


def counts_reply(counts: Mapping[str, RoundedCounts], info: Mapping[str, Any]) -> RecordDict:
    """The content of a reply of counts by condition, of which there is at least one; all are of the
    same images."""
    one = next(iter(counts.values()))
    return RecordDict(
        {
            COUNTS: pack({name: part.cells_KK for name, part in counts.items()}),
            "metrics": MetricRecord({"images": one.images, "min-cell": one.min_cell}),
            "info": ConfigRecord(dict(info)),
        }
    )


def withheld_reply(withheld: Withheld, info: Mapping[str, Any]) -> RecordDict:
    """The content of a reply that reports nothing of the site's test images."""
    return RecordDict(
        {WITHHELD: ConfigRecord({"code": withheld.code}), "info": ConfigRecord(dict(info))}
    )


def read_client_evaluation(
    content: RecordDict, num_classes: int
) -> tuple[ClientEvaluation, Mapping[str, Any]]:
    """(evaluation, info) of a client's checked reply, whatever its kind. Raises WireError."""
    if WITHHELD in content:
        return _read_withheld(content)
    if COUNTS in content:
        return _read_counts(content, num_classes)
    reply = records.read_evaluate_reply(content, num_classes)
    return reply.predictions, reply.info


def _read_withheld(content: RecordDict) -> tuple[Withheld, Mapping[str, Any]]:
    limits.check_records(content, (WITHHELD, "info"))
    limits.check_rest(content)
    record = content[WITHHELD]
    code = record.get("code") if isinstance(record, ConfigRecord) else None
    if not isinstance(code, str) or code not in REASONS or len(record) > 1:
        raise WireError(f"{WITHHELD}: expected a code of {', '.join(REASONS)}")
    return Withheld(code), records.read_info(content)


def _read_counts(
    content: RecordDict, num_classes: int
) -> tuple[dict[str, RoundedCounts], Mapping[str, Any]]:
    limits.check_records(content, (COUNTS, "metrics", "info"))
    limits.check_rest(content, COUNTS)
    record = content[COUNTS]
    if not isinstance(record, ArrayRecord) or not record:
        raise WireError(f"{COUNTS}: expected a matrix for each condition")
    images, min_cell = _read_numbers(content)
    matrices = {
        name: unpack(record, name, torch.int64, (num_classes, num_classes))
        for name in sorted(record)
    }
    for name, matrix in matrices.items():
        _check_matrix(name, matrix, images, min_cell)
    counts = {name: RoundedCounts(one, images, min_cell) for name, one in matrices.items()}
    return counts, records.read_info(content)


def _read_numbers(content: RecordDict) -> tuple[int, int]:
    record = content["metrics"]
    if not isinstance(record, MetricRecord) or set(record) != {"images", "min-cell"}:
        raise WireError(f"metrics: expected images and min-cell, got {shorten_names(record)}")
    images, min_cell = record["images"], record["min-cell"]
    try:
        check("min-cell", min_cell, MinCell)
    except ConfigError as error:
        raise WireError(f"metrics: {error}") from None
    if type(images) is not int or not 0 <= images < MOST_IMAGES or images % min_cell:
        raise WireError(
            f"metrics: images must be a multiple of min-cell={min_cell}, got "
            f"{shorten_value(images)}"
        )
    return images, min_cell


def _check_matrix(name: str, matrix: Tensor, images: int, min_cell: int) -> None:
    """Counts as `counts.round_counts` gives them: nothing else fits the site's number of images."""
    if int(matrix.min()) < 0 or int(matrix.max()) > images or bool((matrix % min_cell).any()):
        raise WireError(
            f"{COUNTS}: {name} must hold multiples of min-cell={min_cell}, none of them above the "
            f"{format_count(images, 'image')}"
        )
    left = images - int(matrix.sum())
    if not 0 <= left <= matrix.numel() * (min_cell - 1) + 1:
        raise WireError(
            f"{COUNTS}: {name} holds other numbers than its "
            f"{format_count(images, 'image')} can give"
        )
