"""Text of `--help`: settings with type, range, default and meaning, from the types that check
them."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel

from fedrobust.experiment.choices import SAME_CHOICES, choice_names, choice_settings
from fedrobust.experiment.compose import compose, default_choices, main_settings
from fedrobust.experiment.factories import FACTORY_PACKAGES, find_factory
from fedrobust.experiment.own_choices import known_choices, named_by_words
from fedrobust.experiment.run_options import RunOptions
from fedrobust.experiment.settings import (
    MOST,
    ScheduleSettings,
    ServerSettings,
    Settings,
    StopSettings,
)
from fedrobust.utils.cli import called_as
from fedrobust.utils.plugins import PLUGINS
from fedrobust.utils.settings_table import describe_type, format_value, list_settings
from fedrobust.utils.stand_ins import read_lightly
from fedrobust.utils.validation import REQUIRED

WORDS = ("--help", "-h")
USAGE = """{called} [group=choice | key=value ...]
{called} resume=<the output folder of a run that was stopped>"""
MORE = """{called} strategy=krum --help shows the settings of one choice,
--cfg job prints the whole configuration, --hydra-help names Hydra's own switches."""


def is_help_requested(words: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return any(word in WORDS for word in words)


def describe(words: Sequence[str]) -> str:
    """The text for a command line: the settings of the choices in it, or else those outside the
    groups and the groups with their choices.

    Args:
        words: of the command line, e.g. ["strategy=krum", "--help"].

    Raises:
        ConfigError: a choice's factory cannot be found; and Hydra's errors for an unknown choice.
    """
    return describe_choices(words) or "\n".join(
        [
            USAGE.format(called=called_as("simulate")),
            "",
            "Settings:",
            *_model_lines(Settings),
            "",
            "Server:",
            *_model_lines(ServerSettings, "server."),
            "",
            "Stop:",
            *_model_lines(StopSettings, "stop_when."),
            "",
            "Schedule:",
            *_model_lines(ScheduleSettings, "schedule."),
            "",
            "Groups:",
            *group_lines(default_heads(), words),
            "",
            "Of the command:",
            *option_lines(),
            "",
            MORE.format(called=called_as("simulate")),
        ]
    )


def describe_choices(words: Sequence[str]) -> str:
    """The settings of the choices of groups among the words; empty without any. Raises as
    `describe`."""
    chosen = [word for word in words if word.partition("=")[0] in FACTORY_PACKAGES]
    plugins = [f"{PLUGINS}=[{','.join(named_by_words(words))}]"]
    return "\n\n".join("\n".join(_choice_lines(word, plugins)) for word in chosen)


def _model_lines(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if field.is_required():  # a group, or the server's block
            continue
        marks = [one for one in field.metadata if getattr(one, "le", None) != MOST]
        kind: Any = Annotated[field.annotation, *marks] if marks else field.annotation
        yield from setting_lines(
            f"{path}{name}={format_value(field.default)}",
            f"{describe_type(kind)}: {field.description}",
        )


def option_lines() -> Iterator[str]:
    """How a command can run."""
    for one in list_settings(RunOptions):
        yield from setting_lines(f"{one.name}={one.default}", f"{one.kind}: {one.description}")


def default_heads() -> dict[str, str]:
    """{group: the word that chooses its default}."""
    return {
        group: f"{group}={choice}"
        for group, choice in default_choices().items()
        if group in FACTORY_PACKAGES
    }


def group_lines(heads: Mapping[str, str], words: Sequence[str] = ()) -> Iterator[str]:
    """Groups with their meaning and their choices.

    Args:
        heads: {group: the word that chooses its default}; other groups are left out.
        words: of the command line, which may name plug-ins with further choices.
    """
    for group in (name for name in Settings.model_fields if name in heads):
        own = SAME_CHOICES.get(group, group)
        said = ", ".join(known_choices(group, words)) if own == group else f"as {own}"
        yield from setting_lines(
            heads[group], f"{Settings.model_fields[group].description}: {said}"
        )


def _choice_lines(word: str, plugins: Sequence[str]) -> list[str]:
    return read_lightly(lambda: list(_factory_lines(word, plugins)))


def _factory_lines(word: str, plugins: Sequence[str]) -> Iterator[str]:
    group = word.partition("=")[0]
    written, packages = _read_choice(word, plugins)
    factory = find_factory(group, written["_target_"], packages)
    about, *_ = (inspect.getdoc(factory) or "").split("\n\n")  # without Args and the like
    yield from wrap_text(f"{word}: {about}")
    for one in list_settings(factory):
        value = _find_written(written, one.name)
        default = one.default if value is None else value
        shown = "" if default in (None, REQUIRED) else default
        needed = "" if shown else " (must be given)"
        yield from setting_lines(
            f"{group}.{one.name}={shown}",
            f"{one.kind}{needed}" + (f": {one.description}" if one.description else ""),
        )


def _read_choice(word: str, plugins: Sequence[str]) -> tuple[Mapping[str, Any], Sequence[str]]:
    """The settings of a choice, and the plug-ins in which its factory may lie: of a choice of our
    own from its yaml file, of another one by Hydra, which takes longer."""
    group, _, name = word.partition("=")
    own = SAME_CHOICES.get(group, group)
    if name in choice_names(own):
        return _overlaid(choice_settings(own, name), main_settings(group)), ()
    folder = group if own == group else f"{own}@{group}"
    config = compose(*plugins, f"{folder}={name}")
    return config[group], config[PLUGINS]


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of another file above them."""
    return {**below} | {
        key: _overlaid(below[key], value) if isinstance(value, Mapping) else value
        for key, value in above.items()
    }


def _find_written(settings: Any, key: str) -> str | None:
    """The value of a key, also of one inside a group; None where it is not written."""
    for part in key.split("."):
        if not isinstance(settings, Mapping) or part not in settings:
            return None
        settings = settings[part]
    return format_value(settings)


def setting_lines(head: str, text: str) -> list[str]:
    """One setting: its key and default, and below what it is."""
    return [_indent(head, first=2, others=4), _indent(text, first=6, others=6)]


def _indent(text: str, first: int, others: int) -> str:
    return textwrap.fill(
        text,
        _width(),
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def wrap_text(text: str) -> list[str]:
    """Lines of a paragraph, as wide as the screen."""
    return textwrap.wrap(text, _width())


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 120)
