"""report.json: the contract with other programs. `report_schema.json` (JSON Schema, draft 2020-12)
says what may stand in it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from fedrobust.utils.files import write_text

REPORT = "report.json"


@cache
def _validator() -> Draft202012Validator:
    schema = json.loads(
        files("fedrobust.reporting").joinpath("report_schema.json").read_text(encoding="utf-8")
    )
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def validate(report: Mapping[str, Any]) -> None:
    """Raise ValueError with the path of the first thing that breaks the contract: a missing,
    unknown or wrongly typed entry, a value that is not finite, or lists of clients that contradict
    each other."""
    plain = _plain(report)
    for path, value in _leaves(plain, "$"):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{REPORT} at {path}: {value} is not a finite number")
    error = best_match(_validator().iter_errors(plain))
    if error is not None:
        raise ValueError(f"{REPORT} at {error.json_path}: {error.message}")
    _check_clients(plain)


def _plain(report: Mapping[str, Any]) -> Any:
    """As JSON will hold it: tuples become lists; what JSON cannot hold raises ValueError."""
    try:
        return json.loads(json.dumps(report))
    except TypeError as error:
        raise ValueError(f"{REPORT} at $: {error}") from error


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{place}]")
    else:
        yield path, value


def _check_clients(report: Mapping[str, Any]) -> None:
    ids = [client["id"] for client in report["clients"]]
    if len(set(ids)) != len(ids) or len(ids) != report["num_clients"]:
        raise ValueError(
            f"{REPORT} at $.clients: {report['num_clients']} different clients are "
            f"expected, not {ids}"
        )
    for kind in ("poisoned", "noisy"):
        marked = sorted(client["id"] for client in report["clients"] if client["kind"] == kind)
        if marked != sorted(report[kind]):
            raise ValueError(
                f"{REPORT} at $.{kind}: {sorted(report[kind])}, but the clients of "
                f"that kind are {marked}"
            )


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """Validate, then write report.json (sorted keys, so equal reports are equal bytes); an old one
    is replaced at once or not at all."""
    validate(report)
    return write_text(
        folder / REPORT,
        json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n",
    )


def read_report(folder: Path) -> dict[str, Any]:
    """The validated report of an output folder. Raises FileNotFoundError or ValueError."""
    report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    validate(report)
    return report
