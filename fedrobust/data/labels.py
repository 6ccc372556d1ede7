"""Classes from the words of a table or of folders: one spelling each, one class an image, in an
order that depends on nothing else."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fedrobust.errors import DataError
from fedrobust.utils.counting import format_count
from fedrobust.utils.names import UNSHOWN_KINDS, clean_name, shown_name
from fedrobust.utils.validation import check_settings

# how numpy and pandas write into a table that there is nothing
MISSING = ("", "nan", "NaN", "<NA>", "NaT")
# between several labels of an image; but for the first only where each part is a label itself
BETWEEN = ("|", ";", ",", "/", "+", "&", " ")
FRAME = "[](){}'\" "  # around them, where a list was written as text
NUMBER = re.compile(r"[+-]?\d{1,15}([.,]\d{1,15})?")
DIGITS = 18  # longest label that is compared as a number


@check_settings("data")
@dataclass(frozen=True, slots=True)
class LabelOptions:
    """How labels become classes.

    Attributes:
        ignore_case: whether labels that differ in case or blanks only are one class; else they are
            refused.
        multilabel: what becomes of an image with several labels (A|B): refuse, first takes the
            first, drop leaves the image out.
    """

    ignore_case: bool = False
    multilabel: Literal["refuse", "first", "drop"] = "refuse"


@dataclass(frozen=True, slots=True)
class Labels:
    """One label an image.

    Attributes:
        rows: positions of the images that are left, in order.
        words: their labels.
        classes: all classes, in order.
        notes: what was changed, one line each.
    """

    rows: tuple[int, ...]
    words: tuple[str, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def read_labels(
    source: str,
    images: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str] | None,
    options: LabelOptions,
    *,
    missing: Collection[str] = MISSING,
) -> Labels:
    """The classes of images.

    Args:
        source: the table, for errors.
        images: their names, for errors.
        labels: one text each, cleaned (`clean_column`).
        classes: the wanted ones in order; None: those that occur.
        options: how labels become classes.
        missing: words that are no label, unless `classes` has them.

    Raises:
        DataError: a label that is missing, unknown, or several in one; two that differ in case or
            blanks only.
    """
    _refuse_missing(source, images, labels, set(missing) - set(classes or ()))
    rows, words, notes = _single(source, images, labels, classes or (), options)
    words, joined = _join_case(source, words, classes, options)
    order = tuple(classes) if classes is not None else order_classes(words)
    _refuse_unknown(source, [images[row] for row in rows], words, order)
    alike = list(_same_numbers(order)) if classes is None else []
    return Labels(tuple(rows), tuple(words), order, (*notes, *joined, *alike))


def clean_column(source: str, kind: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The cells of a column as they are compared, and a note where that changed one.

    Args:
        source: the table, for the note.
        kind: what the column holds: label, site, group, split.
        words: its cells.

    Raises:
        DataError: a cell that is no UTF-8, or holds a sign that is not shown as it is.
    """
    cleaned = [clean_name(word) for word in words]
    for word in dict.fromkeys(cleaned):
        if shown_name(word) != word:
            raise DataError(
                f"{source}: the {kind} {shown_name(word)} {UNSHOWN_KINDS}; rename it (folders: "
                "`convmv -f latin1 -t utf8 -r --notest <root>`)"
            )
    composed = (unicodedata.normalize("NFC", word) for word in words)
    changed = [word for word, new in zip(composed, cleaned, strict=True) if word != new]
    notes = _count_alike(kind, cleaned) if kind in ("site", "group") else []
    if changed:
        cells = format_count(len(changed), "cell")
        notes.append(f"{kind}: blanks at the ends of {cells} taken off ('{changed[0]}')")
    return cleaned, notes


def _count_alike(kind: str, words: Iterable[str]) -> list[str]:
    """A note of two sites or groups that may be one."""
    spellings: dict[str, str] = {}
    for word in sorted(set(words)):
        first = spellings.setdefault(_alike(word), word)
        if first != word:
            return [f"{kind}: {first} and {word} differ in case or blanks only and count as two"]
    return []


def order_classes(words: Iterable[str]) -> tuple[str, ...]:
    """Distinct words: whole numbers in the order of their size, and by their digits where that is
    one (01, 1); other words by their code points."""
    found = set(words)
    if all(word.isdecimal() and len(word) <= DIGITS for word in found):
        return tuple(sorted(found, key=lambda word: (int(word), word)))
    return tuple(sorted(found))


def _same_numbers(order: Sequence[str]) -> Iterator[str]:
    numbers: dict[float, str] = {}
    for word in order:
        if NUMBER.fullmatch(word):
            first = numbers.setdefault(float(word.replace(",", ".")), word)
            if first != word:
                yield f"classes {first} and {word} are one number and count as two classes"


