"""Metrics of a model's predictions, and the drops between two conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from fedrobust.reporting.report.values import (
    METRIC_FIELDS,
    Absent,
    DropPercent,
    Kind,
    MetricField,
    Percent,
    Percentage,
    ReportSection,
)
from fedrobust.utils.validation import Count

T = TypeVar("T")


def _with_none(values: Mapping[str, T]) -> Mapping[str, T]:
    if "none" not in values:
        raise ValueError("'none' is missing")
    return values


class ConditionMetrics(ReportSection):
    """Metrics of a model's predictions on a set of images; all but `n` in percent."""

    accuracy: Percent | None = Field(description="correct predictions; percent, null: undefined")
    balanced_accuracy: Percent | None = Field(
        description="mean recall of the classes that occur; percent, null: undefined"
    )
    f1: Percent | None = Field(description="macro F1; percent, null: undefined")
    precision: Percent | None = Field(description="macro precision; percent, null: undefined")
    auroc: Percent | None = Field(
        description="mean one-vs-rest area under the ROC curve; percent, null: undefined"
    )
    ece: Percent | None = Field(description="expected calibration error; percent, null: undefined")
    n: Count = Field(
        description="images; 0 for a client whose evaluation failed or was not reported, rounded "
        "where a site reports rounded counts"
    )

    @property
    def values(self) -> dict[str, float | None]:
        """The metrics by name, without the number of images."""
        return {name: getattr(self, name) for name in METRIC_FIELDS}


class EvaluationMetrics(ConditionMetrics):
    """The same on the test images, of which there is at least one."""

    n: int = Field(ge=1, description="images, at least 1")


ByPurifier = Annotated[
    Mapping[str, ConditionMetrics],
    AfterValidator(_with_none),
    Field(json_schema_extra={"required": ["none"]}),
]


class MetricDrop(ReportSection):
    """The drop of a metric under attack."""

    normal: Percent | None = Field(description="in the normal condition; percent, null: undefined")
    attack: Percent | None = Field(description="under attack; percent, null: undefined")
    drop: DropPercent | None = Field(
        description="100 (normal - attack) / normal; percent, at most 100, negative: a gain, "
        "null: undefined"
    )


Interval95 = tuple[Percentage, Percentage]


class ConditionDrop(ReportSection):
    """The drop from a normal to an attacked condition."""

    per_metric: Mapping[MetricField, MetricDrop] = Field(description="by metric")
    combined: DropPercent | None = Field(
        description="mean of the metrics' drops; percent, at most 100, negative: a gain, "
        "null: no metric has one"
    )
    ci95: Interval95 | None = Field(
        description="95 % interval [low, high] of `combined`, percent; null where it was not "
        "computed"
    )
    skipped: tuple[str, ...] = Field(
        description="metrics left out of `combined`, because their normal value is zero or "
        "undefined"
    )


class KindDrop(ReportSection):
    """The drop over the clients of one kind."""

    combined: DropPercent | None = Field(
        description="combined drop of the metrics' means over these clients; percent, at most 100, "
        "null: undefined"
    )
    median: DropPercent | None = Field(
        default=None,
        description="combined drop of the metrics' medians over these clients; percent, at most "
        "100, null: undefined",
    )
    num_clients: int = Field(
        ge=1, description="clients of the kind that were evaluated, at least 1"
    )


class ClientsDrop(ConditionDrop):
    """The drop of the metrics' means over the clients, each of which counts alike."""

    median: DropPercent | None = Field(
        default=None,
        description="combined drop of the metrics' medians over the clients, which no single "
        "client's report moves far; percent, at most 100, negative: a gain, null: undefined",
    )
    self_reported: bool = Field(
        default=False,
        description="whether the clients are real sites, whose results are their own reports and "
        "are not verified",
    )
    by_kind: Mapping[Kind, KindDrop] = Field(description="by kind of client")


class DropsSection(ReportSection):
    """Performance drops under contamination; docs/drops.md."""

    poisoning: Absent[ConditionDrop] = Field(
        default=None, description="clean twin to this run, both on clean test images"
    )
    corruption: ConditionDrop = Field(
        description="this run's model, from clean to corrupted test images"
    )
    total: Absent[ConditionDrop] = Field(
        default=None, description="clean twin on clean to this run on corrupted test images"
    )
    clients: ClientsDrop = Field(
        description="each client's own test images, from clean to under its contamination"
    )

    @property
    def present(self) -> dict[str, ConditionDrop]:
        """The drops that there are, by name, in the order in which people read them."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: drop for name, drop in found.items() if drop is not None}
