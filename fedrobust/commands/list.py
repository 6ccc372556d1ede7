"""What there is to choose: `fedrobust list [group] [name] [--json]`.

Exit codes: 0 done, 2 unknown group or choice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from fedrobust.experiment.choices import (
    Choice,
    choice_names,
    group_meanings,
    group_of,
    list_choices,
)
from fedrobust.experiment.own_choices import available_plugins, plugin_words
from fedrobust.experiment.settings_help import setting_lines, wrap_text
from fedrobust.utils.cli import run_command
from fedrobust.utils.machine import version_line
from fedrobust.utils.plugins import PLUGINS_HELP


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="fedrobust list",
        description="List the choices of every group: what each does, what it needs, its paper.",
    )
    parser.add_argument("--version", action="version", version=version_line())
    parser.add_argument("group", nargs="?", help="as in strategy=...; left out: all")
    parser.add_argument("name", nargs="*", help="of choices; left out: all of the group")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--names", action="store_true", help="as group=choice, one a line")
    parser.add_argument("--plugins", default="", help=PLUGINS_HELP)
    return run_command(lambda: _show(parser.parse_intermixed_args(words)))


def _show(asked: argparse.Namespace) -> None:
    meanings, plugins = group_meanings(), available_plugins(plugin_words(asked.plugins))
    groups = [asked.group] if asked.group else list(meanings)
    if asked.names:
        names = [
            f"{group}={name}" for group in groups for name in choice_names(group_of(group), plugins)
        ]
        print("\n".join(names))
        return
    found = {group: list_choices(group, asked.name, plugins) for group in groups}
    if asked.json:
        rows = [asdict(one) for choices in found.values() for one in choices]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for group, choices in found.items():
        print(*wrap_text(f"{group}: {meanings[group_of(group)]}"), sep="\n")
        for one in choices:
            head, *paragraphs = (setting_lines(one.name, text) for text in _texts(one, asked.name))
            print(*head, *(lines[1] for lines in paragraphs), sep="\n")
        print()


def _texts(choice: Choice, chosen: Sequence[str]) -> list[str]:
    """The paragraphs about a choice; of one that was asked for by name all."""
    texts = [choice.description, *(choice.details if chosen else ())]
    texts += [f"needs: {choice.needs}"] if choice.needs else []
    return texts + ([f"paper: {choice.reference}"] if choice.reference else [])
