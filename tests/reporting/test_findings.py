"""The sentences at the head of the page: what was done, what came of it, what to beware of."""

from __future__ import annotations

from typing import Any

import pytest

from fedrobust.reporting import findings, text
from tests.helpers import evasion_reports, reports

MINUS, TWINS = findings.MINUS, "of the clean twin's performance"
UNCLEAR = "not distinguishable from no drop"


def sentence(report: dict[str, Any]) -> str:
    return findings.headline_sentence(reports.typed(report))


def with_drop(combined: float | None, ci95: list[float] | None, **parts: Any) -> dict[str, Any]:
    report = reports.full_report(**parts)
    report["drops"]["poisoning"] |= {"combined": combined, "ci95": ci95}
    return report


@pytest.mark.parametrize(
    ("combined", "ci95", "outcome"),
    [
        (0.2, [-3.6, 3.3], f"costs 0.2 % {TWINS} [{MINUS}3.6, 3.3]: {UNCLEAR}."),
        (7.0, [2.0, 11.0], f"costs 7.0 % {TWINS} [2.0, 11.0]: a drop."),
        (7.0, None, f"costs 7.0 % {TWINS} (no interval was computed)."),
        (-7.0, [-9.0, -1.0], f"comes with a gain of 7.0 % {TWINS} [1.0, 9.0]: a gain."),
        (-2.8, [-9.0, 1.0], f"comes with a gain of 2.8 % {TWINS} [{MINUS}1.0, 9.0]: {UNCLEAR}."),
        (-7.0, None, f"comes with a gain of 7.0 % {TWINS} (no interval was computed)."),
        (-0.04, None, f"costs 0.0 % {TWINS} (no interval was computed)."),
        (None, None, "costs an unknown share, since no metric has a drop."),
    ],
)  # fmt: skip
def test_one_sentence_says_what_was_done_and_what_came_of_it(
    combined: float | None, ci95: list[float] | None, outcome: str
) -> None:
    assert sentence(with_drop(combined, ci95, noisy=0)) == (
        "label_flip by 3 of 10 hospitals on skin (resnet50, etf_dml) " + outcome
    )


def test_the_sentence_names_both_kinds_of_contamination() -> None:
    found = sentence(reports.full_report())
    assert found.startswith("label_flip by 3 of 10 hospitals and clinical_noise at 1 of 10 hosp")


def test_without_contamination_the_corruption_is_what_was_done() -> None:
    found = sentence(reports.full_report(poisoned=0, noisy=0))
    assert found.startswith("No hospital of 10 is contaminated on skin (resnet50, etf_dml); ")
    assert "gaussian_noise of the test images costs 17." in found


def test_without_a_twin_the_cost_is_unknown() -> None:
    found = sentence(reports.full_report(twin=False))
    assert "without a clean twin it is unknown what this costs" in found
    assert found.endswith("the balanced accuracy on clean test images is 48.1 %.")


def test_a_report_of_an_earlier_version_has_a_sentence_too() -> None:
    assert sentence(reports.report()).startswith(
        "poisoning by 3 of 10 hospitals and noise at 1 of 10 hospitals under etf_dml costs "
    )


@pytest.mark.parametrize(("level", "warned"), [(14.2, True), (22.8, True), (22.9, False)])
def test_a_twin_near_chance_is_warned_of_with_the_criterion(level: float, warned: bool) -> None:
    report = reports.full_report(classes=[f"c{k}" for k in range(7)])
    report["evaluations"]["twin_clean"]["balanced_accuracy"] = level
    found = findings.warnings(reports.typed(report), 7)
    assert bool(found) == warned
    for line in found:
        assert line.startswith(
            "The clean twin has not learned: its balanced accuracy on the clean test images is "
            f"{level} %, below 22.9 %. Criterion: at least a tenth of the way from chance (14.3 %"
        )


def test_nothing_is_warned_of_where_the_classes_are_unknown() -> None:
    report = reports.report()
    report["evaluations"]["twin_clean"]["balanced_accuracy"] = 1.0
    assert findings.warnings(reports.typed(report), 0) == []


def test_evasion_and_purifier_have_their_sentences() -> None:
    report = reports.full_report() | {"evasion": evasion_reports.section()}
    report["evaluations"] |= {
        "purified_clean": reports.evaluation(46.0),
        "purified_corrupted": reports.evaluation(44.0),
    }
    evasion, purifier, backdoor = findings.further_sentences(reports.typed(report))
    assert evasion.startswith(
        "pgd within 8/255 of every value takes the balanced accuracy on 240 test images from 48.1 %"
    )
    assert "; behind mdda it is " in evasion
    assert purifier == (
        "Behind mdda the balanced accuracy on corrupted test images is 44.0 %, without it 39.4 %."
    )
    assert backdoor.startswith("The backdoor succeeds on 11.3 %")


