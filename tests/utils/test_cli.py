"""Every kind of error as one line and an exit code; Hydra's own refusals are provoked for real."""

from __future__ import annotations

import pytest

from fedrobust.errors import ConfigError, DataError, RunError
from fedrobust.experiment import compose, settings
from fedrobust.utils.cli import explain


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
    ("override", "words"),
    [
        ("rouns=3", ["rouns: unknown key", "--cfg job"]),
        ("server.proxi=3", ["server.proxi: unknown key"]),
        ("rounds.x=3", ["rounds.x: unknown key"]),
        (
            "strategy=fedavgg",
            ["strategy=fedavgg: no such choice; try fedavg", "are in configs/strategy"],
        ),
        ("engine=nope", ["engine=nope: no such choice; engine can be auto, inline, ray"]),
        ("experiment=nope", ["experiment=nope: no such choice", "smoke"]),
        (
            "contamination@noise=labelflip",
            ["contamination=labelflip: no such choice; try label_flip"],
        ),
        (
            "contamination=qqqq",
            ["contamination=qqqq: no such choice; all ", "are in configs/contamination"],
        ),
        ("rounds=[1", ["[1"]),
        ("rounds", ["rounds: cannot be read", "EQUAL"]),
        ("rounds=3=4", ["'='"]),
        ("+rounds=3", ["++rounds=3"]),
        ("~rouns", ["'rouns' does not exist"]),
        ("+x@y=z", ["config group 'x' does not exist"]),
        ("data.size=${nothere}", ["nothere", "data.size"]),
        ("rounds=${oc.env:NO_SUCH_VARIABLE_HERE}", ["NO_SUCH_VARIABLE_HERE"]),
    ],
)
def test_hydra_s_refusals_are_one_line_and_name_what_was_written(
    override: str, words: list[str]
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # Hydra has many classes; what matters is what becomes of them
        compose.compose(override)
    line, code = explain(caught.value)
    assert code == 2
    assert line is not None
    assert "\n" not in line
    assert len(line) <= 300
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "override",
    ["seed=???", "rounds=null", "rounds=many", "num_clients=2.5", "device=tpu", "poisoned=true"],
)
def test_values_of_a_wrong_type_pass_hydra_and_end_in_our_line(override: str) -> None:
    composed = compose.compose(override)
    with pytest.raises(ConfigError) as caught:
        settings.check_settings(composed)
    line, code = explain(caught.value)
    assert code == 2
    assert line is not None
    assert line.startswith(f"{override.partition('=')[0]}=")
