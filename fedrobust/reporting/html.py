"""report.html: the whole result of a run on one page that needs nothing else, neither a network nor
other files."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment

from fedrobust.reporting import findings, own_models, spreads, text
from fedrobust.reporting.charts import figure_sections
from fedrobust.reporting.filenames import PAGE
from fedrobust.reporting.page_tables import page_tables
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.values import round_measured
from fedrobust.reporting.samples import SampleBlock
from fedrobust.reporting.web.page import make_environment
from fedrobust.reporting.web.tables import table
from fedrobust.types import RoundRecord
from fedrobust.utils.files import write_text

MOST_FAILURES = 100  # on the page; rounds.jsonl holds all of them
LONGEST_TRACEBACK = 5000  # signs of it on the page
TEMPLATE = "report.html.md"  # of jinja; Flower packs no files of other endings into its bundle
FILES: Final[dict[str, str]] = {
    "report.json": "all numbers of this page, for programs",
    "manifest.json": "configuration, seed, versions, hashes",
    "rounds.jsonl": "every round",
    "twin_rounds.jsonl": "every round of the clean twin",
    "clients.csv": "every client in every round",
    "predictions.npz": "class probabilities of the test images",
    "model.safetensors": "the trained model",
    "best.safetensors": "that of the best round",
}


def write_html(
    folder: Path,
    report: Report,
    manifest: Mapping[str, Any],
    rounds: Mapping[str, Sequence[RoundRecord]],
    *,
    uses: Mapping[str, int] | None = None,
    samples: Sequence[SampleBlock] = (),
) -> Path:
    """Write report.html, with links to those files of the run that lie beside it.

    Args:
        folder: the output folder.
        report: of the run.
        manifest: what manifest.json holds.
        rounds: by run ("run", "clean twin"), oldest first.
        uses: extra information that the strategy had on the server, with its number of images,
            e.g. {"root": 84, "proxy": 300}.
        samples: images before and after contamination.

    Returns:
        The path of the page.
    """
    files = {name: meaning for name, meaning in FILES.items() if (folder / name).exists()}
    page = render(report, manifest, rounds, uses or {}, samples, files=files)
    return write_text(folder / PAGE, page)


def render(
    report: Report,
    manifest: Mapping[str, Any],
    rounds: Mapping[str, Sequence[RoundRecord]],
    uses: Mapping[str, int],
    samples: Sequence[SampleBlock] = (),
    *,
    files: Mapping[str, str] | None = None,
) -> str:
    """The page as text. Everything that comes from outside is escaped. files: meanings of the files
    to link to, by name."""
    lines = [(run, record) for run, records in rounds.items() for record in records]
    failures = [(run, record, one) for run, record in lines for one in record.failures]
    classes = findings.class_names(report, manifest)
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            manifest=manifest,
            classes=classes,
            uses=uses,
            sections=figure_sections(report, rounds, classes),
            samples=samples,
            tables=page_tables(report, lines),
            failures=failures[:MOST_FAILURES],
            longest=LONGEST_TRACEBACK,
            more_failures=len(failures[MOST_FAILURES:]),
            timing={stage: round_measured(spent) for stage, spent in report.timing.items()},
            files=files or {},
            wording=text,
            own_models=own_models,
            findings=findings,
            spreads=spreads,
            table=table,
        )
    )
    return page + "\n"


@functools.cache
def _environment() -> Environment:
    """One for all pages of this process: compiling the template takes longer than a page."""
    made = make_environment(Path(__file__).parent)
    made.filters |= {"pretty": pretty, "without": drop_key}
    return made


def pretty(value: Any) -> str:
    """A value as readable JSON."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def drop_key(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The mapping but for one key."""
    return {name: value for name, value in mapping.items() if name != key}
