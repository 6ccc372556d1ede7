"""Words that say how a command runs."""

from __future__ import annotations

import pytest

from fedrobust.errors import ConfigError
from fedrobust.experiment.run_options import RunOptions, split_options, split_quiet


@pytest.mark.parametrize(
    ("words", "options", "others"),
    [
        ([], RunOptions(), []),
        (["rounds=3", "quiet=true"], RunOptions(quiet=True), ["rounds=3"]),
        (["dry_run=True", "quiet=false"], RunOptions(dry_run=True), []),
        (["dry_run.x=1", "--quiet"], RunOptions(), ["dry_run.x=1", "--quiet"]),
    ],
)
def test_options_are_taken_out(words: list[str], options: RunOptions, others: list[str]) -> None:
    assert split_options(words) == (options, others)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["dry_run=perhaps"], "dry_run=perhaps: must be true or false; write dry_run=true"),
        (["quiet"], "quiet: must be true or false; write quiet=true"),
        (["quiet=true", "quiet=false"], "quiet=false: stands there already"),
    ],
)
def test_wrong_options_are_refused(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^{reason}"):
        split_options(words)


def test_a_command_without_a_dry_run_refuses_it() -> None:
    assert split_quiet(["a=1", "quiet=true", "dry_run=false"]) == (True, ["a=1"])
    with pytest.raises(ConfigError, match=r"^dry_run=true: is for simulate, compare and ablation"):
        split_quiet(["dry_run=true"])
