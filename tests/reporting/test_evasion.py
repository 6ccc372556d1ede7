"""The report's section `evasion`, computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedrobust.contamination.base import Evasion
from fedrobust.evaluation.drops import combined_drop
from fedrobust.evaluation.evasion import AttackResult, AttackResults
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.evasion import evasion_section
from fedrobust.reporting.report.attacks import EvasionSection, RecoveredShare
from fedrobust.types import Purifier
from tests.helpers import federations


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    plain = federations.build_experiment(
        "poisoned=[1]", "evaluation.bootstrap_samples=200", "evasion=pgd"
    )
    return replace(
        plain, purifier=Purifier("cure"), evasion=Evasion("pgd", lambda *given: given[1])
    )


def sure(classes_N: Tensor, K: int = 7) -> Tensor:
    return torch.nn.functional.one_hot(classes_N, K).float()


def wrong(labels_N: Tensor, share: float) -> Tensor:
    """Predictions that take the first images of every class, this share of them, for the next
    class."""
    out = labels_N.clone()
    for one in range(7):
        mine = (labels_N == one).nonzero().reshape(-1)
        out[mine[: round(share * len(mine))]] = (one + 1) % 7
    return sure(out)


def scene(bare: float = 0.75, cured: float = 0.25) -> AttackResults:
    """140 images, 20 a class: everything right without an attack, 10 % wrong with the purifier."""
    labels = torch.arange(140) % 7
    clean = {"none": sure(labels), "cure": wrong(labels, 0.1)}
    made = (
        AttackResult("oblivious", 4.0, "none", wrong(labels, bare), 4 / 255, 0.3),
        AttackResult("oblivious", 4.0, "cure", wrong(labels, cured), 4 / 255, 0.3),
        AttackResult("bpda_eot", 4.0, "cure", wrong(labels, 0.6), 4 / 255, 0.31),
    )
    return AttackResults(labels, clean, made)


def judged(
    experiment: Experiment, whole: AttackResults, members: dict[int, AttackResults] | None = None
) -> EvasionSection:
    # as if every image were its own lesion
    experiment = replace(
        experiment,
        dataset=replace(experiment.dataset, groups=torch.arange(len(experiment.dataset.labels))),
    )
    return evasion_section(experiment, torch.arange(140), whole, members or {})


def test_by_hand(experiment: Experiment) -> None:
    section = judged(experiment, scene())
    assert (section.attack, section.purifier, section.images) == ("pgd", "cure", 140)
    balanced = {name: one.balanced_accuracy for name, one in section.clean.items()}
    assert balanced == {"none": pytest.approx(100), "cure": pytest.approx(90)}  # 2 of 20 wrong
    assert section.purifier_drop.per_metric["accuracy"].drop == pytest.approx(10)
    bare, cured, adaptive = section.attacks
    assert [one.metrics.balanced_accuracy for one in (bare, cured, adaptive)] == pytest.approx(
        [25, 75, 40]
    )
    assert [
        one.drop.per_metric["accuracy"].drop for one in (bare, cured, adaptive)
    ] == pytest.approx([75, 25, 60])
    # lost 100 - 25 = 75; there again 75 - 25 = 50 and 40 - 25 = 15
    assert bare.recovered is None
    assert cured.recovered.percent == pytest.approx(100 * 50 / 75)
    assert adaptive.recovered.percent == pytest.approx(100 * 15 / 75)
    for one in (cured, adaptive):
        low, high = one.recovered.ci95
        assert low < one.recovered.percent < high
        low, high = one.balanced_ci95
        assert low < one.metrics.balanced_accuracy < high
    assert (adaptive.linf, adaptive.l2) == (4 / 255, 0.31)


def test_the_drop_is_that_of_the_drops_module(experiment: Experiment) -> None:
    section = judged(experiment, scene())
    for one in section.attacks:
        expected = combined_drop(section.clean["none"].values, one.metrics.values)
        assert one.drop.combined == pytest.approx(expected.combined)
        low, high = one.drop.ci95
        assert low <= one.drop.combined <= high


def test_an_attack_that_takes_nothing_leaves_nothing_to_recover(experiment: Experiment) -> None:
    cured = judged(experiment, scene(bare=0.0)).attacks[1]
    assert cured.recovered == RecoveredShare(percent=None, ci95=None)


def test_a_purifier_can_take_more_than_the_attack(experiment: Experiment) -> None:
    assert judged(experiment, scene(bare=0.2, cured=0.4)).attacks[
        1
    ].recovered.percent == pytest.approx(-100)


def test_without_draws_there_are_no_intervals(experiment: Experiment) -> None:
    quick = replace(experiment, evaluation=replace(experiment.evaluation, bootstrap_samples=0))
    section = judged(quick, scene())
    assert section.purifier_drop.ci95 is None
    assert all(one.balanced_ci95 is None and one.drop.ci95 is None for one in section.attacks)
    assert section.attacks[1].recovered.ci95 is None


def test_the_clients_models_in_their_order(experiment: Experiment) -> None:
    whole = scene()
    own = replace(whole, made=whole.made[:2])
    section = judged(experiment, whole, {2: own, 1: own})
    assert [(one.id, one.kind) for one in section.clients] == [
        (1, "poisoned"),
        (2, "clean"),
    ]
    one = section.clients[0]
    assert one.clean["cure"].balanced_accuracy == pytest.approx(90)
    assert [(a.purifier, a.combined_drop) for a in one.attacks] == [
        (b.purifier, pytest.approx(b.drop.combined)) for b in section.attacks[:2]
    ]


def test_without_a_purifier(experiment: Experiment) -> None:
    bare = replace(experiment, purifier=Purifier("none"))
    whole = scene()
    section = judged(bare, replace(whole, clean={"none": whole.clean["none"]}, made=whole.made[:1]))
    assert section.purifier_drop is None
    assert list(section.clean) == ["none"]


def test_judging_repeats(experiment: Experiment) -> None:
    assert judged(experiment, scene()) == judged(experiment, scene())
