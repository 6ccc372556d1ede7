"""The charts of a run's page, from its report and its rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from fedrobust.evaluation.prediction_details import ROC_POINTS
from fedrobust.evaluation.statistics import wilson_interval
from fedrobust.reporting import text
from fedrobust.reporting.findings import (
    accuracy_interval,
    class_hits,
    influence_notes,
    interval_text,
    percent,
    worst_class,
    worst_client,
)
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.attacks import AttackedModel, AttackOutcome
from fedrobust.reporting.report.details import PredictionDetails
from fedrobust.reporting.report.metrics import ConditionDrop
from fedrobust.reporting.report.sections import ClientResult
from fedrobust.reporting.report.values import KIND_NAMES
from fedrobust.reporting.web.bars import Bar, BarRow, Stack, bar_chart, stacked_chart
from fedrobust.reporting.web.figures import Figure, FigureSection, Key
from fedrobust.reporting.web.lines import (
    MOST_NAMES,
    WIDEST_NAME,
    Line,
    Point,
    diagonal,
    level,
    line_chart,
)
from fedrobust.reporting.web.matrices import heat_map
from fedrobust.reporting.web.parts import name_width
from fedrobust.reporting.web.scales import axis, percent_axis
from fedrobust.types import TWIN, RoundRecord
from fedrobust.utils.counting import format_count

Rounds = Mapping[str, Sequence[RoundRecord]]

MOST_ROUNDS: Final = 60  # with visible marks
OTHER_METRICS: Final = ("accuracy", "f1", "auroc")
MOST_CLIENTS: Final = 30  # bars of hospitals; lines with marks and names
MOST_LINES: Final = 200  # of hospitals; with more every n-th of a kind has one
COLOURS, TONES = 8, 3  # of classes; a ninth has the first colour in a lighter tone
MOST_CLASSES: Final = 30  # bars of classes; cells of a matrix
DASHES: Final = {"clean": "", "noisy": "7 3 2 3", "poisoned": "5 3"}
# key, colour and name of what is compared in several charts
RUN, TWIN_LOOK = ("run", "s1"), ("twin", "s0")
EVALUATION_LOOKS: Final = {
    "twin_clean": ("s0", "clean twin, clean images"),
    "clean": ("s1", "this run, clean images"),
    "corrupted": ("s3", "this run, corrupted images"),
    "purified_clean": ("s2", "this run, clean images behind the purifier"),
    "purified_corrupted": ("s4", "this run, corrupted images behind the purifier"),
}


def figure_sections(report: Report, rounds: Rounds, classes: list[str]) -> list[FigureSection]:
    """All sections of charts for which there are data.

    Args:
        report: of the run.
        rounds: by run, oldest first.
        classes: names of the classes; empty: unknown.
    """
    found = [
        FigureSection("drops", "Performance drop", _drop_figures(report)),
        FigureSection(
            "rounds",
            "Rounds and influence",
            _round_figures(report, rounds),
            tuple(_metric_figure(rounds, metric) for metric in OTHER_METRICS if rounds.get("run")),
            tuple(influence_notes(report)),
        ),
        FigureSection("hospitals", "Hospitals", _client_figures(report, classes)),
        FigureSection("classes", "Classes", _class_figures(report, classes)),
        FigureSection("calibration", "Reliability and ROC", _probability_figures(report)),
        FigureSection("evasion", "Evasion attacks and purifier", _defence_figures(report)),
    ]
    return [one for one in found if one.figures]


def _drop_figures(report: Report) -> tuple[Figure, ...]:
    drops = report.drops.present
    rows = [
        BarRow(name, (Bar("drop", "s0", drop.combined, drop.ci95, _drop_hover(name, drop)),))
        for name, drop in drops.items()
    ]
    ends = [end for drop in drops.values() for end in (drop.combined, *(drop.ci95 or ()))]
    scale = axis(ends, "% of the normal value (below 0: a gain)", include=(0,))
    found = [
        Figure(
            "Combined drop (%) with its 95 % interval",
            bar_chart("Combined drops in percent", rows, scale),
            " ".join(f"{name}: {text.DROP_MEANINGS[name]}." for name in drops),
        )
    ]
    if report.severity_drops:
        found.append(_severity_figure(report.severity_drops))
    return tuple(found)


def _drop_hover(name: str, drop: ConditionDrop) -> str:
    parts = [f"{name}: {percent(drop.combined)} {interval_text(drop.ci95)}".rstrip()]
    parts += [
        f"{text.METRIC_TITLES[metric]}: {percent(one.normal)} → {percent(one.attack)}"
        for metric, one in drop.per_metric.items()
    ]
    return "\n".join(parts)


def _severity_figure(drops: Mapping[str, ConditionDrop]) -> Figure:
    points = []
    for name, drop in drops.items():
        severity = float(name.rpartition("_s")[2])
        hover = _drop_hover(f"severity {severity:g}", drop)
        points.append(Point(severity, drop.combined, hover, drop.ci95))
    ends = [end for drop in drops.values() for end in (drop.combined, *(drop.ci95 or ()))]
    x = axis([point.x for point in points], "Severity of the corruption", whole=True)
    y = axis(ends, "Combined drop, %", include=(0,), most=8)
    line = Line("severity", "s3", tuple(points))
    return Figure(
        "Drop (%) against severity",
        line_chart("Combined drop by severity", [line], x, y, guides=[level(0, y)]),
        "This run's model, from clean test images to images corrupted with each severity; lines "
        "with caps: 95 % intervals.",
    )


def _round_figures(report: Report, rounds: Rounds) -> tuple[Figure, ...]:
    found = []
    if rounds.get("run"):
        found.append(_metric_figure(rounds, "balanced_accuracy"))
        influence = _influence_figure(report, rounds["run"])
        found += [influence] if influence else []
    return tuple(found)


def _metric_figure(rounds: Rounds, metric: str) -> Figure:
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


def _client_figures(report: Report, classes: list[str]) -> tuple[Figure, ...]:
    known = [one for one in report.clients if one.clean.accuracy is not None]
    found = [_accuracy_figure(report, known)] if known else []
    images = report.setup.client_images if report.setup else None
    if images and classes:
        found.append(_partition_figure(report, images, classes))
    return tuple(found)


def _accuracy_figure(report: Report, known: Sequence[ClientResult]) -> Figure:
    order = sorted(known, key=lambda one: one.clean.accuracy or 0.0)
    rows = []
    for one in order[:MOST_CLIENTS]:
        bars = []
        for condition, look in (("clean", "s0"), ("contaminated", "s1")):
            if condition == "clean" or one.kind != "clean":
                metrics, interval = getattr(one, condition), accuracy_interval(one, condition)
                hover = (
                    f"hospital {text.client_name(one)} ({one.kind}), {condition} images\naccuracy "
                    f"{percent(metrics.accuracy)} {interval_text(interval)}\nbalanced "
                    f"{percent(metrics.balanced_accuracy)}, {format_count(metrics.n, 'image')}"
                )
                bars.append(Bar(condition, look, metrics.accuracy, interval, hover))
        rows.append(BarRow(text.client_name(one), tuple(bars), one.kind))
    worst = worst_client(report)
    caption = (
        "This run's model on each hospital's own test images, the worst hospital on top"
        + (f": {text.client_name(worst)}" if worst else "")
        + "; contaminated: the same images under that hospital's contamination. 95 % intervals by "
        f"Wilson's score, images as independent.{_kind_note(report)}"
    )
    if len(order) > MOST_CLIENTS:
        caption += f" {len(order) - MOST_CLIENTS} better ones are in the table only."
    contaminated = any(one.kind != "clean" for one in order[:MOST_CLIENTS])
    keys = (Key("clean", "s0", "clean"), Key("contaminated", "s1", "contaminated"))
    return Figure(
        "Accuracy (%) at each hospital",
        bar_chart("Accuracy by hospital", rows, percent_axis("Accuracy, %")),
        caption,
        keys if contaminated else (),
    )


def _kind_note(report: Report) -> str:
    """Which names are bold, where any are."""
    kinds = [kind for kind, count in text.count_kinds(report).items() if count and kind != "clean"]
    return f" Bold names: {' and '.join(kinds)} hospitals." if kinds else ""


def _partition_figure(
    report: Report, images: Sequence[Sequence[int]], classes: Sequence[str]
) -> Figure:
    looks = [f"s{place % COLOURS} t{place // COLOURS % TONES}" for place in range(len(classes))]
    rows = [
        Stack(
            text.client_name(one),
            tuple(
                (f"class{k}", looks[k], float(count), _partition_hover(one, classes[k], count))
                for k, count in enumerate(images[one.id])
            ),
            one.kind,
        )
        for one in report.clients[: 2 * MOST_CLIENTS]
    ]
    keys = tuple(Key(f"class{k}", looks[k], name) for k, name in enumerate(classes[:MOST_CLASSES]))
    more = len(report.clients) - len(rows)
    return Figure(
        "Images of each class at each hospital",
        stacked_chart("Images by hospital and class", rows, "Images"),
        f"How the partition shares out the images of all three splits.{_kind_note(report)}"
        + (f" {more} further hospitals are not shown." if more > 0 else ""),
        keys,
    )


def _partition_hover(one: ClientResult, name: str, count: int) -> str:
    return f"hospital {text.client_name(one)}\n{name}: {format_count(count, 'image')}"


def _class_figures(report: Report, classes: list[str]) -> tuple[Figure, ...]:
    run, twin = class_hits(report, "clean"), class_hits(report, "twin_clean")
    if not run or len(run) > MOST_CLASSES:
        return ()
    names = classes if len(classes) == len(run) else [f"class {k}" for k in range(len(run))]
    found = [_recall_figure(report, names, run, twin)]
    details = report.details or {}
    shares = _shares(details["clean"])
    if twin:
        before = _shares(details["twin_clean"])
        found.append(_difference_figure(names, shares, before))
        found.append(_confusion_figure("the clean twin", names, before))
    found.append(_confusion_figure("this run", names, shares))
    return tuple(found)


def _recall_figure(
    report: Report,
    names: Sequence[str],
    run: Sequence[tuple[int, int]],
    twin: Sequence[tuple[int, int]],
) -> Figure:
    sides = [("run", "s1", "this run", run)]
    sides += [("twin", "s0", "clean twin", twin)] if twin else []
    rows = []
    for place, name in enumerate(names):
        bars = []
        for key, look, side, hits in sides:
            right, images = hits[place]
            value = 100 * right / images if images else None
            interval = wilson_interval(right, images)
            hover = (
                f"{name}, {side}\nrecall {percent(value)} {interval_text(interval)}\n"
                f"{right} of {format_count(images, 'image')}"
            )
            bars.append(Bar(key, look, value, interval, hover))
        rows.append(BarRow(name, tuple(bars)))
    worst = worst_class(report)
    caption = (
        "Share of each class's clean test images that is recognised; 95 % intervals by Wilson's "
        "score, images as independent."
    )
    if worst is not None:
        caption += f" Worst class of this run: {names[worst[0]]}."
    return Figure(
        "Recall (%) of each class",
        bar_chart("Recall by class", rows, percent_axis("Recall, %")),
        caption,
        tuple(Key(key, look, side) for key, look, side, _ in sides),
    )


Shares = list[list[float | None]]


def _shares(details: PredictionDetails) -> Shares:
    """Percent of each true class's images; None in rows without images."""
    return [
        [100 * count / sum(row) if sum(row) else None for count in row]
        for row in details.confusion or ()
    ]


