"""Every kind of error as one line and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedrobust.errors import ConfigError, DataError, RunError
from fedrobust.experiment import compose, settings
from fedrobust.utils.cli import explain, run_command


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("rounds=0: must be at least 1"), ("rounds=0: must be at least 1", 2)),
        (DataError("a.csv: no images"), ("a.csv: no images", 2)),
        (RunError("round 1: 3 clients failed"), ("round 1: 3 clients failed", 1)),
        (ValueError("a defect"), (None, 1)),
        (KeyError("x"), (None, 1)),
    ],
)
def test_our_own_errors(error: Exception, expected: tuple[str | None, int]) -> None:
    assert explain(error) == expected


@pytest.mark.parametrize(
    "override",
    ["seed=???", "rounds=null", "rounds=many", "num_clients=2.5", "device=tpu", "poisoned=true"],
)
def test_values_of_a_wrong_type_pass_hydra_and_end_in_our_line(override: str) -> None:
    composed = compose.compose(override)
    with pytest.raises(ConfigError) as caught:
        settings.read_settings(composed)
    line, code = explain(caught.value)
    assert code == 2
    assert line is not None
    assert line.startswith((f"{override.partition('=')[0]}=", "seed: is missing"))


NOWHERE = "No usable temporary directory found in ['/tmp']"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(13, "Permission denied", "ray/session"),
            "set TMPDIR to a folder of your own with free space",
        ),
        (OSError(28, "No space left on device", "tmpab12/x"), "set TMPDIR to a folder of your own"),
        (
            OSError(13, "Permission denied", "."),
            "set TMPDIR to a folder of your own with free space",
        ),
        (
            OSError(28, "No space left on device", "mine/out"),
            "choose another hydra.run.dir or free some space",
        ),
        (OSError(2, "No such file or directory", "mine/in"), "check this path"),
        (OSError(2, NOWHERE, None), "set TMPDIR to a folder that can be written to"),
        (
            OSError(28, "No space left on device", None),
            "choose another hydra.run.dir or free some space",
        ),
    ],
)
def test_the_remedy_depends_on_whose_place_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: OSError, line: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = None if error.filename is None else str(tmp_path / error.filename)
    reason = str(error.strerror)
    said, code = explain(OSError(error.errno, reason, path))
    assert code == 1
    assert said is not None
    assert reason in said
    assert path is None or said.startswith(f"{path}: ")
    assert line in said


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ConfigError("sanitiser.x=0: wrong"), 2, "error: --x=0: wrong\n"),
        (RunError("round 1: 3 clients failed"), 1, "error: round 1: 3 clients failed\n"),
        (OSError(28, "No space left on device", "out"), 1, "error: out: No space left on device; "),
        (KeyboardInterrupt("go on with it"), 130, "interrupted: go on with it\n"),
        (KeyboardInterrupt(), 130, "interrupted: nothing was started\n"),
        (ValueError("a defect"), 1, "Traceback"),
    ],
)
def test_a_command_ends_with_a_code_and_one_line(
    error: BaseException, code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def action() -> None:
        raise error

    found = run_command(
        action, lambda line: line.replace("sanitiser.", "--"), if_interrupted="nothing was started"
    )
    said = capsys.readouterr()
    assert (found, said.out) == (code, "")
    assert said.err.startswith(shown)
    assert said.err.count("\n") == 1 or shown == "Traceback"


def test_a_command_that_succeeds_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_a_line_holds_no_sign_that_a_terminal_obeys() -> None:
    names = "\x1b[2Ja, \u202egnp, b\x9b, n\udce6vus"
    line, code = explain(DataError(f"t.csv: has no column x; its columns are {names}\n\u57fa"))
    assert line == (
        r"t.csv: has no column x; its columns are \x1b[2Ja, \u202egnp, b\x9b, n\xe6vus" "\n\u57fa"
    )
    assert code == 2


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Could not determine home directory."),
        KeyError("getpwuid(): uid not found: 54321"),
    ],
)
def test_a_user_without_a_home_folder_is_told_what_to_set(error: Exception) -> None:
    line, code = explain(error)
    assert code == 2
    assert line is not None
    assert line.startswith("HOME: is not set, ")
    assert "set HOME to a folder" in line


# a command whose standard output nobody reads; what it does stands in the last word
UNREAD = """
import sys
from fedrobust.utils.cli import run_command
def lines():
    for number in range(int(sys.argv[1])):
        print(number, flush=sys.argv[2] == "at once")
    if sys.argv[2] == "wrong":
        from fedrobust.errors import ConfigError
        raise ConfigError("rounds=0: must be at least 1")
    if sys.argv[2] == "help":
        sys.exit(0)
sys.exit(run_command(lines))
"""


@pytest.mark.parametrize(
    ("lines", "way", "unbuffered", "code", "said"),
    [
        (1, "", "", 141, ""),  # all of it is written at the end
        (50_000, "", "", 141, ""),
        (3, "at once", "", 141, ""),
        (3, "", "1", 141, ""),
        (1, "help", "", 0, ""),
        (1, "wrong", "", 2, "error: rounds=0: must be at least 1\n"),
    ],
)
def test_a_command_whose_output_is_read_no_longer_ends_without_a_word(
    lines: int, way: str, unbuffered: str, code: int, said: str
) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", UNREAD, str(lines), way],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (code, said)


def test_another_broken_pipe_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    assert run_command(action) == 1
    assert "Broken pipe" in capsys.readouterr().err
