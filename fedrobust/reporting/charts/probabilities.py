"""Charts of the predicted probabilities: reliability and ROC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from markupsafe import Markup

from fedrobust.evaluation.prediction_details import ROC_POINTS
from fedrobust.reporting.findings import percent
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.details import PredictionDetails
from fedrobust.reporting.web.figures import Figure, Key
from fedrobust.reporting.web.lines import Line, Point, diagonal, line_chart
from fedrobust.reporting.web.scales import percent_axis
from fedrobust.utils.counting import format_count

# key, colour and name of what is compared in several charts
EVALUATION_LOOKS: Final = {
    "twin_clean": ("s0", "clean twin, clean images"),
    "clean": ("s1", "this run, clean images"),
    "corrupted": ("s3", "this run, corrupted images"),
    "purified_clean": ("s2", "this run, clean images behind the purifier"),
    "purified_corrupted": ("s4", "this run, corrupted images behind the purifier"),
}


def probability_figures(report: Report) -> tuple[Figure, ...]:
    """Reliability and ROC of all evaluations with details."""
    details = {
        name: one for name, one in (report.details or {}).items() if name in EVALUATION_LOOKS
    }
    if not details:
        return ()
    ordered = {name: details[name] for name in EVALUATION_LOOKS if name in details}
    found = [_reliability_figure(report, ordered)]
    if any(one.roc for one in ordered.values()):
        found.append(_roc_figure(report, ordered))
    return tuple(found)


def _evaluation_keys(details: Mapping[str, PredictionDetails]) -> tuple[Key, ...]:
    return tuple(Key(name, *EVALUATION_LOOKS[name]) for name in details)


def _lines(points: Mapping[str, tuple[Point, ...]], shape: str = "circle") -> list[Line]:
    return [
        Line(name, EVALUATION_LOOKS[name][0], found, shape=shape)
        for name, found in points.items()
        if found
    ]


def _square_chart(title: str, lines: list[Line], x: str, y: str) -> Markup:
    return line_chart(
        title, lines, percent_axis(x), percent_axis(y), guides=[diagonal()], square=True
    )


def _values(report: Report, names: Mapping[str, PredictionDetails], metric: str) -> str:
    return ", ".join(
        f"{EVALUATION_LOOKS[name][1]} {percent(getattr(report.evaluations[name], metric))}"
        for name in names
    )


def _reliability_figure(report: Report, details: Mapping[str, PredictionDetails]) -> Figure:
    points = {
        name: tuple(
            Point(
                one.confidence,
                one.accuracy,
                f"{EVALUATION_LOOKS[name][1]}\nconfidence {percent(one.confidence)}, right "
                f"{percent(one.accuracy)}\n{format_count(one.n, 'image')}",
            )
            for one in part.reliability
        )
        for name, part in details.items()
    }
    return Figure(
        "Reliability: right predictions (%) against confidence (%)",
        _square_chart(
            "Reliability diagram",
            _lines(points),
            "Mean confidence of the prediction, %",
            "Right predictions, %",
        ),
        "On the dotted diagonal confidence is what it says; below it the model is too sure. Ten "
        "bins, empty ones left out. Expected calibration error: "
        f"{_values(report, details, 'ece')}.",
        _evaluation_keys(details),
    )


def _roc_figure(report: Report, details: Mapping[str, PredictionDetails]) -> Figure:
    step = 100 / (ROC_POINTS - 1)
    points = {
        name: tuple(
            Point(
                step * place,
                rate,
                f"{EVALUATION_LOOKS[name][1]}\nfalse positive {percent(step * place, 0)}, true "
                f"positive {percent(rate)}",
            )
            for place, rate in enumerate(part.roc or ())
        )
        for name, part in details.items()
    }
    return Figure(
        "ROC: true (%) against false positive rate (%)",
        _square_chart(
            "ROC curves",
            _lines(points, shape="none"),
            "False positive rate, %",
            "True positive rate, %",
        ),
        f"One class against the rest, mean over the classes; dotted: chance. Area: "
        f"{_values(report, details, 'auroc')}.",
        _evaluation_keys(details),
    )
