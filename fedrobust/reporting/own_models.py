"""The clients' own models and the drops over clients, as rows for the screen and the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedrobust.experiment.experiment import KINDS
from fedrobust.reporting.report.personal import PersonalMetrics, SiteDropsSection
from fedrobust.reporting.report.sections import ClientResult
from fedrobust.reporting.text import client_name, drop_text, format_interval, format_number

OWN_TITLE: Final = "Own models: balanced accuracy on the client's own test images"
OWN_COLUMNS: Final = ("Client", "Kind", "global", "own", "contaminated", "corrupted", "twin")
OWN_MEANINGS: Final = (
    "global: the global model on clean images; all others: the client's own model, on clean "
    "images, under the client's contamination, under the test-time corruption, and that of the "
    "clean twin on clean images"
)
DROPS_TITLE: Final = "Combined drop of the metrics' means over clients"
DROPS_COLUMNS: Final = ("Model", "Drop", "all", "95 % interval", *KINDS)


def own_rows(clients: Sequence[ClientResult]) -> list[tuple[str, ...]]:
    """A row a client with a model of its own under OWN_COLUMNS; the second cell is its kind."""
    rows = []
    for client in clients:
        if isinstance(own := client.personal, PersonalMetrics):
            twin = None if own.twin_clean is None else own.twin_clean.balanced_accuracy
            values = (
                client.clean.balanced_accuracy,
                own.clean.balanced_accuracy,
                own.contaminated.balanced_accuracy,
                own.corrupted.balanced_accuracy,
                twin,
            )
            rows.append((client_name(client), client.kind, *map(format_number, values)))
    return rows


def site_drop_rows(section: SiteDropsSection | None) -> list[tuple[str, ...]]:
    """A row a model and drop under DROPS_COLUMNS."""
    if section is None:
        return []
    models = {"global": section.global_model, "own": section.personal_models}
    rows = []
    for model, drops in models.items():
        for name, drop in ({} if drops is None else drops.present).items():
            kinds = [drop.by_kind.get(kind) for kind in KINDS]
            values = [drop_text(None if one is None else one.combined) for one in kinds]
            interval = format_interval(drop.ci95)
            rows.append((model, name, drop_text(drop.combined), interval, *values))
    return rows