def _confusion_figure(model: str, names: Sequence[str], shares: Shares) -> Figure:
    hovers = [
        [
            f"true {true}, predicted {guess}: {percent(value)}"
            for guess, value in zip(names, row, strict=True)
        ]
        for true, row in zip(names, shares, strict=True)
    ]
    return Figure(
        f"Confusion of {model} (% of the true class)",
        heat_map("Confusion matrix", shares, (names, names), hovers, 100.0),
        "Clean test images; rows: true class, columns: predicted class.",
    )


def _difference_figure(names: Sequence[str], run: Shares, twin: Shares) -> Figure:
    change: Shares = [
        [
            None if one is None or other is None else one - other
            for one, other in zip(row, before, strict=True)
        ]
        for row, before in zip(run, twin, strict=True)
    ]
    hovers = [
        [
            f"true {true}, predicted {guess}\nclean twin {percent(twin[i][j])}, this run "
            f"{percent(run[i][j])}"
            for j, guess in enumerate(names)
        ]
        for i, true in enumerate(names)
    ]
    most = max((abs(one) for row in change for one in row if one is not None), default=0.0)
    return Figure(
        "Confusion of this run minus the clean twin's (percentage points)",
        heat_map("Difference of confusion", change, (names, names), hovers, max(most, 10.0)),
        "Blue: more often than by the twin, red: less often. A class that lost recall "
        "is red on the diagonal.",
    )


