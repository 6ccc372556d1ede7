"""report.json: the contract with other programs, as a typed model.

The classes in `metrics`, `attacks` and `sections` say what may stand in the file: every entry with
its type, unit and range. `values` has the types of the entries and their rounding, `files` reads
and writes. `report_schema.json` (JSON Schema, draft 2020-12) is generated from the classes:
`python -m fedrobust.reporting.report` writes it.

A new section stands in `sections`, beside the class that holds it; a module that fills or shows it
imports it from there.
"""

from fedrobust.reporting.report.files import (
    parse_report,
    read_report,
    report_text,
    write_report,
)
from fedrobust.reporting.report.sections import Report

__all__ = ["Report", "parse_report", "read_report", "report_text", "write_report"]
