"""report.html: the whole result of a run on one page that needs nothing else, neither a network nor
other files."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedrobust.reporting import text
from fedrobust.reporting.filenames import PAGE
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.values import round_measured
from fedrobust.types import RoundRecord
from fedrobust.utils.files import write_text
from fedrobust.utils.foreign_text import escape_text

MOST_FAILURES = 100  # on the page; rounds.jsonl holds all of them
TEMPLATE = "report.html.md"  # of jinja; Flower packs no files of other endings into its bundle
PICTURES: Final[dict[str, str]] = {
    "drops.png": "Combined performance drops with their 95 % intervals.",
    "curves.png": "Metrics of the global model on the clean validation images after every round.",
    "influence.png": text.INFLUENCE_MEANING.replace(", mean over the rounds", "")
    + " The dotted line is an equal share.",
    "confusion.png": (
        "Clean test images: rows are true classes, columns the "
        "predicted ones, in percent of the true class."
    ),
    "partition.png": "How the images of each class are shared out among the hospitals.",
    "samples.png": "Images of the data set, clean and contaminated.",
}


def write_html(
    folder: Path,
    report: Report,
    manifest: Mapping[str, Any],
    rounds: Mapping[str, Sequence[RoundRecord]],
    uses: Mapping[str, int] | None = None,
) -> Path:
    """Write report.html, with every PNG file in the folder and in its pictures/ folder.

    Args:
        folder: the output folder.
        report: of the run.
        manifest: what manifest.json holds.
        rounds: by run ("run", "clean twin"), oldest first.
        uses: extra information that the strategy had on the server, with its number of images,
            e.g. {"root": 84, "proxy": 300}.

    Returns:
        The path of the page.
    """
    page = render(report, manifest, rounds, embed_pictures(folder), uses or {})
    return write_text(folder / PAGE, page)


def render(
    report: Report,
    manifest: Mapping[str, Any],
    rounds: Mapping[str, Sequence[RoundRecord]],
    images: list[dict[str, str]],
    uses: Mapping[str, int],
) -> str:
    """The page as text. Everything that comes from outside is escaped."""
    lines = [(run, record) for run, records in rounds.items() for record in records]
    failures = [(run, record, one) for run, record in lines for one in record.failures]
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            manifest=manifest,
            rounds=lines,
            failures=failures[:MOST_FAILURES],
            more_failures=len(failures[MOST_FAILURES:]),
            timing={stage: round_measured(spent) for stage, spent in report.timing.items()},
            images=images,
            uses=uses,
            wording=text,
        )
    )
    return page + "\n"


@functools.cache
def _environment() -> Environment:
    """One for all pages of this process: compiling the template takes longer than a page."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "decimal": text.format_number,
        "label": text.metric_label,
        "pretty": pretty,
        "without": drop_key,
    }
    return made


def _harmless(value: Any) -> Any:
    """A text without signs that cannot be printed, before it is escaped as HTML."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return escape_text(value, 10 * len(value) + 1, multiline=True)


def pretty(value: Any) -> str:
    """A value as readable JSON."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def drop_key(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The mapping but for one key."""
    return {name: value for name, value in mapping.items() if name != key}


def embed_pictures(folder: Path) -> list[dict[str, str]]:
    """The folder's PNG files as data addresses with captions, the well-known ones first in their
    order."""
    found = {
        path.name: path
        for place in (folder, folder / "pictures")
        for path in sorted(place.glob("*.png"))
    }
    names = [name for name in PICTURES if name in found] + [
        name for name in found if name not in PICTURES
    ]
    return [
        {
            "name": name,
            "caption": PICTURES.get(name, found[name].stem.replace("_", " ")),
            "address": "data:image/png;base64,"
            + base64.b64encode(found[name].read_bytes()).decode("ascii"),
        }
        for name in names
    ]
