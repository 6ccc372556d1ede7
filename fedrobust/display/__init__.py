"""What a person sees: the live display of a run (`Display`) and the final screen (`summary_table`)."""

from fedrobust.display.live import Display
from fedrobust.display.summary import summary_table

__all__ = ["Display", "summary_table"]
