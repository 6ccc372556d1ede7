"""`python -m fedrobust.reporting.report`: write report_schema.json."""

from fedrobust.reporting.report.files import SCHEMA_FILE, schema_text
from fedrobust.utils.files import write_text

if __name__ == "__main__":
    write_text(SCHEMA_FILE, schema_text())
