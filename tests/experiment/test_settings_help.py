"""Text of `--help`: every setting with its type, range, default and meaning, from the types that
check it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fedrobust.errors import ConfigError
from fedrobust.experiment import settings_help
from fedrobust.experiment.choices import SAME_CHOICES, choice_names
from fedrobust.experiment.compose import compose
from fedrobust.experiment.factories import FACTORY_PACKAGES
from fedrobust.experiment.settings import BLOCKS, ServerSettings, Settings


def test_the_yaml_file_and_the_types_have_the_same_defaults() -> None:
    config = compose()
    plain = {
        name: list(field.default) if isinstance(field.default, tuple) else field.default
        for name, field in Settings.model_fields.items()
        if not field.is_required()
    }
    assert {name: config[name] for name in plain} == plain
    for name, (kind, _) in BLOCKS.items():
        assert config[name] == {key: field.default for key, field in kind.model_fields.items()}
    assert set(config) == {*plain, *BLOCKS, *FACTORY_PACKAGES}


def test_plain_help_names_everything_without_torch() -> None:
    code = (
        "import sys; from fedrobust import simulate; sys.argv = ['simulate', '--help']; "
        "simulate.main(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "  num_clients=10" in lines
    assert "  server.scratch_dir=null" in lines
    assert "  strategy=etf_dml" in lines
    assert "  noise=clinical_noise" in lines
    assert "whole number, at least 1, at most 1000000: hospitals that take part" in done.stdout
    assert "18446744073709551615" not in done.stdout
    for one in (*Settings.model_fields.values(), *ServerSettings.model_fields.values()):
        assert one.description


def test_help_for_a_choice_shows_its_own_settings() -> None:
    text = " ".join(settings_help.describe(["strategy=multi_krum", "noise=hair", "--help"]).split())
    assert "strategy.f=3 whole number, at least 0: attackers to tolerate" in text
    assert "strategy.m=null whole number, at least 1, or null" in text
    assert "noise.severity=3" in text
    assert "num_clients" not in text


ALL = """
import json, sys
from fedrobust.experiment import settings_help
from fedrobust.utils.stand_ins import SLOW

print(json.dumps({word: settings_help.describe([word]) for word in sys.argv[1:]}))
assert not {*SLOW, "hydra"} & sys.modules.keys()
"""


def test_no_choice_needs_torch_for_its_help_nor_another_text_with_it() -> None:
    words = [
        f"{group}={name}"
        for group in FACTORY_PACKAGES
        if group not in SAME_CHOICES
        for name in choice_names(group)
    ]
    words += ["noise=hair", "corruption=label_flip"]
    done = subprocess.run(
        [sys.executable, "-c", ALL, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {word: settings_help.describe([word]) for word in words}


def test_the_defaults_are_those_of_a_run() -> None:
    """The yaml files are read without Hydra."""
    chosen = [
        *("model=meff", "strategy=etf_dml", "client=mutual_learning", "sanitiser=slab_etf"),
        *("data=fed_isic2019", "contamination=backdoor_distributed", "noise=mixture"),
    ]
    words = [word.replace("noise=", "contamination@noise=") for word in chosen]
    config = compose(*words, "data.root=.")
    for word in chosen:
        group = word.partition("=")[0]
        written, _ = settings_help._read_choice(word, ())
        known = {"root"} if group == "data" else set()
        assert {**written, **{key: config[group][key] for key in known}} == config[group]


def test_an_unknown_choice_is_refused_as_anywhere() -> None:
    with pytest.raises(ConfigError, match="strategy=krumm: no such choice; did you mean krum"):
        settings_help.describe(["strategy=krumm", "--help"])


def test_help_for_a_setting_without_a_default_says_so() -> None:
    text = settings_help.describe(["data=csv", "-h"])
    assert "  data.path=\n      text (must be given)" in text


@pytest.mark.parametrize(
    ("words", "asked"), [(["--help"], True), (["-h"], True), (["seed=1", "--hydra-help"], False)]
)
def test_who_asks_for_help(words: list[str], asked: bool) -> None:
    assert settings_help.is_help_requested(words) == asked
