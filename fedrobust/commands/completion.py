"""Completion for bash: `eval "$(fedrobust completion)"` completes commands, groups and
their choices without starting Python at each Tab.

Exit codes: 0 done, 2 wrong input.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from fedrobust.__main__ import COMMANDS
from fedrobust.experiment.choices import SAME_CHOICES, choice_names, group_meanings, group_of
from fedrobust.experiment.overrides import PLACED
from fedrobust.experiment.own_choices import available_plugins
from fedrobust.experiment.run_options import NAMES
from fedrobust.utils.cli import run_command
from fedrobust.utils.machine import version_line

# bash takes `strategy=kr` for three words: the group, "=" and what is typed of the choice
SCRIPT = """_fedrobust() {{
  local typed="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" group="" names=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    names="{commands} --help --version"
  elif [ "${{COMP_WORDS[1]}}" = list ]; then
    names="{groups} --json"
  elif [ "${{COMP_WORDS[1]}}" = show ] || [ "${{COMP_WORDS[1]}}" = sanitise ]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -d -- "$typed"))
    return
  elif [ "$typed" = "=" ]; then
    group="$before" typed=""
  elif [ "$before" = "=" ]; then
    group="${{COMP_WORDS[COMP_CWORD-2]}}"
  else
    compopt -o nospace 2>/dev/null
    names="{keys}"
  fi
  case "$group" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$names" -- "$typed"))
}}
complete -F _fedrobust fedrobust"""


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="fedrobust completion",
        description="Print a completion script for bash, to be evaluated by it.",
    )
    parser.add_argument("--version", action="version", version=version_line())
    parser.add_argument("shell", nargs="?", choices=["bash"], default="bash")
    parser.parse_args(words)
    return run_command(lambda: print(script()))


def script() -> str:
    """The completion script for bash."""
    keys = [*_keys(), *(f"{name}=true" for name in NAMES)]
    return SCRIPT.format(
        commands=" ".join(COMMANDS),
        groups=" ".join((*group_meanings(), *SAME_CHOICES)),
        keys=" ".join(keys),
        cases="\n".join(_cases()),
    )


def _keys() -> Iterator[str]:
    """The words that choose, up to their choice."""
    for group in (*group_meanings(), *SAME_CHOICES):
        yield f"{PLACED.get(group, group)}="


def _cases() -> Iterator[str]:
    plugins = available_plugins([])
    for group in (*group_meanings(), *SAME_CHOICES):
        names = " ".join(choice_names(group_of(group), plugins))
        yield f'    {PLACED.get(group, group)}) names="{names}" ;;'
    for name in NAMES:
        yield f'    {name}) names="true false" ;;'
