"""The demo refuses a wrong configuration before it starts any process."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrobust.errors import ConfigError
from fedrobust.federation import demo


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


def test_a_right_configuration_is_started(tmp_path: Path) -> None:
    with pytest.raises(StartedError):
        demo.demo(tmp_path / "new", [], DATA, 1.0)
