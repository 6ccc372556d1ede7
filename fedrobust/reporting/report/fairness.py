"""Worst case and spread over sites and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from fedrobust.reporting.report.metrics import Interval95
from fedrobust.reporting.report.values import (
    Absent,
    ClientNumber,
    ClientNumbers,
    DropPercent,
    Percent,
    Percentage,
    ReportSection,
    SpreadField,
)

T = TypeVar("T")


class WorstValue(ReportSection):
    """The smallest value of all sites or classes."""

    value: Percent | None = Field(description="percent, null: undefined")
    ci95: Interval95 | None = Field(
        description="95 % interval [low, high] of `value`; null where it was not computed"
    )


class SpreadValue(ReportSection):
    """How far the values of sites or classes are spread."""

    value: Percent | None = Field(
        description="percentage points, null: undefined, as for fewer than two members"
    )
    ci95: Interval95 | None = Field(
        description="95 % interval [low, high] of `value`; null where it was not computed"
    )


class SpreadSection(ReportSection):
    """One quantity over the sites or over the classes, on test images."""

    worst: WorstValue = Field(description="the smallest value")
    worst_member: ClientNumber | None = Field(
        description="number of the client or class with the smallest value, null: undefined"
    )
    std: SpreadValue = Field(description="standard deviation over the members")
    range: SpreadValue = Field(description="largest minus smallest value")


class WorstDrop(ReportSection):
    """The relative drop of the smallest value."""

    value: DropPercent | None = Field(
        description="percent of the normal value, at most 100, negative: a gain, null: undefined"
    )
    ci95: Interval95 | None = Field(
        description="95 % interval [low, high] of `value`, paired by image; null where it was not "
        "computed"
    )


class SpreadGrowth(ReportSection):
    """Attack minus normal of a spread."""

    value: Percentage | None = Field(
        description="percentage points, above 0: spread wider under attack, null: undefined"
    )
    ci95: Interval95 | None = Field(
        description="95 % interval [low, high] of `value`, paired by image; null where it was not "
        "computed"
    )


class SpreadChange(ReportSection):
    """What changes a quantity's worst case and spread between two conditions; worst site or class
    may be another one in each."""

    worst: WorstDrop = Field(description="drop of the smallest value")
    std: SpreadGrowth = Field(description="growth of the standard deviation")
    range: SpreadGrowth = Field(description="growth of largest minus smallest value")


def _with_clean(found: Mapping[str, T]) -> Mapping[str, T]:
    if "clean" not in found:
        raise ValueError("'clean' is missing")
    return found


class FairnessSection(ReportSection):
    """Worst case and spread of the global model's performance over the sites' own clean test images
    and over the classes (docs/drops.md)."""

    min_images: Annotated[int, Field(ge=1)] = Field(
        description="test images below which a site or a class is left out"
    )
    sites_left_out: ClientNumbers = Field(description="clients with fewer test images")
    classes_left_out: ClientNumbers = Field(description="classes with fewer test images")
    evaluations: Annotated[
        Mapping[str, Mapping[SpreadField, SpreadSection]], AfterValidator(_with_clean)
    ] = Field(
        description="by evaluation, at least clean, and quantity; a quantity without any member is "
        "absent",
        json_schema_extra={"required": ["clean"]},
    )
    drops: Mapping[str, Mapping[SpreadField, SpreadChange]] = Field(
        description="poisoning, corruption and total as in `drops`, by quantity; empty of real "
        "sites"
    )
    self_reported: Absent[bool] = Field(
        default=None,
        description="true where the sites' values are real sites' own reports, which are not "
        "verified; absent otherwise",
    )
