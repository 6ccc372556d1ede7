"""report.json: the contract with other programs, as a typed model.

The classes below say what may stand in the file: every entry with its type, unit and range.
`report_schema.json` (JSON Schema, draft 2020-12) is generated from them:
`python -m fedrobust.reporting.report` writes it. A report in memory holds exact numbers; where it
becomes text, and only there, they are rounded to what they mean:

- percentages (metrics, rates, drops, ends of their intervals): 4 decimals;
- other measured numbers (seconds, weights, lengths): 6 significant digits;
- epsilon: 6 significant digits, rounded up, so that no more is promised than holds;
- settings and counts: as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, core_schema

from fedrobust.utils.files import write_text
from fedrobust.utils.validation import Count

REPORT = "report.json"
SCHEMA = "report_schema.json"
KIND_NAMES = ("clean", "noisy", "poisoned")
METRIC_FIELDS = ("accuracy", "balanced_accuracy", "f1", "precision", "auroc", "ece")
THREAT_NAMES = ("oblivious", "bpda_eot", "differentiated")
TWIN_EVALUATIONS = ("twin_clean", "twin_corrupted")
TWIN_DROPS = ("poisoning", "total")

T = TypeVar("T")


# --- numbers and words ---


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


def _with_none(values: Mapping[str, T]) -> Mapping[str, T]:
    if "none" not in values:
        raise ValueError("'none' is missing")
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
MetricField = Annotated[str, _OneOf(METRIC_FIELDS)]
ThreatModel = Annotated[str, _OneOf(THREAT_NAMES)]
Bound = Annotated[float, Field(gt=0, le=255)]


class ReportSection(BaseModel):
    """What all parts of the report share: frozen, strict, without unknown entries, finite numbers.

    `model_validate` takes a mapping, or any object that has the entries as attributes.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, from_attributes=True
    )


# --- metrics and drops ---


class ConditionMetrics(ReportSection):
    """How good a model's predictions are on a set of images; all but `n` in percent."""

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
    n: Count = Field(description="images; 0 for a client whose evaluation failed")

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
    """How much of a metric an attack takes."""

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
    num_clients: int = Field(
        ge=1, description="clients of the kind that were evaluated, at least 1"
    )


class ClientsDrop(ConditionDrop):
    """The drop of the metrics' means over the clients, each of which counts alike."""

    by_kind: Mapping[Kind, KindDrop] = Field(description="by kind of client")


class DropsSection(ReportSection):
    """What contamination costs; docs/drops.md."""

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


# --- clients and detection ---


class PurifiedMetrics(ReportSection):
    """A client's test images behind the purifier."""

    clean: ConditionMetrics = Field(description="as they are")
    contaminated: ConditionMetrics = Field(description="under the client's contamination")


class ClientResult(ReportSection):
    """The global model on one client's own test images."""

    id: ClientNumber = Field(description="client number, from 0")
    kind: Kind = Field(description="whether the client's data are contaminated, and how")
    site: Absent[Name] = Field(
        default=None, description="the name of a real site; absent in simulations"
    )
    num_examples: Count = Field(
        description="training images; 0 of a real site that was never connected"
    )
    clean: ConditionMetrics = Field(description="on the images as they are")
    contaminated: ConditionMetrics = Field(
        description="on the same images under the client's contamination"
    )
    purified: Absent[PurifiedMetrics] = Field(
        default=None, description="the same images behind the purifier; absent without one"
    )
    combined_drop: DropPercent | None = Field(
        description="combined drop from clean to contaminated; percent, at most 100, "
        "null: undefined"
    )
    weight: MeasuredShare = Field(description="mean influence over the rounds, 0 to 1")


class DetectionSection(ReportSection):
    """How well the clients' influence tells the poisoned ones (fedrobust.evaluation.detection)."""

    precision: Percent | None = Field(
        description="share of the flagged clients that are poisoned; percent, null where no client "
        "was flagged"
    )
    recall: Percent | None = Field(
        description="share of the poisoned clients that are flagged; percent"
    )


