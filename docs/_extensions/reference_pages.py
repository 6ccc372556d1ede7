"""Pages of the reference that are made from the program: settings and choices, the command lines'
help, and the contract of report.json. They are written into docs/reference/generated before Sphinx
reads the folder, and never kept under version control. In all other pages a line

    <!-- choices: contamination labels -->

becomes the table of a group's choices (here of those whose factories lie in the folder `labels`;
`other`: in no folder), and `<!-- choices -->` the table of all groups."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrobust.__main__ import COMMANDS
from fedrobust.experiment.choices import (
    Choice,
    choice_names,
    group_meanings,
    list_choices,
)
from fedrobust.experiment.compose import compose, default_choices
from fedrobust.experiment.factories import FACTORY_PACKAGES, find_factory
from fedrobust.experiment.settings import ServerSettings, Settings
from fedrobust.utils.settings_table import describe_type, format_value, list_settings
from fedrobust.utils.validation import REQUIRED

ROOT = Path(__file__).resolve().parents[2]
SAME = {"noise", "corruption"}  # groups that take the choices of `contamination`
OTHER = "other"  # kind of choices whose factories lie in no folder of their group
MARK = re.compile(r"^<!-- choices(?:: (?P<group>\w+)(?: (?P<kind>\w+))?)? -->$", re.M)
GENERATED = "reference/generated"
DIRECTIVE = re.compile(r"^(Args|Attributes|Returns|Raises|Needs|Reference|Example):$", re.M)


def cell(text: str) -> str:
    """Text for a cell of a table in Markdown."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    """Lines of a table in Markdown."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def general_settings(path: str, model: Any) -> Iterator[Sequence[str]]:
    """Rows of the settings outside the groups."""
    for name, field in model.model_fields.items():
        if not field.is_required():
            yield (
                f"`{path}{name}`",
                cell(describe_type(field.annotation)),
                f"`{format_value(field.default)}`",
                cell(field.description or ""),
            )


def lead(factory: Any) -> str:
    """What a factory's docstring says before its sections."""
    return DIRECTIVE.split(inspect.getdoc(factory) or "")[0].strip()


def choice_lines(group: str, choice: str) -> Iterator[str]:
    """The section of one choice: what it is, where it comes from, its settings."""
    written: Mapping[str, Any] = compose(f"{group}={choice}")[group]
    factory = find_factory(group, written["_target_"])
    [told] = list_choices(group, [choice])
    about = lead(factory)
    yield from (f"## {choice}", "")
    if not " ".join(about.split()).startswith(told.description.rstrip(".")):  # the yaml's own words
        yield from (cell(told.description), "")
    yield from (about, "")
    if told.needs:
        yield from (f"*Needs:* {cell(told.needs)}", "")
    if told.reference:
        yield from (f"*Reference:* {cell(told.reference)}", "")
    rows = [
        (f"`{group}.{one.name}`", cell(one.kind), shown(one.default), cell(one.description))
        for one in list_settings(factory)
    ]
    if rows:
        yield from table(("setting", "type and range", "default", "meaning"), iter(rows))
        yield ""


def shown(default: str | None) -> str:
    """A default, or that there is none."""
    return "must be given" if default in (None, REQUIRED) else f"`{default}`"


def settings_page() -> Iterator[str]:
    """Everything outside the groups."""
    yield from ("# General settings", "")
    yield from ("Made from the types that check them.", "", "## A run", "")
    head = ("setting", "type and range", "default", "meaning")
    yield from table(head, general_settings("", Settings))
    yield from ("", "## The server", "")
    yield from table(head, general_settings("server.", ServerSettings))


def group_page(group: str, chosen: str) -> Iterator[str]:
    """All choices of one group."""
    about = Settings.model_fields[group].description or ""
    yield from (f"# {group}: {about}", "", f"Default: `{chosen}`.", "")
    if group == "contamination":
        yield "`noise` and `corruption` take the same choices: `contamination@noise=hair`."
        yield ""
    yield from overview(group)
    yield ""
    for choice in choice_names(group):
        yield from choice_lines(group, choice)


def kind_of(one: Choice) -> str:
    """The folder of the group's package in which the choice's factory lies."""
    parts = one.factory.removeprefix(f"{FACTORY_PACKAGES[one.group]}.").split(".")
    return parts[0] if len(parts) > 2 else OTHER