def _probability_figures(report: Report) -> tuple[Figure, ...]:
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


def _reliability_figure(report: Report, details: Mapping[str, PredictionDetails]) -> Figure:
    lines = [
        Line(
            name,
            EVALUATION_LOOKS[name][0],
            tuple(
                Point(
                    one.confidence,
                    one.accuracy,
                    f"{EVALUATION_LOOKS[name][1]}\nconfidence {percent(one.confidence)}, right "
                    f"{percent(one.accuracy)}\n{format_count(one.n, 'image')}",
                )
                for one in part.reliability
            ),
        )
        for name, part in details.items()
    ]
    chart = line_chart(
        "Reliability diagram",
        lines,
        percent_axis("Mean confidence of the prediction, %"),
        percent_axis("Right predictions, %"),
        guides=[diagonal()],
        square=True,
    )
    errors = ", ".join(
        f"{EVALUATION_LOOKS[name][1]} {percent(report.evaluations[name].ece)}" for name in details
    )
    return Figure(
        "Reliability: right predictions (%) against confidence (%)",
        chart,
        f"On the dotted diagonal confidence is what it says; below it the model is too sure. Ten "
        f"bins, empty ones left out. Expected calibration error: {errors}.",
        _evaluation_keys(details),
    )


def _roc_figure(report: Report, details: Mapping[str, PredictionDetails]) -> Figure:
    step = 100 / (ROC_POINTS - 1)
    lines = [
        Line(
            name,
            EVALUATION_LOOKS[name][0],
            tuple(
                Point(
                    step * place,
                    rate,
                    f"{EVALUATION_LOOKS[name][1]}\nfalse positive {percent(step * place, 0)}, true "
                    f"positive {percent(rate)}",
                )
                for place, rate in enumerate(part.roc)
            ),
            shape="none",
        )
        for name, part in details.items()
        if part.roc
    ]
    chart = line_chart(
        "ROC curves",
        lines,
        percent_axis("False positive rate, %"),
        percent_axis("True positive rate, %"),
        guides=[diagonal()],
        square=True,
    )
    areas = ", ".join(
        f"{EVALUATION_LOOKS[name][1]} {percent(report.evaluations[name].auroc)}" for name in details
    )
    return Figure(
        "ROC: true (%) against false positive rate (%)",
        chart,
        f"One class against the rest, mean over the classes; dotted: chance. Area: {areas}.",
        _evaluation_keys(details),
    )


