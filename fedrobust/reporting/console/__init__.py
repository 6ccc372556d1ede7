"""What a person sees: the live display of a run (`Display`) and the final screen
(`summary_table`)."""

from fedrobust.reporting.console.live import Display
from fedrobust.reporting.console.summary import summary_table

__all__ = ["Display", "summary_table"]
