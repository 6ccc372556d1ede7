"""Replies of counts, and those that tell nothing: what comes back, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedrobust.evaluation.counts import RoundedCounts, Withheld
from fedrobust.runtime.messages import evaluations
from fedrobust.runtime.messages.arrays import WireError, pack

INFO = {"etf-sha256": "", "task": "x"}
CELLS = torch.tensor([[10, 0], [5, 15]])


def reply(cells: torch.Tensor = CELLS, images: int = 35, min_cell: int = 5) -> RecordDict:
    counts = RoundedCounts(cells, images, min_cell)
    return evaluations.counts_reply({"clean": counts, "contaminated": counts}, INFO)


def changed(**records: object) -> RecordDict:
    return RecordDict({**reply(), **records})


def test_counts_come_back() -> None:
    told, info = evaluations.read_client_evaluation(reply(), 2)
    assert info == INFO
    assert not isinstance(told, Withheld)
    assert set(told) == {"clean", "contaminated"}
    for part in told.values():
        assert isinstance(part, RoundedCounts)
        assert torch.equal(part.cells_KK, CELLS)
        assert (part.images, part.min_cell) == (35, 5)


def test_a_reason_comes_back_as_its_code() -> None:
    content = evaluations.withheld_reply(Withheld("max-epsilon"), INFO)
    assert evaluations.read_client_evaluation(content, 2) == (Withheld("max-epsilon"), INFO)


BAD: dict[str, tuple[Callable[[], RecordDict], str]] = {
    "another number of classes": (
        lambda: reply(torch.zeros(3, 3, dtype=torch.int64)),
        "expected the shape",
    ),
    "a count below 0": (lambda: reply(CELLS - 15), "multiples of min-cell=5"),
    "a count above all images": (lambda: reply(CELLS + 30), "multiples of min-cell=5"),
    "a count that is not rounded": (lambda: reply(CELLS + 1), "multiples of min-cell=5"),
    "too many counted images": (lambda: reply(images=25), "other numbers than its 25 images"),
    "too few counted images": (lambda: reply(images=50), "other numbers than its 50 images"),
    "numbers of images that are not rounded": (lambda: reply(images=36), "a multiple of"),
    "images below 0": (lambda: reply(images=-5), "a multiple of"),
    "more images than there are": (lambda: reply(images=5 << 40), "a multiple of"),
    "a cell of two": (lambda: reply(min_cell=2), "min-cell=2: must be 1"),
    "a cell of nothing": (lambda: reply(min_cell=0), "min-cell=0: must be 1"),
    "floats": (lambda: changed(counts=pack({"clean": CELLS.float()})), "expected int64"),
    "no matrix": (lambda: changed(counts=pack({})), "a matrix for each condition"),
    "another kind of record": (lambda: changed(counts=ConfigRecord({})), "a matrix for each"),
    "more numbers": (
        lambda: changed(metrics=MetricRecord({"images": 35, "min-cell": 5, "auroc": 0.5})),
        "expected images and min-cell",
    ),
    "a further record": (lambda: changed(more=ConfigRecord({})), "expected the records"),
    "an unknown reason": (
        lambda: evaluations.withheld_reply(Withheld("because"), INFO),
        "withheld: expected a code of",
    ),
    "a reason with a text": (
        lambda: RecordDict(
            {
                "withheld": ConfigRecord({"code": "max-epsilon", "text": "x"}),
                "info": ConfigRecord(INFO),
            }
        ),
        "withheld: expected a code of",
    ),
    "no info": (lambda: RecordDict({"withheld": ConfigRecord({"code": "max-epsilon"})}), "info"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_no_site_can_have_counted_is_refused(what: str) -> None:
    make, words = BAD[what]
    with pytest.raises(WireError, match=words):
        evaluations.read_client_evaluation(make(), 2)
