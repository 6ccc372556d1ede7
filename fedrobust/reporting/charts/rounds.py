"""Charts over the rounds: metrics, and the influence of each hospital."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from fedrobust.reporting import text
from fedrobust.reporting.charts.hospitals import MOST_CLIENTS
from fedrobust.reporting.findings import percent
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.schedule import LASTING, ScheduleSection
from fedrobust.reporting.report.sections import ClientResult
from fedrobust.reporting.report.values import KIND_NAMES
from fedrobust.reporting.web.figures import Figure, Key
from fedrobust.reporting.web.lines import MOST_NAMES, WIDEST_NAME, Line, Point, level, line_chart
from fedrobust.reporting.web.parts import name_width
from fedrobust.reporting.web.scales import axis, percent_axis
from fedrobust.types import SUCCESS, TWIN, RoundRecord

Rounds = Mapping[str, Sequence[RoundRecord]]
MOST_ROUNDS: Final = 60  # with visible marks
MOST_LINES: Final = 200  # of hospitals; with more every n-th of a kind has one
DASHES: Final = {"clean": "", "noisy": "7 3 2 3", "poisoned": "5 3"}
# key, colour and name of what is compared in several charts
RUN, TWIN_LOOK = ("run", "s1"), ("twin", "s0")


def round_figures(report: Report, rounds: Rounds) -> tuple[Figure, ...]:
    """Balanced accuracy, and the influence of each hospital."""
    found = []
    if rounds.get("run"):
        found.append(metric_figure(rounds, "balanced_accuracy"))
        if report.schedule is not None:
            success = _success_figure(report.schedule, rounds["run"])
            found += [success] if success else []
        influence = _influence_figure(report, rounds["run"])
        found += [influence] if influence else []
    return tuple(found)


def metric_figure(rounds: Rounds, metric: str) -> Figure:
    """One metric of the validation images over the rounds, of this run and its twin."""
    title = text.METRIC_TITLES[metric]
    lines, keys = [], []
    for run, (key, look), name, dashes, shape in (
        (TWIN, TWIN_LOOK, "clean twin", "5 3", "square"),
        ("run", RUN, "this run", "", "circle"),
    ):
        records = rounds.get(run, ())
        if records:
            points = tuple(
                Point(
                    one.number,
                    one.metrics.get(metric),
                    f"{name}, round {one.number}\n{title}: {percent(one.metrics.get(metric))}",
                )
                for one in records
            )
            shown = shape if len(points) <= MOST_ROUNDS else "none"
            lines.append(Line(key, look, points, dashes, shown))
            keys.append(Key(key, look, name, bool(dashes)))
    numbers = [point.x for line in lines for point in line.points]
    chart = line_chart(
        f"{title} over the rounds",
        lines,
        axis(numbers, "Round (0: untrained)", whole=True),
        percent_axis(f"{title}, %"),
    )
    return Figure(
        f"{title} (%) over the rounds",
        chart,
        "The global model on the clean validation images after every round.",
        tuple(reversed(keys)),
    )


def _success_figure(schedule: ScheduleSection, records: Sequence[RoundRecord]) -> Figure | None:
    """A backdoor's success over the rounds, and in which of them there was an attack."""
    known = [record for record in records if SUCCESS in record.extras]
    if not known:
        return None
    attacked = set(schedule.attacked)
    points = tuple(
        Point(
            one.number,
            one.extras[SUCCESS],
            f"round {one.number}{'' if one.number in attacked else ' (no attack)'}\n"
            f"attack success rate: {percent(one.extras[SUCCESS])}",
        )
        for one in known
    )
    y = percent_axis("Attack success rate, %")
    chart = line_chart(
        "Attack success rate over the rounds",
        [Line(*RUN, points, shape="circle" if len(points) <= MOST_ROUNDS else "none")],
        axis([point.x for point in points], "Round (0: untrained)", whole=True),
        y,
        guides=[level(LASTING, y)],
    )
    return Figure(
        "Attack success rate (%) over the rounds",
        chart,
        "Test images of other classes that the trigger turns into the attacker's class. "
        f"{text.attacked_rounds(schedule)}; in all other rounds poisoned hospitals are honest or "
        f"absent. Dotted: {LASTING:g} %, above which the backdoor counts as lasting.",
    )


def _influence_figure(report: Report, records: Sequence[RoundRecord]) -> Figure | None:
    trained = [record for record in records if record.clients]
    if not trained:
        return None
    known = [{one.client: one.weight for one in record.clients} for record in trained]
    weights = {one.id: [row.get(one.id) for row in known] for one in report.clients}
    many = len(report.clients) > MOST_CLIENTS
    order = sorted(report.clients, key=lambda client: KIND_NAMES.index(client.kind))
    lines = [
        _influence_line(one, weights[one.id], trained, many=many)
        for one in order[:: math.ceil(len(order) / MOST_LINES)]
    ]
    kinds = [kind for kind, number in text.count_kinds(report).items() if number]
    if many:
        lines += [_median_line(kind, report.clients, weights, trained) for kind in kinds]
    fair = 1 / report.num_clients
    values = [weight for row in weights.values() for weight in row]
    y = axis(values, "Weight, share from 0 to 1", include=(0.0, fair))
    named = len(lines) <= MOST_NAMES
    room = name_width((line.name for line in lines), WIDEST_NAME) if named else 12.0
    chart = line_chart(
        "Influence of each hospital over the rounds",
        lines,
        axis([record.number for record in trained], "Round", whole=True),
        y,
        guides=[level(fair, y, room)],
    )
    counts = text.count_kinds(report)
    keys = tuple(Key(kind, kind, f"{kind} ({counts[kind]})", bool(DASHES[kind])) for kind in kinds)
    bold = " Bold: the median of a kind." if many else ""
    return Figure(
        "Influence of each hospital (share of the update)",
        chart,
        f"Weight that {report.strategy} gave each hospital's update in a round, 0 to 1; dotted: an "
        f"equal share.{bold} Number and name stand at the end of each line."
        if named
        else f"Weight that {report.strategy} gave each hospital's update in a round, 0 to 1; "
        f"dotted: an equal share.{bold}",
        keys,
    )


def _influence_line(
    one: ClientResult,
    weights: Sequence[float | None],
    trained: Sequence[RoundRecord],
    *,
    many: bool,
) -> Line:
    name = text.client_name(one)
    points = tuple(
        Point(
            record.number,
            weight,
            ""
            if many
            else f"hospital {name} ({one.kind}), round {record.number}\n"
            f"weight {text.format_number(weight, 3)}",
        )
        for record, weight in zip(trained, weights, strict=True)
    )
    look = f"{one.kind} thin" if many else one.kind
    shape = "none" if many else "circle" if one.kind == "clean" else "square"
    return Line(one.kind, look, points, DASHES[one.kind], shape, "" if many else name)


def _median_line(
    kind: str,
    clients: Sequence[ClientResult],
    weights: Mapping[int, Sequence[float | None]],
    trained: Sequence[RoundRecord],
) -> Line:
    rows = [weights[one.id] for one in clients if one.kind == kind]
    points = []
    for place, record in enumerate(trained):
        known = [value for row in rows if (value := row[place]) is not None]
        middle = median(known) if known else None
        hover = f"median of {kind}, round {record.number}\n{text.format_number(middle, 3)}"
        points.append(Point(record.number, middle, hover))
    return Line(kind, f"{kind} bold", tuple(points), DASHES[kind], "none")
