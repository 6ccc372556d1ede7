"""Wrong labels that a trainer suspects, beside those that are wrong. Only a simulation knows the
latter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from fedrobust.types import ClientRecord, LabelChoice, RoundRecord

# metrics of a client's reply: numbers of training images in one round
SUSPECTED, MISLABELLED, FOUND, CORRECTED = (
    "suspected",
    "mislabelled",
    "mislabelled_found",
    "mislabelled_corrected",
)


def label_counts(
    given_N: Tensor, choice: LabelChoice, true_N: Tensor | None = None
) -> dict[str, float]:
    """Counts that a client reports.

    Args:
        given_N: the labels that the trainer got.
        choice: what it made of them.
        true_N: what they should be; None: unknown, as at a real site.

    Returns:
        Images suspected; in a simulation also those mislabelled, both, and of the latter those that
        were trained with the right label.
    """
    suspected_N = choice.suspected_N.cpu()
    found = {SUSPECTED: float(suspected_N.sum())}
    if true_N is None:
        return found
    wrong_N = given_N.cpu() != true_N.cpu()
    caught_N = suspected_N & wrong_N
    corrected_N = caught_N & (choice.labels_N.cpu() == true_N.cpu())
    return found | {
        MISLABELLED: float(wrong_N.sum()),
        FOUND: float(caught_N.sum()),
        CORRECTED: float(corrected_N.sum()),
    }


@dataclass(frozen=True, slots=True)
class LabelDetection:
    """images: all that hospitals trained with. precision: share of the suspected labels that are
    wrong, recall: share of the wrong ones that are suspected, in percent, None where undefined. By
    chance they would be 100 mislabelled / images and 100 suspected / images. corrected: wrong
    labels that were replaced by the right ones."""

    images: int
    suspected: int
    mislabelled: int
    found: int
    corrected: int

    @property
    def precision(self) -> float | None:
        return 100 * self.found / self.suspected if self.suspected else None

    @property
    def recall(self) -> float | None:
        return 100 * self.found / self.mislabelled if self.mislabelled else None


def pool_label_counts(records: Iterable[RoundRecord]) -> LabelDetection | None:
    """The last counts of every client together; None where no client reported any. Counts that
    cannot be are skipped: a client may report any number."""
    last: dict[int, ClientRecord] = {
        one.client: one for record in records for one in record.clients if _is_possible(one)
    }
    if not last:
        return None
    suspected, mislabelled, found, corrected = (
        round(math.fsum(one.metrics[name] for one in last.values()))
        for name in (SUSPECTED, MISLABELLED, FOUND, CORRECTED)
    )
    images = sum(one.num_examples for one in last.values())
    return LabelDetection(images, suspected, mislabelled, found, corrected)


def _is_possible(one: ClientRecord) -> bool:
    """Whether a client reports all counts, none below 0, and none above what it is a part of."""
    suspected, mislabelled, found, corrected = (
        one.metrics.get(name, -1.0) for name in (SUSPECTED, MISLABELLED, FOUND, CORRECTED)
    )
    most = min(suspected, mislabelled)
    return 0 <= corrected <= found <= most and max(suspected, mislabelled) <= one.num_examples