class SanitisingSection(ReportSection):
    """Training images that hospitals left out, all rounds after the warm-up together
    (docs/sanitising.md)."""

    images: Count = Field(description="images that were judged")
    dropped: Count = Field(description="images that were left out")
    altered: Count = Field(description="images that the contamination altered")
    found: Count = Field(description="altered images that were left out")
    precision: Percent | None = Field(
        description="100 found / dropped; percent, null where none was left out"
    )
    recall: Percent | None = Field(
        description="100 found / altered; percent, null where none was altered"
    )


# --- evasion ---


class RecoveredShare(ReportSection):
    """What a purifier gives back of what the oblivious attack takes."""

    percent: Percentage | None = Field(
        description="share of the lost balanced accuracy; percent, null where the attack takes none"
    )
    ci95: Interval95 | None = Field(
        description="95 % interval [low, high], percent; null where it was not computed"
    )


class AttackOutcome(ReportSection):
    """An attack on a model that is judged on the test images."""

    threat_model: ThreatModel = Field(description="what the attacker knows of the purifier")
    eps_255: Bound | None = Field(
        description="largest change allowed, in 255ths of the range, above 0 to 255; null: an "
        "attack without a bound"
    )
    purifier: Name = Field(description="what the images went through before the model")
    linf: MeasuredShare = Field(description="largest change of a value, 0 to 1 of the range")
    l2: Length = Field(description="mean Euclidean length of an image's change, at least 0")
    metrics: ConditionMetrics = Field(description="on the attacked images")
    balanced_ci95: Interval95 | None = Field(
        description="95 % interval [low, high] of the balanced accuracy, percent; null where it "
        "was not computed"
    )
    drop: ConditionDrop = Field(description="from the images as they are, without a purifier")
    recovered: RecoveredShare | None = Field(
        description="of the balanced accuracy that the oblivious attack takes from the undefended "
        "model, the share that is there with the purifier; null without one"
    )


class ClientAttackOutcome(ReportSection):
    """An attack on the model that one client sent."""

    threat_model: ThreatModel = Field(description="what the attacker knows of the purifier")
    eps_255: Bound | None = Field(
        description="largest change allowed, in 255ths of the range, above 0 to 255; null: an "
        "attack without a bound"
    )
    purifier: Name = Field(description="what the images went through before the model")
    metrics: ConditionMetrics = Field(description="on the attacked images")
    combined_drop: DropPercent | None = Field(
        description="from the images as they are, without a purifier; percent, at most 100, "
        "null: undefined"
    )


class ClientEvasion(ReportSection):
    """The model that a client sent in the last round, on that client's own clean test images."""

    id: ClientNumber = Field(description="client number, from 0")
    kind: Kind = Field(description="whether the client's data are contaminated, and how")
    clean: ByPurifier = Field(description="without an attack, by purifier")
    attacks: tuple[ClientAttackOutcome, ...] = Field(
        min_length=1, description="by threat model, bound and purifier"
    )


class AttackedModel(ReportSection):
    """One model, attacked on the test images."""

    clean: ByPurifier = Field(description="without an attack, by purifier")
    purifier_drop: ConditionDrop | None = Field(
        description="what the purifier costs on the images as they are; null where there is none"
    )
    attacks: tuple[AttackOutcome, ...] = Field(
        min_length=1, description="by threat model, bound and purifier"
    )


class FusedModel(AttackedModel):
    """The clients' models of the last round fused into one (docs/meff.md)."""

    members: int = Field(ge=1, description="models that were fused, at least 1")


