"""`--help` of the comparison and of the ablation: their own settings, from the types that check
them, and the groups."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedrobust import ablation, compare
from fedrobust.experiment.compose import compose, compose_comparison
from fedrobust.studies.command_line import GridCommand, describe_grid_command
from fedrobust.utils.settings_table import list_settings

COMMANDS = (compare.COMMAND, ablation.COMMAND)


@pytest.mark.parametrize("module", ["compare", "ablation"])
def test_plain_help_without_torch(module: str) -> None:
    code = (
        f"import sys; from fedrobust import {module} as command; sys.argv = ['it', '--help']; "
        "command.main(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"python -m fedrobust.{module} [key=value")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_yaml_file_has_the_settings_of_the_type(command: GridCommand) -> None:
    _, block = compose_comparison(name=command.name)
    settings = list_settings(command.settings)
    assert set(block) == {one.name for one in settings}
    assert all(one.description and one.default is None for one in settings)
    command.settings(**block)


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (
            compare.COMMAND,
            (
                "poisoned=[0, 1, 3] a list of different numbers of clients, or of lists of their "
                "ids: how many clients are poisoned",
                "threads=1 whole number, at least 1: of torch in every run",
                "strategies=[...] the server's rule: alignins,",
                "contaminations=[...] what poisoned clients do: adaptive_etf,",
                "engine=inline in which processes",
            ),
        ),
        (
            ablation.COMMAND,
            (
                "models=[{baseline: model.head=linear client.loss=cross_entropy},",
                "severities=[1, 3, 5] a list of different whole numbers from 0: of the scenarios",
                "out=outputs/ablation a folder: where everything is written",
                "poisonings=[...] what poisoned clients do:",
                "model=resnet50 what is trained:",
            ),
        ),
    ],
)
def test_settings_with_type_range_default_and_meaning_then_groups(
    command: GridCommand, parts: tuple[str, ...]
) -> None:
    text = " ".join(describe_grid_command(command, ["--help"]).split())
    assert all(part in text for part in (command.about, *parts))
    shown = {line.strip() for line in describe_grid_command(command, []).splitlines()}
    assert not {"strategy=etf_dml", "contamination=label_flip", "engine=auto"} & shown
    assert all(not line.startswith(f"{group}=") for group in command.fixed for line in shown)


def test_the_ablation_s_choices_are_those_shown() -> None:
    assert "model=resnet50" in describe_grid_command(ablation.COMMAND, [])
    main, default = compose_comparison(name="ablation")[0], compose()
    same = ("model", "client", "data", "purifier", "privacy", "evasion")
    assert [main[group]["_target_"] for group in same] == [
        default[group]["_target_"] for group in same
    ]


def test_help_for_a_choice_shows_its_own_settings() -> None:
    text = describe_grid_command(compare.COMMAND, ["strategy=krum", "--help"])
    assert "strategy.f=3" in text
    assert "seeds" not in text
