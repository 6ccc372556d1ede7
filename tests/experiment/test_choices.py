"""The list of all choices says what they are, what they need and who published them, and says what
the objects themselves say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedrobust.errors import ConfigError
from fedrobust.experiment.choices import (
    Choice,
    choice_settings,
    group_meanings,
    list_choices,
)
from fedrobust.experiment.factories import FACTORY_PACKAGES, build_group

ROOT = Path(__file__).parents[2]
CHOICES = [one for group in group_meanings() for one in list_choices(group)]
# our own, or in common use without one publication
WITHOUT_PAPER = {
    "contamination": {
        *("adaptive_etf", "backdoor_clinical", "clinical_noise", "gaussian_update", "hair"),
        *("label_error", "label_flip", "mixture", "not_finite", "ruler", "sign_flip"),
    },
    "strategy": {"etf_dml"},
    "preaggregation": {"none", "clipping"},
    "server_optimizer": {"none"},
    "sanitiser": {"none"},
    "purifier": {"none", "gaussian", "jpeg", "median_filter"},
    "evasion": {"none"},
    "privacy": {"none", "clipping"},
    "model": {"meff"},
    "data": {"csv", "image_folder", "npz", "synthetic"},
    "partition": {"by_site", "iid", "quantity", "remote"},
}
NO_METHODS = {"experiment", "engine", "evaluation", "tracker"}


def named(one: Choice) -> str:
    return f"{one.group}={one.name}"


def built(one: Choice, **changed: Any) -> Any:
    settings = {**choice_settings(one.group, one.name), **changed}
    return build_group({one.group: settings}, one.group, num_classes=7)


def of(group: str) -> list[Choice]:
    return [one for one in CHOICES if one.group == group]


def test_every_group_and_every_choice_is_listed() -> None:
    assert {*group_meanings(), "noise", "corruption"} == {*FACTORY_PACKAGES, "experiment"}
    assert "noise and of corruption" in group_meanings()["contamination"]
    assert len(CHOICES) > 120
    assert len({(one.group, one.name) for one in CHOICES}) == len(CHOICES)


@pytest.mark.parametrize("one", CHOICES, ids=named)
def test_every_choice_is_described_in_a_sentence(one: Choice) -> None:
    assert re.fullmatch(r"[A-Z0-9`].{8,}\.", one.description), one.description
    assert "METHOD" not in one.description


@pytest.mark.parametrize("one", [one for one in CHOICES if one.group not in NO_METHODS], ids=named)
def test_every_published_choice_names_its_paper(one: Choice) -> None:
    if one.name in WITHOUT_PAPER.get(one.group, ()):
        assert not one.reference
    else:
        assert re.search(r"\b(19|20)\d\d\b|/docs/", one.reference), one.reference


@pytest.mark.parametrize("one", of("strategy"), ids=named)
def test_a_rule_says_which_images_and_how_many_clients_it_needs(one: Choice) -> None:
    rule = built(one)
    assert ("root images" in one.needs) == ("root" in rule.uses)
    assert ("proxy images" in one.needs) == ("proxy" in rule.uses)
    assert ("clients a round" in one.needs) == (rule.min_clients > 1)
    if counted := re.search(r"at least (\d)f \+ (\d) clients a round", one.needs):
        for f in (1, 2, 5):
            assert built(one, f=f).min_clients == int(counted[1]) * f + int(counted[2])


@pytest.mark.parametrize("one", of("preaggregation"), ids=named)
def test_a_preaggregation_says_which_images_and_how_many_clients_it_needs(one: Choice) -> None:
    assert ("proxy images" in one.needs) == ("proxy" in built(one).uses)
    assert ("2f + 1 clients a round" in one.needs) == ("f" in choice_settings(one.group, one.name))
    if "clients a round" in one.needs:
        assert built(one, f=2).min_clients == 5


@pytest.mark.parametrize("one", of("contamination"), ids=named)
def test_an_attack_says_whether_its_attackers_collude(one: Choice) -> None:
    attack = built(one)
    assert ("collusion" in one.needs) == (attack.collude is not None)
    assert ("model.feature_cache=false" in one.needs) == (attack.craft is not None)
    own = "knowledge" in choice_settings(one.group, one.name)
    assert ("knowledge=own" in one.needs) == own


@pytest.mark.parametrize("one", of("privacy"), ids=named)
def test_a_privacy_mode_says_what_it_excludes(one: Choice) -> None:
    mode = built(one)
    assert ("weighted sum" in one.needs) == mode.secure
    assert ("server.batchnorm=recalibrate or local" in one.needs) == (not mode.sends_buffers)


@pytest.mark.parametrize(
    "one", [*of("evasion"), *of("data"), *of("model"), *of("tracker")], ids=named
)
def test_extras_exist_and_are_named(one: Choice) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"the extra `(\w+)`", one.needs):
        assert extra in project["optional-dependencies"]
    assert ("`attacks`" in one.needs) == one.factory.startswith(
        "fedrobust.contamination.evasion.art_attacks."
    )
    assert one.group != "tracker" or ("the extra" in one.needs) == (one.name != "none")
    settings = choice_settings(one.group, one.name)
    required = [key for key, value in settings.items() if value == "???"]
    assert all(f"{one.group}.{key}" in one.needs for key in required)


def test_choices_of_one_factory_are_told_apart_by_their_yaml() -> None:
    small, large = list_choices("model", ["small", "resnet50"])
    assert small.factory == large.factory
    assert small.description != large.description


def test_noise_and_corruption_have_the_choices_of_contamination() -> None:
    assert list_choices("noise") == list_choices("contamination")


@pytest.mark.parametrize(
    ("group", "names", "reason"),
    [
        ("strateg", [], r"^strateg: unknown group; did you mean strategy\?"),
        ("strategy", ["krun"], r"^strategy=krun: unknown choice; did you mean krum\?"),
    ],
)
def test_unknown_words_are_refused_with_the_nearest(
    group: str, names: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        list_choices(group, names)
