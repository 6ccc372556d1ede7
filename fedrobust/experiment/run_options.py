"""Words of a command line that say how the command runs and are no settings of the run, so that no
manifest, message or cache knows them: `dry_run=true`, `quiet=true`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from fedrobust.errors import ConfigError
from fedrobust.utils.validation import check_settings

VALUES = {"true": True, "false": False}


@check_settings("")
@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a command runs.

    Attributes:
        dry_run: check everything, say what would run and about how long, and write nothing
        quiet: print errors and the last line only; run.log has the rest
    """

    dry_run: bool = False
    quiet: bool = False


NAMES = tuple(field.name for field in fields(RunOptions))


def split_options(words: Sequence[str]) -> tuple[RunOptions, list[str]]:
    """The options among the words of a command line, and all other words.

    Raises:
        ConfigError: an option is neither true nor false, or stands there twice.
    """
    found: dict[str, bool] = {}
    others: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name not in NAMES:
            others.append(word)
            continue
        if not equals or value.lower() not in VALUES:
            raise ConfigError(f"{word}: must be true or false; write {name}=true")
        if name in found:
            raise ConfigError(f"{word}: stands there already; leave one of them out")
        found[name] = VALUES[value.lower()]
    return RunOptions(**found), others


def split_quiet(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether a command that has no dry run shall be quiet, and all other words. Raises
    ConfigError."""
    options, others = split_options(words)
    if options.dry_run:
        raise ConfigError("dry_run=true: is for simulate, compare and ablation; leave it out")
    return options.quiet, others
