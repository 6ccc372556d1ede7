"""Screen output: the live display of a run (`Display`), that of other work (`LiveScreen`,
`transient_bar`), its lines (`print_line`, `print_last_line`) and the final screen
(`summary_table`)."""

from fedrobust.reporting.console.bars import (
    LiveScreen,
    ResultConsole,
    RunConsole,
    make_console,
    print_last_line,
    print_line,
    transient_bar,
)
from fedrobust.reporting.console.live import Display
from fedrobust.reporting.console.summary import summary_table

__all__ = [
    "Display",
    "LiveScreen",
    "ResultConsole",
    "RunConsole",
    "make_console",
    "print_last_line",
    "print_line",
    "summary_table",
    "transient_bar",
]
