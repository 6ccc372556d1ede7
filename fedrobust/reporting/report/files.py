"""report.json on disk, and the schema that is generated from the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema

from fedrobust.reporting.filenames import REPORT
from fedrobust.reporting.report.sections import Report
from fedrobust.utils.files import write_text

SCHEMA_FILE = Path(__file__).parent.with_name("report_schema.json")


def report_text(report: Report) -> str:
    """The text of report.json: rounded, keys sorted, so that equal reports are equal bytes."""
    return _json(report.model_dump(mode="json", by_alias=True), sort_keys=True)


def write_report(folder: Path, report: Report) -> Path:
    """Write report.json and return its path; an old one is replaced at once or not at all."""
    return write_text(folder / REPORT, report_text(report))


def parse_report(text: str) -> Report:
    """The report in a text.

    Raises:
        ValueError: one line with the path of the first entry that breaks the contract.
    """
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{REPORT} at {_first_fault(error)}") from error


def read_report(folder: Path) -> Report:
    """The report of an output folder, also one of an older version. Raises FileNotFoundError, or
    ValueError as `parse_report`."""
    return parse_report((folder / REPORT).read_text(encoding="utf-8"))


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    steps = [step for step in fault["loc"] if step != "[key]"]
    path = "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    value, message = fault["input"], fault["msg"].removeprefix("Value error, ")
    given = f"{value}: " if isinstance(value, str | int | float) and steps else ""
    return f"{path}: {given}{message}"


class _PlainSchema(GenerateJsonSchema):
    """Schema without titles that only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_text() -> str:
    """The text of report_schema.json."""
    schema = Report.model_json_schema(schema_generator=_PlainSchema)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:fedrobust:report:1",
        "title": "fedrobust report.json",
    }
    return _json({**head, **{name: part for name, part in schema.items() if name != "title"}})


def _json(value: Any, *, sort_keys: bool = False) -> str:
    text = json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    return text + "\n"
