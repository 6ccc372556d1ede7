"""Command lines of grids: help, and an exit code that says whether all cells were finished."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedrobust.errors import RunError
from fedrobust.experiment import settings_help
from fedrobust.experiment.compose import compose_comparison
from fedrobust.experiment.old_names import rename_words
from fedrobust.experiment.run_options import RunOptions, split_options
from fedrobust.studies.comparison.grid import OWN_ENGINE, Cell, GridSettings
from fedrobust.utils.cli import called_as, run_command
from fedrobust.utils.counting import format_count
from fedrobust.utils.machine import version_line
from fedrobust.utils.settings_table import format_value, list_settings


@dataclass(frozen=True, slots=True)
class GridCommand:
    """A command line of a grid.

    Args:
        name: of its block of settings, and of the file in configs/ that holds their defaults.
        about: what the command does, in a sentence or two.
        settings: the block's.
        lists: {group: the setting of the block that lists its choices}.
        fixed: groups whose choice the command makes itself.
    """

    name: str
    about: str
    settings: type[GridSettings]
    lists: Mapping[str, str]
    fixed: frozenset[str] = frozenset()


def run_grid_command(
    command: GridCommand, start: Callable[[Sequence[str], RunOptions], Mapping[Cell, str]]
) -> None:
    """Run `start` with the words of the command line and its options, or show the help.

    Exit codes: 0 done, 1 at least one cell failed, 2 wrong input, 130 interrupted.
    """

    def action() -> None:
        words = sys.argv[1:]
        if "--version" in words:
            print(version_line())
            return
        if settings_help.is_help_requested(words):
            print(describe_grid_command(command, rename_words(words)))
            return
        options, others = split_options(words)
        failed = start(others, options)
        if failed:
            cell, reason = next(iter(failed.items()))
            raise RunError(
                f"{format_count(len(failed), 'cell')} failed, the first: {cell}: {reason}"
            )

    if code := run_command(
        action,
        reword=lambda line: line.replace("hydra.run.dir", "out"),
        if_interrupted="nothing was started",
    ):
        sys.exit(code)


def describe_grid_command(command: GridCommand, words: Sequence[str]) -> str:
    """Text of --help: the settings of the choices among the words, or else those of the block
    and the groups with their choices. Raises as `settings_help.describe`."""
    called = called_as(command.name)
    return settings_help.describe_choices(words) or "\n".join(
        [
            f"{called} [key=value | group=choice ...]",
            "",
            *settings_help.wrap_text(command.about),
            "",
            f"Settings, each also as {command.name}.<key>; one value counts as a list of one:",
            *_block_lines(command),
            "",
            "Groups:",
            *settings_help.group_lines(_heads(command), words),
            "",
            "Of the command:",
            *settings_help.option_lines(),
            "",
            f"All other settings are those of the main job: {called_as('simulate')} --help",
            f"{called} model=small --help shows the settings of one choice.",
        ]
    )


def _block_lines(command: GridCommand) -> Iterator[str]:
    _, block = compose_comparison(name=command.name)
    settings = {one.name: one for one in list_settings(command.settings)}
    for key, default in block.items():
        one = settings[key]
        yield from settings_help.setting_lines(
            f"{key}={format_value(default)}", f"{one.kind}: {one.description}"
        )


def _heads(command: GridCommand) -> dict[str, str]:
    """{group: the word that chooses its default}."""
    own = {"engine": f"engine={OWN_ENGINE}"}
    own |= {group: f"{key}=[...]" for group, key in command.lists.items()}
    heads = {**settings_help.default_heads(), **own}
    return {group: head for group, head in heads.items() if group not in command.fixed}
