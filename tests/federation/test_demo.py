"""The demo refuses a wrong configuration before it starts any process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedrobust.errors import ConfigError
from fedrobust.federation import demo
from fedrobust.federation.__main__ import main
from fedrobust.learning.classifier import ModelFactory


class StartedError(Exception):
    """The processes would start now."""


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise StartedError

    monkeypatch.setattr(demo, "LocalFederation", start)


DATA = ("data=synthetic", "data.size=16", "data.num_images=1800")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("rounds=0", "rounds=0: must be at least 1"),
        ("rouns=1", "did you mean rounds=1"),
        ("strategy.f=9", "strategy.f=9"),
        ("client.optimizer.lr=abc", "client.optimizer.lr=abc: must be a number"),
        ("poisoned=1", "poisoned, noisy: the sites refuse contamination"),
        ("model.options={depth: 3}", "model.options="),
    ],
)
def test_a_wrong_configuration_is_refused_first(word: str, line: str, tmp_path: Path) -> None:
    words = ["strategy=krum", word] if word.startswith("strategy") else [word]
    with pytest.raises(ConfigError) as caught:
        demo.demo(tmp_path / "new", words, DATA, 1.0)
    assert line in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("quiet", [False, True])
def test_a_right_configuration_is_started(
    quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartedError):
        demo.demo(tmp_path / "new", [], DATA, 1.0, quiet=quiet)
    assert ("three sites: " in capsys.readouterr().out) != quiet


def test_the_command_hands_quiet_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[tuple[object, ...]] = []

    def run(folder: Path, *words: object, quiet: bool) -> Path:
        given.append((*words, quiet))
        return folder

    monkeypatch.setattr(demo, "demo", run)
    assert main(["demo", str(tmp_path), "rounds=3", "quiet=true", "data=npz"]) == 0
    assert given == [(["rounds=3"], ["data=npz"], 86400.0, True)]
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n"
    assert main(["demo", str(tmp_path), "dry_run=true"]) == 2
    assert "dry_run=true: is for simulate" in capsys.readouterr().err


def test_a_choice_replaces_that_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[list[str]] = []

    def check(words: list[str]) -> SimpleNamespace:
        checked.append(words)
        return SimpleNamespace(model=ModelFactory("resnet18", "etf", 8, 16.0))

    monkeypatch.setattr(demo, "_check_run", check)
    for word in ("model=small", "model=resnet18", "rounds=5"):
        with pytest.raises(StartedError):
            demo.demo(tmp_path / word, [word], DATA, 1.0)
        key = word.partition("=")[0]
        assert [one for one in checked[-1] if one.startswith(f"{key}=")] == [word]
        assert "server.proxy_images=64" in checked[-1]


def test_its_sites_have_the_pretrained_weights_that_a_run_freezes() -> None:
    model = ModelFactory("tf_efficientnet_lite0", "linear", 8, 1.0, pretrained=True)
    assert demo._own_weights(model) == ""
    frozen = replace(model, freeze="backbone")
    assert demo._own_weights(frozen) == "packaged"
    of_a_file = replace(frozen, pretrained=False, checkpoint="w.safetensors")
    assert demo._own_weights(of_a_file) == str(Path("w.safetensors").absolute())
    assert demo._own_weights(replace(frozen, pretrained=False)) == ""
