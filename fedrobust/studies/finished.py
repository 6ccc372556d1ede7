"""The result in a finished output folder, on the screen: that of a run, a comparison or an
ablation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrobust.errors import DataError
from fedrobust.reporting.console import ResultConsole, print_line
from fedrobust.reporting.filenames import MANIFEST, REPORT
from fedrobust.studies.ablation.run import PAGE as ABLATION
from fedrobust.studies.comparison.run import LEADERBOARD, read_ranking
from fedrobust.studies.comparison.screen import read_ranking_tables
from fedrobust.studies.python_api import load
from fedrobust.utils.names import expand_home


def show_folder(folder: Path, plugins: Sequence[str] = ()) -> None:
    """Print what ended the run in a folder, a comparison's ranking, or an ablation's page.

    Args:
        folder: the output folder.
        plugins: the user's own packages that the run's rule needs.

    Raises:
        DataError: the folder does not exist, holds none of these, or a run that is not finished.
    """
    place = expand_home(folder)
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; give the output folder of a finished run")
    if (place / REPORT).is_file() or (place / MANIFEST).is_file():
        load(place, plugins).show()
    elif (place / LEADERBOARD).is_file():
        _show_ranking(place)
    elif (place / ABLATION).is_file():
        print((place / ABLATION).read_text(encoding="utf-8"))
    else:
        raise DataError(
            f"{place}: holds no {REPORT} and no {LEADERBOARD}; give the output folder of a "
            "finished run or comparison"
        )


def _show_ranking(place: Path) -> None:
    console, ranking = ResultConsole(), read_ranking(place)
    if ranking.empty:
        print_line(console, "no ranking, since no client was poisoned")
    else:
        console.print(read_ranking_tables(ranking))
    print_line(console, f"leaderboard: {place / LEADERBOARD}")
