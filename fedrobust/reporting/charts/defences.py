"""Charts of evasion attacks and of the purifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedrobust.reporting import text
from fedrobust.reporting.findings import interval_text, percent
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.attacks import AttackedModel, AttackOutcome
from fedrobust.reporting.web.bars import Bar, BarRow, bar_chart
from fedrobust.reporting.web.figures import Figure, Key
from fedrobust.reporting.web.lines import Line, Point, line_chart
from fedrobust.reporting.web.scales import axis, percent_axis


def defence_figures(report: Report) -> tuple[Figure, ...]:
    """Of the attacked model, of the fused one and of the purifier, as far as there are."""
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