class EvasionSection(AttackedModel):
    """Attacks on the trained models at test time (docs/evasion.md)."""

    attack: Name = Field(description="name of the attack")
    purifier: Name = Field(description="name of the purifier; none where there is none")
    images: int = Field(
        ge=1, description="test images on which the global model is attacked, at least 1"
    )
    clients: tuple[ClientEvasion, ...] = Field(
        description="the clients' own models; empty where they were not attacked"
    )
    fusion: Absent[FusedModel] = Field(
        default=None, description="the clients' models fused into one; absent where not asked for"
    )


# --- privacy ---


class PrivacySection(ReportSection):
    """What hospitals did to their updates (docs/privacy.md)."""

    name: Name = Field(description="name of the mechanism")
    clip: float = Field(gt=0, description="largest Euclidean length of an update, above 0")
    noise_multiplier: float = Field(
        ge=0, description="standard deviation of the noise in units of 2 clip; 0: no noise"
    )
    replies: int = Field(
        ge=1, description="replies of the hospital that was asked most often, at least 1"
    )
    delta: Absent[Annotated[float, Field(gt=0)]] = Field(
        default=None, description="for which epsilon is told; absent without noise"
    )
    epsilon_per_reply: Absent[Epsilon] = Field(
        default=None, description="epsilon of one reply; absent without noise"
    )
    epsilon: Absent[Epsilon] = Field(
        default=None, description="epsilon after all replies; absent without noise"
    )
    threshold: Absent[Annotated[int, Field(ge=2)]] = Field(
        default=None,
        description="under secure aggregation the least number of hospitals whose sum is opened",
    )
    participants: Absent[Annotated[int, Field(ge=2)]] = Field(
        default=None, description="under secure aggregation the hospitals asked in a round"
    )
    dropped: Absent[Count] = Field(
        default=None,
        description="under secure aggregation how often a hospital was left out or lost",
    )


# --- the report ---


def _check_evaluations(found: Mapping[str, T]) -> Mapping[str, T]:
    missing = [name for name in ("clean", "corrupted") if name not in found]
    if missing:
        raise ValueError(f"'{missing[0]}' is missing")
    return found


class PredictionResults(ReportSection):
    """The report's entries that follow from predictions."""

    evaluations: Annotated[
        Mapping[Annotated[str, Field(pattern="^[a-z0-9_]+$")], EvaluationMetrics],
        AfterValidator(_check_evaluations),
    ] = Field(
        description="by name; at least clean and corrupted; twin_clean and twin_corrupted unless "
        "the clean twin was switched off; purified_clean and purified_corrupted with a purifier",
        json_schema_extra={"required": ["clean", "corrupted"], "additionalProperties": False},
    )
    drops: DropsSection = Field(description="what contamination costs, by comparison")
    clients: tuple[ClientResult, ...] = Field(min_length=1, description="one item a client")
    attack_success_rate: Percent | None = Field(
        description="test images of other classes that the backdoor's trigger turns into the "
        "attacker's class; percent, null where there is no backdoor"
    )
    detection: DetectionSection | None = Field(
        description="of poisoned clients by their influence; null where no client is poisoned"
    )
    sanitising: Absent[SanitisingSection] = Field(
        default=None, description="what hospitals left out of training; absent without a sanitiser"
    )


def _twin_rule(schema: dict[str, Any]) -> None:
    """With a clean twin both of its evaluations and both of its drops, without one neither."""
    evaluations = {"anyOf": [{"required": [name]} for name in TWIN_EVALUATIONS]}
    schema["if"] = {"properties": {"evaluations": evaluations}}
    schema["then"] = {
        "properties": {
            "evaluations": {"required": list(TWIN_EVALUATIONS)},
            "drops": {"required": list(TWIN_DROPS)},
        }
    }
    schema["else"] = {"properties": {"drops": {"properties": dict.fromkeys(TWIN_DROPS, False)}}}


