from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.evaluation.detection import detection_scores
from fedrobust.reporting.report import read_report, validate, write_report
from fedrobust.utils.files import write_text
from tests.helpers import reports


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
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report


@pytest.mark.parametrize("key", sorted(reports.report()))
def test_every_top_level_key_is_required(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        validate(changed(key, remove=True))


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
        validate(changed(path, remove=True))


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
        validate(changed(path, 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", 2),
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
        ("device", Path("cpu")),
    ],
)
def test_wrong_types_and_ranges_are_refused_with_their_path(path: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"report.json at \$"):
        validate(changed(path, value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("path", ["drops.total.combined", "clients.3.clean.f1", "timing.train"])
def test_values_that_are_not_finite_are_refused(path: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        write_report(tmp_path, changed(path, value))
    assert list(tmp_path.iterdir()) == []


def test_the_path_of_the_fault_is_named() -> None:
    with pytest.raises(ValueError, match=r"\$\.clients\[3\]\.weight: 1.5"):
        validate(changed("clients.3.weight", 1.5))


def test_a_run_without_twin_has_no_twin_drops() -> None:
    report = reports.report(twin=False)
    report["drops"]["total"] = reports.skipped_drop()
    with pytest.raises(ValueError, match="drops"):
        validate(report)


@pytest.mark.parametrize(
    ("key", "value"), [("poisoned", [0, 1]), ("noisy", []), ("num_clients", 9)]
)
def test_lists_that_contradict_each_other_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match="clients"):
        validate(changed(key, value))


def test_tuples_are_written_as_lists_and_inputs_stay(tmp_path: Path) -> None:
    report = changed("drops.total.ci95", (1.0, 2.0))
    before = copy.deepcopy(report)
    write_report(tmp_path, report)
    assert report == before
    assert read_report(tmp_path)["drops"]["total"]["ci95"] == [1.0, 2.0]


def test_equal_reports_are_equal_bytes(tmp_path: Path) -> None:
    report = reports.report()
    shuffled = dict(reversed(report.items()))
    assert (
        write_report(tmp_path / "a", report).read_bytes()
        == write_report(tmp_path / "b", shuffled).read_bytes()
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


def people(*rows: tuple[str, int, float]) -> list[dict[str, Any]]:
    return [{"kind": kind, "num_examples": size, "weight": weight} for kind, size, weight in rows]


def test_detection_by_hand() -> None:
    # Shares by size of 400 images: .25 .25 .25 .25; equal share .25; flagged below .125: clients 0
    # and 3.
    found = detection_scores(
        people(
            ("poisoned", 100, 0.1), ("poisoned", 100, 0.3), ("clean", 100, 0.5), ("clean", 100, 0.1)
        )
    )
    assert found == {"precision": 50.0, "recall": 50.0}


def test_a_small_or_clipped_honest_client_is_not_flagged() -> None:
    # Client 1 has 10 of 1010 images: half of min(1/3, .0099) is .00495 < .0099. Client 0 has .89 of
    # the images, half of 1/3 is .167 < .3.
    found = detection_scores(
        people(("clean", 900, 0.6), ("clean", 10, 0.0099), ("poisoned", 100, 0.0))
    )
    assert found == {"precision": 100.0, "recall": 100.0}


def test_detection_where_there_is_nothing_to_find() -> None:
    assert detection_scores(people(("clean", 1, 0.5), ("noisy", 1, 0.0))) is None
    assert detection_scores(people(("clean", 1, 0.5), ("poisoned", 1, 0.5))) == {
        "precision": None,
        "recall": 0.0,
    }


@settings(deadline=None, max_examples=40)
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
    assert by_size == ({"precision": None, "recall": 0.0} if bad else None)
    assert nothing == ({"precision": 100 * bad / len(rows), "recall": 100.0} if bad else None)
