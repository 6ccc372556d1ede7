"""One command for all: `fedrobust <command>`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedrobust import __main__ as command
from fedrobust.commands import list as list_command
from fedrobust.experiment.choices import choice_names, group_meanings

ROOT = Path(__file__).parents[1]


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/fedrobust", *words])
    return command.main()


def test_it_is_the_one_console_script() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"fedrobust": "fedrobust.__main__:main"}


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_is_a_module(name: str) -> None:
    if name not in command.SMALLER:
        assert find_spec(f"fedrobust.{name}") is not None  # python -m fedrobust.<name>
    assert find_spec(f"fedrobust.{command.MODULES.get(name, name)}") is not None


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_command(
    words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in command.COMMANDS)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("fedrobust ")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("simulat", "error: simulat: unknown command; did you mean simulate? known are simulate, "),
        ("xyz", "error: xyz: unknown command; known are simulate, "),
        ("poisoned=3", "error: poisoned=3: is a setting; the command comes first, as in fedrobust"),
    ],
)
def test_an_unknown_command_is_refused_in_one_line(
    word: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, word) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith(line)


@pytest.mark.parametrize("name", [name for name in command.COMMANDS if name != "federation"])
def test_help_of_a_command_shows_the_form_in_which_it_was_called(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):  # argparse leaves
        assert called(monkeypatch, name, "--help") == 0
    shown = capsys.readouterr().out
    assert f"fedrobust {name}" in shown
    assert f"python -m fedrobust.{name}" not in shown


def test_the_list_names_all_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_command.main([]) == 0
    shown = capsys.readouterr().out
    for group, meaning in group_meanings().items():
        assert f"{group}: {meaning[:20]}" in shown
    assert "  krum\n      The one update that lies nearest" in shown
    assert "      needs: at least 2f + 3 clients a round\n      paper: Blanchard" in shown


def test_the_list_of_a_choice_says_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_command.main(["strategy", "dnc"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "A trial takes random coordinates" in shown
    assert "krum" not in shown


def test_the_list_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_command.main(["strategy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == choice_names("strategy")
    [one] = [one for one in found if one["name"] == "fltrust"]
    assert one["needs"] == "root images"
    assert one["factory"] == "fedrobust.strategies.fltrust.fltrust"


def test_names_for_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_command.main(["--names", "purifier"]) == 0
    assert capsys.readouterr().out.split() == [
        f"purifier={name}" for name in choice_names("purifier")
    ]


def test_an_unknown_group_ends_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_command.main(["strategi"]) == 2
    assert capsys.readouterr().err.startswith("error: strategi: unknown group; did you mean")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("list", "strategy"), ("list", "--help"), ("--help",)])
def test_a_closed_output_ends_a_command_without_a_word(words: Sequence[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "fedrobust", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(write)
    assert done.returncode in (0, 141)
    assert done.stderr == b""
