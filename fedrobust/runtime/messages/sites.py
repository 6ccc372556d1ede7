"""Messages of a real federation: the server's assignment to each site, and a site's information on
itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedrobust.runtime.messages.arrays import WireError

RECORD = "site"
COUNTS = ("train", "validation", "test")
WORDS = ("site", "python", "torch", "flwr", "device")  # facts that a site reports of itself
LONGEST = 200  # characters of such a word
FORMULA = ("=", "+", "-", "@")  # how a formula of a spreadsheet begins


@dataclass(frozen=True, slots=True)
class SiteAssignment:
    """client: the site's number in the run (-1: not given yet). size: pixels of an image's side.
    classes: their names in order."""

    client: int
    size: int
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SiteInfo:
    """counts: images by split; partition: the node's partition-id, -1 where it has none; words:
    its other facts."""

    counts: tuple[int, int, int]
    partition: int
    words: Mapping[str, str]


def assignment_record(order: SiteAssignment) -> ConfigRecord:
    """To be added to a message under the name RECORD."""
    return ConfigRecord(
        {"client": order.client, "size": order.size, "classes": list(order.classes)}
    )


def read_assignment(content: RecordDict) -> SiteAssignment:
    """The record of a message; raises WireError where it is missing or of other types."""
    record = content.get(RECORD)
    if not isinstance(record, ConfigRecord):
        raise WireError(
            "message: does not say what a site needs to know; it comes from another "
            "version of the program"
        )
    client, size, classes = record.get("client"), record.get("size"), record.get("classes")
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (client, size))
    if (
        not whole
        or not isinstance(classes, list)
        or not all(isinstance(name, str) for name in classes)
    ):
        raise WireError(
            "message: client, size and classes of a site must be whole numbers and a list of names"
        )
    return SiteAssignment(client, size, tuple(classes))


def site_info_reply(counts: Sequence[int], partition: int, words: Mapping[str, str]) -> RecordDict:
    """A site's answer: images by split, its partition-id or -1, and words about itself (WORDS)."""
    metrics = MetricRecord(
        {name: int(count) for name, count in zip(COUNTS, counts, strict=True)}
        | {"partition-id": partition}
    )
    return RecordDict(
        {"metrics": metrics, "info": ConfigRecord({name: words[name][:LONGEST] for name in WORDS})}
    )


def read_site_info(content: RecordDict) -> SiteInfo:
    """A site's checked answer: whole numbers that are not negative, printable words of a bounded
    length. Raises WireError."""
    metrics, info = content.get("metrics"), content.get("info")
    if not isinstance(metrics, MetricRecord) or not isinstance(info, ConfigRecord):
        raise WireError("census: expected metrics and info")
    values = [metrics.get(name) for name in (*COUNTS, "partition-id")]
    if not all(
        isinstance(value, int) and not isinstance(value, bool) and value < 2**40 for value in values
    ):
        raise WireError("census: the counts of images and the partition-id must be whole numbers")
    train, validation, test, partition = values
    if min(train, validation, test) < 0 or partition < -1:
        raise WireError("census: the counts of images and the partition-id must not be negative")
    words = {name: info.get(name) for name in WORDS}
    if not all(
        isinstance(word, str) and len(word) <= LONGEST and word.isprintable()
        for word in words.values()
    ):
        raise WireError(
            f"census: {', '.join(WORDS)} must be printable words of at most {LONGEST} characters"
        )
    if words["site"].startswith(FORMULA):
        raise WireError(f"census: site must not begin with one of {' '.join(FORMULA)}")
    return SiteInfo((train, validation, test), partition, words)
