"""Chart of certified accuracy."""

from __future__ import annotations

from fedrobust.evaluation.statistics import wilson_interval
from fedrobust.reporting.findings import interval_text, percent
from fedrobust.reporting.report import Report
from fedrobust.reporting.web.figures import Figure
from fedrobust.reporting.web.lines import Line, Point, line_chart
from fedrobust.reporting.web.scales import axis, percent_axis


def certificate_figures(report: Report) -> tuple[Figure, ...]:
    """Certified accuracy against the number of malicious clients; none without a certificate."""
    found = report.certificate
    if found is None:
        return ()
    points = []
    for m, value in enumerate(found.certified_accuracy):
        interval = wilson_interval(round(value * found.images / 100), found.images)
        hover = f"{m} malicious clients\n{percent(value)} {interval_text(interval)}"
        points.append(Point(m, value, hover, interval))
    kind = "disjoint groups" if found.group_size is None else f"groups of {found.group_size}"
    x = axis([one.x for one in points], "Malicious clients", whole=True)
    chart = line_chart(
        "Certified accuracy",
        [Line("certified", "s2", tuple(points))],
        x,
        percent_axis("Certified accuracy, %"),
    )
    sure = (
        "" if found.alpha is None else f" All together hold with probability {1 - found.alpha:g}."
    )
    return (
        Figure(
            "Certified accuracy (%) against malicious clients",
            chart,
            f"Share of clean test images for which the majority of {found.groups} {kind} of "
            "clients, each with a global model of its own, is right and stays right whatever so "
            f"many clients do in training; accuracy of that majority: {percent(found.accuracy)}. "
            f"Lines with caps: 95 % intervals by Wilson's score.{sure}",
        ),
    )