class Report(PredictionResults):
    """The result of one run. Metrics, rates and drops in percent, signs kept (a negative drop is a
    gain); null: undefined."""

    model_config = ConfigDict(json_schema_extra=_twin_rule)

    version: int = Field(
        alias="schema",
        ge=1,
        le=1,
        description="version of this contract, 1",
        json_schema_extra={"const": 1},
    )
    strategy: Name = Field(description="name of the server's strategy")
    num_clients: int = Field(ge=1, description="number of clients, at least 1")
    poisoned: ClientNumbers = Field(description="numbers of the poisoned clients")
    noisy: ClientNumbers = Field(description="numbers of the noisy clients")
    seed: int = Field(description="the run's seed")
    rounds: int = Field(ge=1, description="rounds of training, at least 1")
    evasion: Absent[EvasionSection] = Field(
        default=None, description="attacks at test time; absent without one"
    )
    timing: Mapping[str, Seconds] = Field(description="seconds by stage")
    privacy: Absent[PrivacySection] = Field(
        default=None, description="what hospitals did to their updates; absent where nothing"
    )
    engine: Name = Field(description="the engine that ran the clients")
    device: Name = Field(description="the device that computed")

    @model_validator(mode="after")
    def _check_clients(self) -> Report:
        ids = [client.id for client in self.clients]
        if len(set(ids)) != len(ids) or len(ids) != self.num_clients:
            raise ValueError(
                f"clients: {self.num_clients} different clients are expected, not {ids}"
            )
        for kind, given in (("poisoned", self.poisoned), ("noisy", self.noisy)):
            marked = sorted(client.id for client in self.clients if client.kind == kind)
            if marked != sorted(given):
                raise ValueError(
                    f"{kind}: {sorted(given)}, but the clients of that kind are {marked}"
                )
        return self

    @model_validator(mode="after")
    def _check_twin(self) -> Report:
        evaluated = [name for name in TWIN_EVALUATIONS if name in self.evaluations]
        compared = [name for name in TWIN_DROPS if name in self.drops.present]
        wanted = [*TWIN_EVALUATIONS, *TWIN_DROPS] if evaluated else []
        found = [*evaluated, *compared]
        if found != wanted:
            raise ValueError(
                "evaluations and drops: with a clean twin there are "
                f"{', '.join([*TWIN_EVALUATIONS, *TWIN_DROPS])}, without one none of them; "
                f"found {', '.join(found)}"
            )
        return self


# --- files ---


def report_text(report: Report) -> str:
    """The text of report.json: rounded, keys sorted, so that equal reports are equal bytes."""
    return _json(report.model_dump(mode="json", by_alias=True), sort_keys=True)


def write_report(folder: Path, report: Report) -> Path:
    """Write report.json and return its path; an old one is replaced at once or not at all."""
    return write_text(folder / REPORT, report_text(report))


def parse_report(text: str) -> Report:
    """The report in a text.

    Raises:
        ValueError: one line with the path of the first entry that breaks the contract.
    """
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{REPORT} at {_first_fault(error)}") from error


def read_report(folder: Path) -> Report:
    """The report of an output folder, also one of an older version. Raises FileNotFoundError, or
    ValueError as `parse_report`."""
    return parse_report((folder / REPORT).read_text(encoding="utf-8"))


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    steps = [step for step in fault["loc"] if step != "[key]"]
    path = "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    value, message = fault["input"], fault["msg"].removeprefix("Value error, ")
    given = f"{value}: " if isinstance(value, str | int | float) and steps else ""
    return f"{path}: {given}{message}"


class _PlainSchema(GenerateJsonSchema):
    """Without the titles that only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_text() -> str:
    """The text of report_schema.json."""
    schema = Report.model_json_schema(schema_generator=_PlainSchema)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:fedrobust:report:1",
        "title": "fedrobust report.json",
    }
    return _json({**head, **{name: part for name, part in schema.items() if name != "title"}})


def _json(value: Any, *, sort_keys: bool = False) -> str:
    text = json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    return text + "\n"


if __name__ == "__main__":
    write_text(Path(__file__).with_name(SCHEMA), schema_text())
