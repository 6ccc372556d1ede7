from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fedrobust.evaluation.detection import (
    DetectionScores,
    detection_scores,
    false_alarms,
    named_clients,
)
from fedrobust.evaluation.metrics import NAMES
from fedrobust.evaluation.settings import THREAT_MODELS
from fedrobust.experiment.experiment import KINDS
from fedrobust.reporting.report import read_report, report_text, write_report
from fedrobust.reporting.report.files import SCHEMA_FILE, schema_text
from fedrobust.reporting.report.values import (
    KIND_NAMES,
    METRIC_FIELDS,
    THREAT_NAMES,
    ReportSection,
    round_measured,
    round_percent,
    round_up,
)
from fedrobust.types import ClientRecord, RoundRecord
from fedrobust.utils.files import write_text
from tests.helpers import evasion_reports, reports
from tests.helpers.reports import typed


def changed(
    path: str, value: Any = None, remove: bool = False, twin: bool = True
) -> dict[str, Any]:
    """The example report with one entry set or removed; `path` with dots, numbers index lists."""
    report = copy.deepcopy(reports.report(twin=twin))
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = report
    for step in parents:
        place = place[step]
    if remove:
        del place[last]
    else:
        place[last] = value
    return report


@pytest.mark.parametrize(
    "shape",
    [(10, 3, 1, True), (10, 0, 0, True), (1, 0, 0, False), (1, 1, 0, True), (100, 30, 10, False)],
)
def test_good_reports_pass_and_come_back(tmp_path: Path, shape: tuple[int, int, int, bool]) -> None:
    report = reports.report(*shape)
    write_report(tmp_path, typed(report))
    found = read_report(tmp_path)
    assert reports.rounded(reports.plain(found)) == reports.rounded(report)
    assert report_text(found) == (tmp_path / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", sorted(reports.report()))
def test_every_top_level_key_is_required(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        typed(changed(key, remove=True))


@pytest.mark.parametrize(
    "path",
    [
        "drops.total",
        "drops.poisoning",
        "drops.corruption",
        "drops.clients",
        "drops.clients.by_kind",
        "drops.total.skipped",
        "evaluations.clean",
        "evaluations.corrupted",
        "evaluations.twin_corrupted",
        "evaluations.clean.ece",
        "evaluations.clean.n",
        "clients.0.kind",
        "clients.0.weight",
        "detection.recall",
        "drops.total.per_metric.f1.drop",
    ],
)
def test_missing_inner_keys_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=path.rsplit(".", maxsplit=1)[-1]):
        typed(changed(path, remove=True))


@pytest.mark.parametrize("name", ["median", "self_reported"])
def test_a_report_of_before_these_entries_can_be_read(name: str) -> None:
    found = typed(changed(f"drops.clients.{name}", remove=True))
    assert not getattr(found.drops.clients, name)


@pytest.mark.parametrize(
    "path",
    [
        "extra",
        "drops.extra",
        "drops.total.extra",
        "drops.total.by_kind",
        "drops.total.per_metric.f1.extra",
        "evaluations.clean.extra",
        "clients.0.extra",
        "detection.extra",
        "drops.clients.by_kind.evil",
    ],
)
def test_unknown_keys_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"at \$"):
        typed(changed(path, 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", 2),
        ("schema", True),
        ("seed", "0"),
        ("seed", 0.5),
        ("rounds", 0),
        ("rounds", True),
        ("strategy", ""),
        ("poisoned", [0, 0, 1]),
        ("evaluations.clean.accuracy", 101.0),
        ("evaluations.clean.accuracy", "61"),
        ("evaluations.clean.n", 0),
        ("drops.total.ci95", [1.0]),
        ("drops.total.ci95", [1.0, 2.0, 3.0]),
        ("drops.total.combined", 100.5),
        ("drops.total.skipped", "f1"),
        ("clients.3.weight", 1.5),
        ("clients.3.weight", None),
        ("clients.3.kind", "evil"),
        ("timing.train", -1.0),
        ("engine", None),
        ("privacy", None),
    ],
)
def test_wrong_types_and_ranges_are_refused_with_their_path(path: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"report.json at \$"):
        typed(changed(path, value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("path", ["drops.total.combined", "clients.3.clean.f1", "timing.train"])
def test_values_that_are_not_finite_are_refused(path: str, value: float) -> None:
    with pytest.raises(ValueError, match="should be a finite number"):
        typed(changed(path, value))


def test_the_path_of_the_fault_is_named() -> None:
    with pytest.raises(ValueError, match=r"\$\.clients\[3\]\.weight: 1.5"):
        typed(changed("clients.3.weight", 1.5))


def test_a_run_without_twin_has_no_twin_drops() -> None:
    report = reports.report(twin=False)
    report["drops"]["total"] = reports.skipped_drop()
    with pytest.raises(ValueError, match="drops"):
        typed(report)


@pytest.mark.parametrize(
    ("key", "value"), [("poisoned", [0, 1]), ("noisy", []), ("num_clients", 9)]
)
def test_lists_that_contradict_each_other_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match="clients"):
        typed(changed(key, value))


def test_equal_reports_are_equal_bytes(tmp_path: Path) -> None:
    report = reports.report()
    shuffled = dict(reversed(report.items()))
    assert (
        write_report(tmp_path / "a", typed(report)).read_bytes()
        == write_report(tmp_path / "b", typed(shuffled)).read_bytes()
    )


def test_reading_validates(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(changed("seed", "0")), encoding="utf-8")
    with pytest.raises(ValueError, match="seed"):
        read_report(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "page.html", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


def sections(model: type[ReportSection] = ReportSection) -> Iterator[type[ReportSection]]:
    for inner in model.__subclasses__():
        yield inner
        yield from sections(inner)


def test_the_schema_file_is_that_of_the_model() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run python -m fedrobust.reporting.report"
    )


def test_every_entry_says_what_it_is_in_one_line() -> None:
    for section in sections():
        for name, field in section.model_fields.items():
            assert field.description, (section, name)
            assert "\n" not in field.description, (section, name)


def test_the_contract_knows_the_names_of_the_program() -> None:
    assert KIND_NAMES == KINDS
    assert METRIC_FIELDS == NAMES
    assert THREAT_NAMES == THREAT_MODELS


@pytest.mark.slow
def test_the_schema_says_the_same_of_reports_as_the_model() -> None:
    """For an example, and for it with any one entry removed, set to null or to another value."""
    judge = Draft202012Validator(json.loads(schema_text()))
    assert judge.is_valid(reports.report(twin=False))
    section = evasion_reports.section((4.0,), clients=1)
    whole = {**reports.report(2, 1, 1), "evasion": section}
    whole["clients"][0]["site"] = "a hospital"
    assert judge.is_valid(whole)
    for path in paths(whole):
        for value in (REMOVED, None, -0.5):
            spoilt = copy.deepcopy(whole)
            *parents, last = path
            place: Any = spoilt
            for step in parents:
                place = place[step]
            if value is not REMOVED:
                place[last] = value
            elif isinstance(place, dict):
                del place[last]
            fault = refusal(spoilt)
            # no schema can say which clients there are
            beyond = fault.startswith(
                tuple(f"report.json at $: {key}:" for key in ("clients", "poisoned", "noisy"))
            )
            assert judge.is_valid(spoilt) == (not fault or beyond), (path, value, fault)


REMOVED = object()


def refusal(document: dict[str, Any]) -> str:
    """The reason why a document is no report; empty where it is one."""
    try:
        typed(document)
    except ValueError as error:
        return str(error)
    return ""


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """Paths of all entries; of lists the first item only."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, inner in items:
        yield (key,)
        if isinstance(inner, dict | list):
            yield from ((key, *rest) for rest in paths(inner))


def test_numbers_are_written_as_they_are_meant() -> None:
    report = changed("evaluations.clean.accuracy", 85.00000238418579)
    report["drops"]["total"] |= {"combined": -1.23456789, "ci95": [-0.00001, 7.000049]}
    report["clients"][0] |= {"weight": 1 / 3, "combined_drop": 99.99999}
    report["timing"] = {"run": 1234.56789, "final_evaluation": 0.000123456789}
    report["privacy"] = {
        "name": "local_dp",
        "clip": 1 / 3,
        "noise_multiplier": 1.0000001,
        "replies": 2,
        "delta": 1.23456789e-5,
        "epsilon_per_reply": 2.0000001,
        "epsilon": 2.5,
    }
    made = typed(report)
    assert made.evaluations["clean"].accuracy == 85.00000238418579  # in memory
    written = reports.plain(made)
    assert written["evaluations"]["clean"]["accuracy"] == 85.0
    assert written["drops"]["total"]["combined"] == -1.2346
    assert written["drops"]["total"]["ci95"] == [0.0, 7.0]
    assert '"-0.0' not in report_text(made)
    assert (written["clients"][0]["weight"], written["clients"][0]["combined_drop"]) == (
        0.333333,
        100.0,
    )
    assert written["timing"] == {"run": 1234.57, "final_evaluation": 0.000123457}
    # settings are not rounded; no smaller epsilon than holds
    assert written["privacy"] == {
        **report["privacy"],
        "epsilon_per_reply": 2.00001,
        "epsilon": 2.5,
    }


@settings(max_examples=100)
@given(st.floats(0, 1e6))
def test_rounding_twice_changes_nothing(value: float) -> None:
    for rounding in (round_percent, round_measured, round_up):
        once = rounding(value)
        assert rounding(once) == once
    assert round_up(value) >= value
    assert abs(round_percent(value) - value) <= 0.5001e-4
    assert round_measured(value) == pytest.approx(value, rel=0.51e-5)


def people(*rows: tuple[str, int, float]) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(id=number, kind=kind, num_examples=size, weight=weight)
        for number, (kind, size, weight) in enumerate(rows)
    ]


def test_detection_by_hand() -> None:
    # Shares by size of 400 images: .25 .25 .25 .25; equal share .25; flagged below .125: clients 0
    # and 3.
    found = detection_scores(
        people(
            ("poisoned", 100, 0.1), ("poisoned", 100, 0.3), ("clean", 100, 0.5), ("clean", 100, 0.1)
        )
    )
    assert found == DetectionScores(50.0, 50.0)


def test_false_alarms_by_hand() -> None:
    clients = people(
        ("poisoned", 100, 0.1), ("noisy", 100, 0.3), ("clean", 100, 0.5), ("clean", 100, 0.1)
    )
    assert false_alarms(clients) == pytest.approx(100 / 3)  # client 3 of 1, 2, 3
    assert false_alarms(clients, {0, 1, 2}) == pytest.approx(200 / 3)
    assert false_alarms(clients, set()) == 0
    assert false_alarms(clients[:1]) is None
    # numbers, not places: of clients 1 and 3 the second is named
    assert false_alarms([clients[1], clients[3]], {3}) == 50
    assert detection_scores([clients[0], clients[3]], {3}) == DetectionScores(0.0, 0.0, "rule")


def test_a_small_or_clipped_honest_client_is_not_flagged() -> None:
    # Client 1 has 10 of 1010 images: half of min(1/3, .0099) is .00495 < .0099. Client 0 has .89 of
    # the images, half of 1/3 is .167 < .3.
    found = detection_scores(
        people(("clean", 900, 0.6), ("clean", 10, 0.0099), ("poisoned", 100, 0.0))
    )
    assert found == DetectionScores(100.0, 100.0)


def test_detection_by_a_rule_that_names_clients() -> None:
    """The last report of the rule on each client counts, whatever its influence."""
    facts: tuple[Any, ...] = (1, 0.1, {})
    parts = (
        [(0, *facts, 1.0), (1, *facts, 1.0), (2, *facts, 0.0)],
        [(0, *facts, 0.0), (2, *facts, 1.0)],
        [],
    )
    rounds = [
        RoundRecord(number, {}, tuple(ClientRecord(*one, {"noisy": word}) for *one, word in part))
        for number, part in enumerate(parts)
    ]
    named = named_clients(rounds)
    assert named == {1, 2}
    everybody = people(("clean", 1, 0.0), ("poisoned", 1, 0.4), ("clean", 1, 0.6))
    assert detection_scores(everybody, named) == DetectionScores(50.0, 100.0, "rule")
    assert named_clients([RoundRecord(1, {}, (ClientRecord(0, 1, 0.1, {}),))]) is None
    assert detection_scores(everybody, frozenset()) == DetectionScores(None, 0.0, "rule")


def test_detection_where_there_is_nothing_to_find() -> None:
    assert detection_scores(people(("clean", 1, 0.5), ("noisy", 1, 0.0))) is None
    assert detection_scores(people(("clean", 1, 0.5), ("poisoned", 1, 0.5))) == DetectionScores(
        None, 0.0
    )


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["clean", "noisy", "poisoned"]), st.integers(1, 1000)),
        min_size=1,
        max_size=20,
    )
)
def test_weights_by_size_flag_nobody_and_zero_weights_everybody(
    rows: list[tuple[str, int]],
) -> None:
    total = sum(size for _, size in rows)
    bad = sum(kind == "poisoned" for kind, _ in rows)
    by_size = detection_scores(people(*((kind, size, size / total) for kind, size in rows)))
    nothing = detection_scores(people(*((kind, size, 0.0) for kind, size in rows)))
    assert by_size == (DetectionScores(None, 0.0) if bad else None)
    assert nothing == (DetectionScores(100 * bad / len(rows), 100.0) if bad else None)
