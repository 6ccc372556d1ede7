"""Types of the entries in report.json: numbers with ranges and rounding, names, and the base class
of all sections.

A report in memory holds exact numbers; where it becomes text, and only there, they are rounded to
what they mean:

- percentages (metrics, rates, drops, ends of their intervals): 4 decimals;
- other measured numbers (seconds, weights, lengths): 6 significant digits;
- epsilon: 6 significant digits, rounded up, so that no more is promised than holds;
- settings and counts: not rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

KIND_NAMES = ("clean", "noisy", "poisoned")
METRIC_FIELDS = ("accuracy", "balanced_accuracy", "f1", "precision", "auroc", "ece")
SPREAD_FIELDS = ("site_accuracy", "site_balanced_accuracy", "class_recall")
CERTIFICATE_NAMES = ("disjoint", "sampled")
DISCLOSURE_NAMES = ("counts", "nothing")
THREAT_NAMES = ("oblivious", "bpda_eot", "differentiated")

T = TypeVar("T")


def round_percent(value: float) -> float:
    """A percentage to 4 decimals, never -0.0."""
    return round(value, 4) + 0.0


def round_measured(value: float) -> float:
    """A measured number to 6 significant digits."""
    return float(f"{value:.6g}")


def round_up(value: float) -> float:
    """The smallest number of 6 significant digits that is not below the value."""
    return float(Context(prec=6, rounding=ROUND_CEILING).create_decimal(repr(value)))


def _is_none(value: object) -> bool:
    return value is None


def _refuse_null(value: T, info: ValidationInfo) -> T:
    # after, not before: what runs before turns arrays into lists, which are no tuples
    if value is None and info.mode == "json":
        raise ValueError("leave the entry out where there is nothing, instead of null")
    return value


def _drop_null(schema: dict[str, Any]) -> None:
    del schema["default"]
    (inner,) = (one for one in schema.pop("anyOf") if one != {"type": "null"})
    schema.update(inner)


@dataclass(frozen=True, slots=True)
class _OneOf:
    """Annotates a str that must be one of these."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


def _different(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) != len(values):
        raise ValueError("names a client twice")
    return values


# an entry that is left out where there is nothing
Absent = Annotated[
    T | None,
    AfterValidator(_refuse_null),
    Field(exclude_if=_is_none, json_schema_extra=_drop_null),
]
Percent = Annotated[float, Field(ge=0, le=100), PlainSerializer(round_percent)]
Percentage = Annotated[float, PlainSerializer(round_percent)]
DropPercent = Annotated[float, Field(le=100), PlainSerializer(round_percent)]
Seconds = Annotated[float, Field(ge=0), PlainSerializer(round_measured)]
Length = Annotated[float, Field(ge=0), PlainSerializer(round_measured)]
MeasuredShare = Annotated[float, Field(ge=0, le=1), PlainSerializer(round_measured)]
Epsilon = Annotated[float, Field(ge=0), PlainSerializer(round_up)]
Name = Annotated[str, Field(min_length=1)]
ClientNumber = Annotated[int, Field(ge=0)]
ClientNumbers = Annotated[
    tuple[ClientNumber, ...],
    AfterValidator(_different),
    Field(json_schema_extra={"uniqueItems": True}),
]
Kind = Annotated[str, _OneOf(KIND_NAMES)]
CertificateVariant = Annotated[str, _OneOf(CERTIFICATE_NAMES)]
DisclosureForm = Annotated[str, _OneOf(DISCLOSURE_NAMES)]
MetricField = Annotated[str, _OneOf(METRIC_FIELDS)]
SpreadField = Annotated[str, _OneOf(SPREAD_FIELDS)]
ThreatModel = Annotated[str, _OneOf(THREAT_NAMES)]
Bound = Annotated[float, Field(gt=0, le=255)]


class ReportSection(BaseModel):
    """Base of all parts of the report: frozen, strict, no unknown entries, finite numbers.

    `model_validate` takes a mapping, or any object that has the entries as attributes.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, from_attributes=True
    )
