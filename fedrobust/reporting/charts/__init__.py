"""The charts of a run's page, from its report and its rounds."""

from __future__ import annotations

from typing import Final

from fedrobust.reporting.charts.certificate import certificate_figures
from fedrobust.reporting.charts.classes import class_figures
from fedrobust.reporting.charts.defences import defence_figures
from fedrobust.reporting.charts.drops import drop_figures
from fedrobust.reporting.charts.hospitals import client_figures
from fedrobust.reporting.charts.probabilities import probability_figures
from fedrobust.reporting.charts.rounds import Rounds, metric_figure, round_figures
from fedrobust.reporting.charts.spreads import spread_figures
from fedrobust.reporting.findings import influence_notes
from fedrobust.reporting.report import Report
from fedrobust.reporting.web.figures import FigureSection

OTHER_METRICS: Final = ("accuracy", "f1", "auroc")


def figure_sections(report: Report, rounds: Rounds, classes: list[str]) -> list[FigureSection]:
    """All sections of charts for which there are data.

    Args:
        report: of the run.
        rounds: by run, oldest first.
        classes: names of the classes; empty: unknown.
    """
    found = [
        FigureSection("drops", "Performance drop", drop_figures(report)),
        FigureSection(
            "rounds",
            "Rounds and influence",
            round_figures(report, rounds),
            tuple(metric_figure(rounds, metric) for metric in OTHER_METRICS if rounds.get("run")),
            tuple(influence_notes(report)),
        ),
        FigureSection("hospitals", "Hospitals", client_figures(report, classes)),
        FigureSection("fairness", "Worst cases and spread", spread_figures(report, classes)),
        FigureSection("certificate", "Certified accuracy", certificate_figures(report)),
        FigureSection("classes", "Classes", class_figures(report, classes)),
        FigureSection("calibration", "Reliability and ROC", probability_figures(report)),
        FigureSection("evasion", "Evasion attacks and purifier", defence_figures(report)),
    ]
    return [one for one in found if one.figures]