def overview(group: str, kind: str = "", page: str = "") -> Iterator[str]:
    """A table of the choices of a group.

    Args:
        group: as on the command line.
        kind: of these alone; "": of all.
        page: where the choices are described, from where the table stands; "": in the same page.
    """
    rows = [
        (
            f"[`{one.name}`]({page}#{one.name})",
            cell(one.description),
            cell(one.needs),
            cell(one.reference),
        )
        for one in list_choices(group)
        if kind in ("", kind_of(one))
    ]
    if not rows:
        raise ValueError(f"choices: {group} {kind}: there are none")
    yield from table(("choice", "what it does", "needs", "reference"), iter(rows))


def group_overview() -> Iterator[str]:
    """A table of all groups with the names of their choices."""
    rows = []
    for group, meaning in group_meanings().items():
        page = f"{GENERATED}/{group}.md"
        names = [
            f"[`{name}`]({page}#{name})" if has_page(group) else f"`{name}`"
            for name in choice_names(group)
        ]
        rows.append((f"`{group}`", cell(meaning), ", ".join(names)))
    yield from table(("group", "what it decides", "choices"), iter(rows))


def insert_tables(text: str) -> str:
    """The text of a page with a table for every line that asks for one."""

    def lines(found: re.Match[str]) -> str:
        group = found["group"]
        if group is None:
            return "\n".join(group_overview())
        return "\n".join(overview(group, found["kind"] or "", f"{GENERATED}/{group}.md"))

    return MARK.sub(lines, text)


def has_page(group: str) -> bool:
    """Whether a page of the reference describes the group's choices."""
    if group not in FACTORY_PACKAGES or group in SAME or group not in default_choices():
        return False
    return (ROOT / "configs" / group).is_dir()


def command_page() -> Iterator[str]:
    """The help texts of all commands, as they print them."""
    yield from ("# Command lines", "")
    for name in COMMANDS:
        text = subprocess.run(
            [sys.executable, "-m", "fedrobust", name, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        yield from (f"## fedrobust {name}", "", "```text", text.rstrip(), "```", "")


def kind(schema: Mapping[str, Any]) -> str:
    """The type of one field of the contract, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    if schema.get("type") == "object" and "patternProperties" in schema:
        [inner] = schema["patternProperties"].values()
        return f"object by name of {kind(inner)}"
    bounds = [
        f"{word} {schema[key]:g}"
        for key, word in (("minimum", "at least"), ("maximum", "at most"))
        if isinstance(schema.get(key), int | float)
    ]
    return ", ".join([str(schema.get("type", "any")), *bounds])


def object_rows(schema: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Rows of one object of the contract."""
    needed = set(schema.get("required", ()))
    for name, one in schema.get("properties", {}).items():
        yield (
            f"`{name}`",
            cell(kind(one)),
            "yes" if name in needed else "",
            cell(one.get("description", "")),
        )


def report_page() -> Iterator[str]:
    """The contract of report.json."""
    path = ROOT / "fedrobust" / "reporting" / "report_schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    head = ("field", "type", "always there", "meaning")
    yield from ("# report.json", "", "Made from `fedrobust/reporting/report_schema.json`.", "")
    yield from table(head, object_rows(schema))
    for name, one in sorted(schema["$defs"].items()):
        yield from ("", f"## {name}", "", one.get("description", ""), "")
        yield from table(head, object_rows(one))


def pages() -> dict[str, Iterator[str]]:
    """{name of the page: its lines}."""
    chosen = default_choices()
    groups = {
        group: group_page(group, chosen[group]) for group in FACTORY_PACKAGES if has_page(group)
    }
    return {
        "settings": settings_page(),
        **groups,
        "commands": command_page(),
        "report": report_page(),
    }


def write_pages(_: Any) -> None:
    """Write all of them; a page that has not changed keeps its time, so that Sphinx leaves it."""
    folder = ROOT / "docs" / "reference" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for path in folder.glob("*.md"):
        if path.stem not in made:
            path.unlink()
    for name, lines in made.items():
        text, path = "\n".join(lines) + "\n", folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def replace_marks(_: Any, page: str, source: list[str]) -> None:
    """Sphinx has read a page: its tables are put in."""
    source[0] = insert_tables(source[0])


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", replace_marks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
