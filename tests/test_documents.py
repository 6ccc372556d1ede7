"""Commands and links of README and docs: settings and modules exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from fedrobust.experiment import compose
from fedrobust.experiment import settings as config
from fedrobust.experiment.choices import choice_names, group_meanings
from fedrobust.federation import __main__ as federation
from fedrobust.studies.ablation import plan
from fedrobust.studies.comparison import grid

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "docs" / "reference" / "generated"  # by the site's build, from the program
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent != MADE),
]
READERS: dict[str, Callable[[list[str]], object]] = {
    "fedrobust.simulate": lambda words: config.read_settings(compose.compose(*words)),
    "fedrobust.compare": grid.read_grid,
    "fedrobust.ablation": plan.read_plan,
}
PLACEHOLDER = re.compile(r"<[^<>]*>|…|\.\.\.")
SETTING = re.compile(r"\+?[a-z_][\w.]*=")


def commands(page: Path) -> list[list[str]]:
    """The words of every `python -m …` in the page's blocks, lines that end with a backslash
    joined, up to the next command of a line."""
    blocks = re.split(r"^```.*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1::2]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [line.split("python -m ", 1)[1] for line in lines if "python -m " in line]
    return [
        shlex.split(re.split(r" (?:&&|\|\||[|>;]) ", PLACEHOLDER.sub("<>", one))[0], comments=True)
        for one in found
    ]


def long_lines(page: Path) -> list[str]:
    """Lines of prose above 100 characters; tables and blocks of code may be longer."""
    blocks = re.split(r"^```.*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[::2]
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if len(line) > 100 and not line.startswith(("|", "    ", "!["))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_prose_have_at_most_100_characters(page: Path) -> None:
    assert long_lines(page) == []


ALL = [(page, words) for page in PAGES for words in commands(page)]
# These make up choices of their own, which test_extending.py and test_plugin_example.py create;
# --multirun takes lists that are no settings of one run
OWN_CHOICES = ("extending.md", "own_rule.md", "plugins.md")
STUDIES = [
    pytest.param(page, words, id=f"{page.stem}-{number}")
    for number, (page, words) in enumerate(ALL)
    if words[0] in READERS
    and page.name not in OWN_CHOICES
    and not {"--multirun", "-m"} & set(words)
]


def settings(words: list[str]) -> list[str]:
    """The words that are settings, without placeholders, Hydra's own keys, and runs to resume."""
    return [
        word
        for word in words[1:]
        if SETTING.match(word) and "<>" not in word and not word.startswith(("hydra.", "resume="))
    ]


def test_there_is_something_to_check() -> None:
    assert len(ALL) > 50


@pytest.mark.parametrize("module", sorted({words[0] for _, words in ALL}))
def test_every_command_of_the_documents_exists(module: str) -> None:
    assert find_spec(module) is not None


@pytest.mark.parametrize(("page", "words"), STUDIES)
def test_every_setting_of_the_documents_can_be_read(page: Path, words: list[str]) -> None:
    assert READERS[words[0]](settings(words)) is not None


@pytest.mark.parametrize(
    ("page", "words"),
    [one for one in ALL if one[1][0] == "fedrobust.federation"],
    ids=lambda one: str(one)[-50:],
)
def test_every_word_to_the_federation_helper_is_understood(page: Path, words: list[str]) -> None:
    given = [word for word in words[1:] if word not in {"--help", "-h"}] or ["demo", "folder"]
    read = vars(federation.parse_command_line(given))
    assert given[0] in read.values()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    lost = [
        one
        for one in targets
        if "://" not in one
        and not one.startswith("mailto:")
        and not (page.parent / one).exists()
        and (page.parent / one).resolve().parent != MADE  # the site's strict build checks these
    ]
    assert not lost


@pytest.fixture(scope="module")
def reference() -> Any:
    """The site's extension that makes pages and tables from the program."""
    spec = spec_from_file_location("pages", ROOT / "docs/_extensions/reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables_of(page: Path) -> list[list[str]]:
    """The cells of all rows of tables in a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [line.split("|")[1:-1] for line in lines if line.startswith("|")]


MARKED = [page for page in PAGES if "\n<!-- choices" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.name)
def test_tables_of_choices_are_made_from_the_program(page: Path, reference: Any) -> None:
    text = page.read_text(encoding="utf-8")
    marks = re.findall(r"(?m)^<!-- choices(?:: (\w+))?.*-->$", text)
    made = reference.insert_tables(text)
    assert "<!-- choices" not in made
    for group in {one for one in marks if one}:
        by_hand = [row for row in tables_of(page) if row[0].strip(" `") in choice_names(group)]
        assert not by_hand, "a choice is listed by hand"
        page_of = f"reference/generated/{group}.md"
        assert f"| [`{choice_names(group)[0]}`]({page_of}#" in made or group == "contamination"
    if "" in marks:
        for group in group_meanings():
            assert all(f"`{name}`" in made for name in choice_names(group)), group


def test_the_kinds_of_contaminations_are_all_in_a_page(reference: Any) -> None:
    pages = [page.read_text("utf-8") for page in MARKED if page.name != "settings.md"]
    text = "".join(map(reference.insert_tables, pages))
    listed = re.findall(r"\| \[`(\w+)`\]\(reference/generated/contamination.md#", text)
    assert sorted(listed) == choice_names("contamination")


def test_a_mark_for_choices_that_do_not_exist_is_refused(reference: Any) -> None:
    with pytest.raises(ValueError, match="there are none"):
        reference.insert_tables("<!-- choices: contamination nothing -->")


def test_the_data_flow_names_functions_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    flow = text.split("## Data flow")[1].split("\n## ")[0]
    sources = [
        path
        for room in ("fedrobust", "strategies", "clients")
        for path in (ROOT / room).rglob("*.py")
    ]
    named = re.findall(r"`([\w/]+\.py):(\w+)", flow)
    assert len(named) > 15
    for file, name in named:
        texts = [path.read_text("utf-8") for path in sources if f"/{path}".endswith(f"/{file}")]
        assert any(re.search(rf"(?m)^\s*(def|class) {name}\b", one) for one in texts), (file, name)