def _defence_figures(report: Report) -> tuple[Figure, ...]:
    found = []
    if report.evasion is not None:
        title = text.evasion_title(report.evasion)
        found.append(_attack_figure(report.evasion, f"Balanced accuracy (%) under {title}"))
        if report.evasion.fusion is not None:
            fused = report.evasion.fusion
            words = f"Balanced accuracy (%) of the {fused.members} client models fused"
            found.append(_attack_figure(fused, words))
    if "purified_clean" in report.evaluations:
        found.append(_purifier_figure(report))
    return tuple(found)


def _attack_figure(section: AttackedModel, title: str) -> Figure:
    """Lines over the bound, or bars where attacks have none."""
    groups: dict[tuple[str, str], list[AttackOutcome]] = {}
    for one in section.attacks:
        groups.setdefault((one.threat_model, one.purifier), []).append(one)
    if any(one.eps_255 is None for one in section.attacks):
        return _unbounded_figure(section, groups, title)
    lines, keys = [], []
    for place, ((threat, purifier), made) in enumerate(groups.items()):
        name = f"{text.metric_label(threat)}, {_behind(purifier)}"
        start = section.clean[purifier].balanced_accuracy if purifier in section.clean else None
        points = [Point(0, start, f"{name}\nno attack: {percent(start)}")]
        points += [
            Point(
                one.eps_255 or 0.0,
                one.metrics.balanced_accuracy,
                f"{name}, eps {one.eps_255:g}/255\n{percent(one.metrics.balanced_accuracy)} "
                f"{interval_text(one.balanced_ci95)}",
                one.balanced_ci95,
            )
            for one in sorted(made, key=lambda item: item.eps_255 or 0.0)
        ]
        key, look = f"attack{place}", f"s{(place + 1) % 8}"
        dashes = "5 3" if purifier == "none" else ""
        lines.append(Line(key, look, tuple(points), dashes))
        keys.append(Key(key, look, name, bool(dashes)))
    bounds = [point.x for line in lines for point in line.points]
    chart = line_chart(
        title,
        lines,
        axis(bounds, "Largest change of a value, eps in 255ths"),
        percent_axis("Balanced accuracy, %"),
    )
    return Figure(title, chart, "; ".join(_threats(section)) + ".", tuple(keys))


