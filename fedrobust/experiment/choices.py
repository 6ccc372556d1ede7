"""All choices of all groups in words, from the yaml files and the docstrings of their factories:
nothing that computes is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.experiment.factories import FACTORY_PACKAGES
from fedrobust.experiment.factory_sources import read_factory
from fedrobust.experiment.own_choices import choice_files
from fedrobust.experiment.settings import Settings
from fedrobust.utils.docstrings import Docstring, first_sentence, split_docstring
from fedrobust.utils.names import did_you_mean
from fedrobust.utils.plugins import Plugin
from fedrobust.utils.yaml_files import read_yaml

EXPERIMENT = "experiment"  # settings of many groups under one name; no factory makes it
SAME_CHOICES = {"noise": "contamination", "corruption": "contamination"}
MARKED = re.compile(r"^(Reference|Needs): (.*)$")


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of a group in words.

    Attributes:
        group: e.g. "strategy".
        name: e.g. "krum".
        description: one sentence.
        details: further paragraphs.
        needs: what it asks of the run, e.g. "root images; at least 2f + 3 clients a round"; "" for
            nothing.
        reference: the publication; "" where there is none.
        factory: its `_target_`; "" of an experiment.
    """

    group: str
    name: str
    description: str
    details: tuple[str, ...]
    needs: str
    reference: str
    factory: str


def group_meanings() -> dict[str, str]:
    """{group that has choices of its own: what it decides}."""
    also = {
        group: " and of ".join(one for one, other in SAME_CHOICES.items() if other == group)
        for group in SAME_CHOICES.values()
    }
    meanings = {
        group: f"{field.description}" + f"; the choices of {also.get(group)}, too" * (group in also)
        for group, field in Settings.model_fields.items()
        if group in FACTORY_PACKAGES and group not in SAME_CHOICES
    }
    return {EXPERIMENT: "settings that belong together", **meanings}


def group_of(name: str) -> str:
    """The group whose choices a group of the command line has: `noise` those of `contamination`.
    Raises ConfigError for another word."""
    found, known = SAME_CHOICES.get(name, name), (*group_meanings(), *SAME_CHOICES)
    if found not in known:
        raise ConfigError(
            f"{name}: unknown group; {did_you_mean(name, known)}known are {', '.join(known)}"
        )
    return found


def choice_names(group: str, plugins: Sequence[Plugin] = ()) -> list[str]:
    """The names of a group's choices, sorted: ours and those of the plug-ins."""
    return list(choice_files(group, plugins))


def list_choices(
    group: str, names: Sequence[str] = (), plugins: Sequence[Plugin] = ()
) -> list[Choice]:
    """The choices of a group, of these names or all.

    Args:
        group: as on the command line.
        names: of choices.
        plugins: the user's own packages with further ones.

    Returns:
        One entry a choice, sorted by name.

    Raises:
        ConfigError: no such group or choice.
    """
    found = group_of(group)
    known = choice_names(found, plugins)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{group}={name}: unknown choice; {did_you_mean(name, known)}known are "
                f"{', '.join(known)}"
            )
    return [_read_choice(found, name, plugins) for name in names or known]


def _read_choice(group: str, name: str, plugins: Sequence[Plugin]) -> Choice:
    lines = choice_files(group, plugins)[name].read_text(encoding="utf-8").split("\n")
    head = _read_head(lines)
    target = "" if group == EXPERIMENT else str(choice_settings(group, name, plugins)["_target_"])
    source = read_factory(target) if target else None
    told = source.docstring if source is not None else split_docstring("")
    # what one factory makes under several names is told by the yaml
    return Choice(
        group,
        name,
        first_sentence(head.summary or told.summary),
        _details(head, told),
        head.section("Needs") or told.section("Needs"),
        head.section("Reference") or told.section("Reference"),
        target,
    )


def _details(head: Docstring, told: Docstring) -> tuple[str, ...]:
    """What is said beyond the description: of the yaml and of the factory."""
    first = head.summary or told.summary
    rest = first[len(first_sentence(first)) :].strip()
    factory = (told.summary, *told.details) if head.summary else told.details
    return tuple(one for one in (rest, *head.details, *factory) if one)


def _read_head(lines: Sequence[str]) -> Docstring:
    """The comment with which a yaml file begins, as a docstring: lines `# Needs: ...` and
    `# Reference: ...` are its sections."""
    text: list[str] = []
    sections: dict[str, tuple[str, ...]] = {}
    for line in _comment(lines):
        if marked := MARKED.match(line):
            sections[marked[1]] = (marked[2],)
        else:
            text.append(line)
    return Docstring(" ".join(text), (), sections)


def _comment(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        if not line.startswith("# @package"):
            yield line.lstrip("# ").strip()


def choice_settings(group: str, name: str, plugins: Sequence[Plugin] = ()) -> dict[str, Any]:
    """The settings of a choice's yaml file on top of those of the files that its defaults name."""
    read = read_yaml(choice_files(group, plugins)[name]) or {}
    found: dict[str, Any] = {}
    for base in read.pop("defaults", ["_self_"]):
        found |= read if base == "_self_" else choice_settings(group, base, plugins)
    return found