def _alike(word: str) -> str:
    """What words have in common that differ in case, blanks, invisible signs and width of letters
    only."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    visible = "".join(sign for sign in folded if unicodedata.category(sign) != "Cf")
    return " ".join(visible.split())


def _refuse_missing(
    source: str, images: Sequence[str], labels: Sequence[str], missing: Collection[str]
) -> None:
    found = [row for row, label in enumerate(labels) if label in missing]
    if found:
        word = labels[found[0]]
        listed = f", or name {word} in data.classes if it is a class" if word else ""
        raise DataError(
            f"{source}: {format_count(len(images), 'image')}, {len(found)} without a label, the "
            f"first is {shown_name(images[found[0]])}{word and f' ({word})'}; fill the cells or "
            f"take the rows out{listed}"
        )


def _single(
    source: str,
    images: Sequence[str],
    labels: Sequence[str],
    classes: Collection[str],
    options: LabelOptions,
) -> tuple[list[int], list[str], list[str]]:
    """(rows, their one label each, notes)."""
    known = set(classes) or set(labels)
    several = {
        word: parts
        for word in dict.fromkeys(labels)
        if word not in classes and (parts := _parts(word, known))
    }
    mixed = [row for row, word in enumerate(labels) if word in several]
    rows = list(range(len(labels)))
    if not mixed:
        return rows, list(labels), []
    word = labels[mixed[0]]
    count = f"{format_count(len(labels), 'image')}, {len(mixed)}"
    listed = "" if classes else ", or name the class in data.classes if it is one"
    if options.multilabel == "refuse":
        raise DataError(
            f"{source}: {count} with several labels, the first is "
            f"{shown_name(images[mixed[0]])} with '{word}'; take the first label of each by "
            f"data.multilabel=first, leave them out by data.multilabel=drop{listed}"
        )
    if options.multilabel == "first":
        note = f"{count} with several labels, the first of which counts ('{word}')"
        return rows, [several[one][0] if one in several else one for one in labels], [note]
    kept = [row for row in rows if labels[row] not in several]
    if not kept:
        raise DataError(
            f"{source}: all images have several labels; data.multilabel=first keeps them"
        )
    return kept, [labels[row] for row in kept], [f"{count} with several labels and left out"]


def _parts(word: str, known: Collection[str]) -> list[str]:
    """The labels in a label; empty where it is one."""
    for sign in BETWEEN:
        frame = "" if sign == "|" else FRAME
        parts = [part for one in word.split(sign) if (part := clean_name(one).strip(frame))]
        several = len(parts) > 1 and all(part in known for part in parts)
        if sign in word and parts and (sign == "|" or several):
            return parts
    return []


def _join_case(
    source: str, words: Sequence[str], classes: Sequence[str] | None, options: LabelOptions
) -> tuple[list[str], list[str]]:
    """The words with one spelling each, and what was joined. A spelling of the wanted classes
    stays; else the commonest wins, then the first by code points."""
    counts = Counter(words)
    spellings: dict[str, list[str]] = {}
    for word in sorted({*counts, *(classes or ())}, key=lambda one: (-counts[one], one)):
        spellings.setdefault(_alike(word), []).append(word)
    new: dict[str, str] = {}
    for alike in spellings.values():
        wanted = [word for word in alike if word in (classes or ())]
        others = [word for word in alike if word not in (classes or ())]
        if not others or len(alike) == 1 or len(wanted) > 1:
            continue
        target = wanted[0] if wanted else alike[0]
        new |= {word: target for word in others if word != target}
    if new and not options.ignore_case:
        word, target = min(new.items())
        listed = "" if target in (classes or ()) else ", or name both in data.classes"
        raise DataError(
            f"{source}: the labels {target} ({format_count(counts[target], 'image')}) and {word} "
            f"({counts[word]}) differ in case or blanks only; spell them alike, or join them by "
            f"data.ignore_case=true{listed}"
        )
    notes = [
        f"label {word} ({format_count(counts[word], 'image')}) joined with {new[word]}"
        for word in sorted(new)
    ]
    return [new.get(word, word) for word in words], notes


def _refuse_unknown(
    source: str, images: Sequence[str], words: Sequence[str], classes: Sequence[str]
) -> None:
    known = set(classes)
    for image, word in zip(images, words, strict=True):
        if word not in known:
            raise DataError(
                f"{source}: image {shown_name(image)} has the label '{word}'; known classes are "
                f"{', '.join(classes)}"
            )
