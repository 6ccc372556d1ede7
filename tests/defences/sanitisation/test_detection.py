"""Counts of altered and found images, and their intervals."""

from __future__ import annotations

import torch

from fedrobust.defences.sanitisation.detection import (
    Detection,
    altered_rows,
    detection_counts,
    pool_detections,
)
from fedrobust.types import ClientRecord, RoundRecord, Samples
from fedrobust.utils.images import as_unit
from tests.helpers import models


def test_flipped_and_triggered_samples_are_altered() -> None:
    clean = models.samples(6)
    images, labels = as_unit(clean.images), clean.labels.clone()
    images[1, 0, 0, 0] = 1 - images[1, 0, 0, 0]
    labels[4] = (labels[4] + 1) % 3
    assert altered_rows(clean, Samples(clean.images, labels), triggered=True).tolist() == [
        False
    ] * 4 + [True, False]
    both = Samples(images, labels)
    # noise is no alteration
    assert altered_rows(clean, both, triggered=False).nonzero().flatten().tolist() == [4]
    assert altered_rows(clean, both, triggered=True).nonzero().flatten().tolist() == [1, 4]
    # bytes or floats, the same
    assert not altered_rows(
        clean, Samples(as_unit(clean.images), clean.labels), triggered=True
    ).any()
    nothing = clean.take(torch.tensor([], dtype=torch.int64))
    assert (
        altered_rows(
            nothing, Samples(nothing.images.clone(), nothing.labels), triggered=True
        ).tolist()
        == []
    )


def test_counts_by_hand() -> None:
    kept, bad = (
        torch.tensor([True, False, False, True, False]),
        torch.tensor([True, True, False, False, True]),
    )
    assert detection_counts(kept, bad) == {"dropped": 3.0, "altered": 3.0, "found": 2.0}
    assert detection_counts(kept, None) == {"dropped": 3.0}


def test_rounds_after_the_warm_up_are_pooled() -> None:
    def client(number: int, examples: int, **found: float) -> ClientRecord:
        return ClientRecord(number, examples, 0.5, {"loss": 1.0, **found})

    records = [
        RoundRecord(0, {}),
        RoundRecord(1, {}, (client(0, 10, dropped=0.0, altered=4.0, found=0.0),)),
        # client 1 belongs to an attacker
        RoundRecord(2, {}, (client(0, 8, dropped=2.0, altered=4.0, found=1.0), client(1, 20))),
        RoundRecord(3, {}, (client(0, 7, dropped=3.0, altered=4.0, found=3.0),)),
    ]
    # rounds 2 and 3: 8 + 2 + 7 + 3 images, 5 left out, 8 altered, 4 both: precision 4/5, recall 4/8
    found = pool_detections(records, warmup=1)
    assert found == Detection(images=20, dropped=5, altered=8, found=4)
    assert (found.precision, found.recall) == (80.0, 50.0)
    assert pool_detections(records, warmup=3) is None
    assert pool_detections(records[:1], warmup=0) is None


def test_what_is_undefined() -> None:
    assert (Detection(9, 0, 3, 0).precision, Detection(9, 0, 3, 0).recall) == (None, 0.0)
    assert (Detection(9, 3, 0, 0).precision, Detection(9, 3, 0, 0).recall) == (0.0, None)


def test_counts_that_cannot_be_are_skipped() -> None:
    good = {"dropped": 2.0, "altered": 4.0, "found": 1.0}
    bad = (
        {"found": 1.0},
        good | {"altered": 11.0},
        good | {"dropped": -1.0},
        good | {"found": 3.0},
    )
    clients = [ClientRecord(place, 8, 0.5, one) for place, one in enumerate((good, *bad))]
    assert pool_detections([RoundRecord(1, {}, tuple(clients))], 0) == Detection(10, 2, 4, 1)
    assert pool_detections([RoundRecord(1, {}, tuple(clients[1:]))], 0) is None