def _unbounded_figure(
    section: AttackedModel, groups: Mapping[tuple[str, str], Sequence[AttackOutcome]], title: str
) -> Figure:
    looks = {name: f"s{place + 1}" for place, name in enumerate(section.clean)}
    bars = {
        "no attack": [
            Bar(name, looks[name], one.balanced_accuracy, None, percent(one.balanced_accuracy))
            for name, one in section.clean.items()
        ]
    }
    for (threat, purifier), made in groups.items():
        name = text.metric_label(threat)
        for one in made:
            value, interval = one.metrics.balanced_accuracy, one.balanced_ci95
            hover = f"{name}, {_behind(purifier)}\n{percent(value)} {interval_text(interval)}"
            bar = Bar(purifier, looks.get(purifier, "s0"), value, interval, hover)
            bars.setdefault(name, []).append(bar)
    rows = [BarRow(name, tuple(found)) for name, found in bars.items()]
    chart = bar_chart(title, rows, percent_axis("Balanced accuracy, %"))
    keys = tuple(Key(name, look, _behind(name)) for name, look in looks.items())
    return Figure(title, chart, "; ".join(_threats(section)) + ".", keys)


def _behind(purifier: str) -> str:
    return "no purifier" if purifier == "none" else f"behind {purifier}"


def _threats(section: AttackedModel) -> list[str]:
    found = {one.threat_model for one in section.attacks}
    return [
        f"{text.metric_label(name)}: {meaning}"
        for name, meaning in text.THREAT_MEANINGS.items()
        if name in found
    ]


def _purifier_figure(report: Report) -> Figure:
    rows = []
    for condition in ("clean", "corrupted"):
        bars = []
        for key, look, name in (
            ("bare", "s1", condition),
            ("behind", "s2", f"purified_{condition}"),
        ):
            metrics = report.evaluations[name]
            words = "behind the purifier" if key == "behind" else "without the purifier"
            hover = f"{condition} images, {words}\n{percent(metrics.balanced_accuracy)}"
            bars.append(Bar(key, look, metrics.balanced_accuracy, None, hover))
        rows.append(BarRow(f"{condition} images", tuple(bars)))
    return Figure(
        "Balanced accuracy (%) without and behind the purifier",
        bar_chart("Purifier", rows, percent_axis("Balanced accuracy, %")),
        "This run's model on all test images.",
        (Key("bare", "s1", "without the purifier"), Key("behind", "s2", "behind the purifier")),
    )
