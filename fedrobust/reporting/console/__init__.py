"""Screen output: the live display of a run (`Display`), its lines (`print_line`) and the final
screen (`summary_table`)."""

from fedrobust.reporting.console.live import Display, print_line
from fedrobust.reporting.console.summary import summary_table

__all__ = ["Display", "print_line", "summary_table"]
