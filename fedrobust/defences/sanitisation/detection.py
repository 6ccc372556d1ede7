"""Detection rates of a sanitiser on altered images. Only an experiment can know them: it holds the
images as they were before the contamination."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrobust.types import ClientRecord, RoundRecord, Samples
from fedrobust.utils.images import as_unit

# metrics of a client's reply: numbers of images in one round
DROPPED, ALTERED, FOUND = "dropped", "altered", "found"
BATCH = 256


def altered_rows(clean: Samples, now: Samples, *, triggered: bool) -> Tensor:
    """(N,) bool: the label was changed or, with `triggered`, the image (where the contamination
    plants a trigger, every changed image carries it). Noise on an image alone is no alteration that
    a defence should find."""
    changed_N = clean.labels.cpu() != now.labels.cpu()
    if not triggered or clean.images is now.images:
        return changed_N
    pairs = zip(torch.split(clean.images, BATCH), torch.split(now.images, BATCH), strict=True)
    differs = [
        (as_unit(one.cpu()) != as_unit(two.cpu())).flatten(1).any(dim=1) for one, two in pairs
    ]
    return changed_N | torch.cat(differs) if differs else changed_N


def detection_counts(kept_N: Tensor, altered_N: Tensor | None) -> dict[str, float]:
    """Counts that a client reports: images dropped; in a simulation also those altered, and those
    both (None: unknown)."""
    dropped_N = ~kept_N
    if altered_N is None:
        return {DROPPED: float(dropped_N.sum())}
    return {
        DROPPED: float(dropped_N.sum()),
        ALTERED: float(altered_N.sum()),
        FOUND: float((dropped_N & altered_N).sum()),
    }


@dataclass(frozen=True, slots=True)
class Detection:
    """images: all that were examined. precision: share of the dropped that were altered, recall:
    share of the altered that were dropped, in percent, None where undefined. By chance they would
    be 100 altered / images and 100 dropped / images."""

    images: int
    dropped: int
    altered: int
    found: int

    @property
    def precision(self) -> float | None:
        return 100 * self.found / self.dropped if self.dropped else None

    @property
    def recall(self) -> float | None:
        return 100 * self.found / self.altered if self.altered else None


def pool_detections(records: Iterable[RoundRecord], warmup: int) -> Detection | None:
    """All decisions of all clients in the rounds after the warm-up together (an image is looked at
    anew in every round). None where no client reported any. Counts that cannot be are skipped: a
    client may report any number."""
    reports = [
        one
        for record in records
        if record.number > warmup
        for one in record.clients
        if _is_possible(one)
    ]
    if not reports:
        return None
    totals: Mapping[str, int] = {
        name: round(math.fsum(one.metrics[name] for one in reports))
        for name in (DROPPED, ALTERED, FOUND)
    }
    images = sum(one.num_examples for one in reports) + totals[DROPPED]
    return Detection(images, totals[DROPPED], totals[ALTERED], totals[FOUND])


def _is_possible(one: ClientRecord) -> bool:
    """Whether a client reports all counts, none below 0, and none above what it is a part of."""
    dropped, altered, found = (one.metrics.get(name, -1.0) for name in (DROPPED, ALTERED, FOUND))
    images = one.num_examples + dropped
    return 0 <= found <= min(dropped, altered) and altered <= images < math.inf