def test_the_setup_names_the_purifier_where_there_is_no_evasion_attack() -> None:
    report = reports.full_report()
    report["setup"]["purifier"] = {"name": "mdda", "settings": {"steps": 3}}
    report["evaluations"] |= {
        "purified_clean": reports.evaluation(46.0),
        "purified_corrupted": reports.evaluation(44.0),
    }
    made = reports.typed(report)
    assert findings.further_sentences(made)[0].startswith("Behind mdda the balanced accuracy")
    facts = dict(findings.run_facts(made, {"started_utc": "today"}, {"root": 84}))
    assert facts["Purifier"] == "mdda (steps 3)"
    assert facts["Data"].startswith("skin: 3 classes, images of 32 px: 700 training")
    assert facts["Model"] == "resnet50 (head etf, pretrained no)"
    assert facts["Partition"] == "dirichlet (alpha 0.5)"
    assert facts["Attack"] == "label_flip (rate 1)"
    assert facts["Data on the server"] == "root (84 images)"


def test_the_poisoning_drop_is_the_first_number_and_all_have_units() -> None:
    report = reports.typed(reports.full_report())
    found = findings.headline_values(report, ["mel", "nv", "bcc"])
    assert found[0][0] == "Combined drop: poisoning"
    assert all(value.endswith(" %") for _, value, _ in found)
    notes = {title: note for title, _, note in found}
    recall = notes["Poisoned clients found: recall"]
    assert recall == (
        "3 of 3 poisoned flagged by their influence; precision 100.0 %: 3 of 3 flagged are poisoned"
    )
    assert notes["Worst class"].startswith("recall of bcc [")


def test_the_worst_hospital_and_class_are_named_with_their_drop() -> None:
    made = reports.typed(reports.full_report())
    found = {
        title: (value, note)
        for title, value, note in findings.headline_values(made, ["a", "b", "c"])
    }
    assert found["Worst hospital"] == (
        "40.0 %",
        "accuracy at hospital 7 [36.0, 43.0]; drop to the clean twin's worst 11.1 % [7.1, 14.1]",
    )
    assert found["Worst class"][1].startswith("recall of c [36.0, 43.0]; drop")


def test_without_a_twin_or_in_earlier_reports_no_drop_of_the_worst_is_named() -> None:
    made = reports.typed(reports.full_report(twin=False))
    notes = {title: note for title, _, note in findings.headline_values(made, [])}
    assert notes["Worst class"] == "recall of 2 [36.0, 43.0]"
    old = reports.typed(reports.report())
    assert "Worst class" not in {title for title, _, _ in findings.headline_values(old, [])}


def test_influence_zero_of_an_honest_hospital_is_explained() -> None:
    report = reports.full_report()
    assert findings.influence_notes(reports.typed(report)) == []
    report["clients"][8]["weight"] = 0.0002
    report["clients"][0]["weight"] = 0.0  # poisoned
    [note] = findings.influence_notes(reports.typed(report))
    assert note.startswith("Influence 0 of honest hospital 8: etf_dml used none of its updates.")
    assert "false alarm" in note


def test_whom_the_rule_considers_contaminated_is_said() -> None:
    report = reports.full_report()
    report["clients"][8]["weight"] = 0.0
    report["named"] = [0, 8]
    named, silent = findings.influence_notes(reports.typed(report))
    assert named == "Considered contaminated by etf_dml: 0, 8."
    assert "false alarm" not in silent  # naming says who is one
    assert "considered contaminated by etf_dml: 0, 8" in text.attack_lines(reports.typed(report))
    report["named"] = []
    named, _ = findings.influence_notes(reports.typed(report))
    assert named == "Considered contaminated by etf_dml: nobody."


def test_rounded_counts_have_no_interval() -> None:
    report = reports.report()
    report["clients"][0]["disclosure"] = {"form": "counts", "min_cell": 5}
    rounded, exact, *_ = reports.typed(report).clients
    assert findings.accuracy_interval(rounded, "clean") is None
    assert findings.accuracy_interval(exact, "clean") is not None


def test_an_early_end_and_the_best_round_are_said() -> None:
    document = {
        **reports.report(),
        "stopping": {"planned_rounds": 50, "reason": "its rounds took 61.0 of 60 s"},
        "best": {"metric": "f1", "round": 2, "value": 81.25},
    }
    assert findings.further_sentences(reports.typed(document))[:2] == [
        "Ended after round 5 of 50: its rounds took 61.0 of 60 s.",
        "Best round 2 of 5: 81.2 % f1 of the validation images (best.safetensors; all else is of "
        "the last round).",
    ]
    document["best"] = {"metric": "f1", "round": None, "value": None}
    del document["stopping"]
    assert (
        "No best round: f1 of the validation images was never defined."
        in findings.further_sentences(reports.typed(document))
    )


def test_numbers_get_a_true_minus_sign_and_names_keep_theirs() -> None:
    words = "worst-case -3.6 [-7, -0.5] of p-3, 1e-05, a -b"
    assert findings.true_minus(words) == (
        f"worst-case {MINUS}3.6 [{MINUS}7, {MINUS}0.5] of p-3, 1e-05, a -b"
    )
