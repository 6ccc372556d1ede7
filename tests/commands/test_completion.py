"""Completion in bash."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from fedrobust.__main__ import COMMANDS
from fedrobust.commands import completion
from fedrobust.experiment.choices import choice_names

BASH = shutil.which("bash")


def completed(*words: str) -> list[str]:
    """What bash offers for the last of the words, as it splits them."""
    quoted = " ".join(f"'{word}'" for word in words)
    lines = [
        completion.script(),
        f"COMP_WORDS=({quoted})",
        f"COMP_CWORD={len(words) - 1}",
        "_fedrobust",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(
        [str(BASH), "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["fedrobust", "sim"], ["simulate"]),
        (["fedrobust", ""], [*COMMANDS, "--help", "--version"]),
        (["fedrobust", "list", "pur"], ["purifier"]),
        (["fedrobust", "simulate", "strateg"], ["strategy="]),
        (["fedrobust", "simulate", "strategy", "=", "kr"], ["krum"]),
        (["fedrobust", "simulate", "strategy", "="], choice_names("strategy")),
        (["fedrobust", "compare", "contamination@noise", "=", "hai"], ["hair"]),
        (["fedrobust", "simulate", "dry"], ["dry_run=true"]),
        (["fedrobust", "simulate", "quiet", "=", ""], ["true", "false"]),
        (["fedrobust", "simulate", "nothing", "=", "x"], []),
    ],
)
def test_words_are_completed(words: list[str], offered: list[str]) -> None:
    assert completed(*words) == offered


def test_the_command_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main([]) == 0
    assert capsys.readouterr().out == completion.script() + "\n"
