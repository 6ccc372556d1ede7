"""Sections of report.json, and the whole report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from fedrobust.reporting.report.attacks import EvasionSection
from fedrobust.reporting.report.certificate import CertificateSection
from fedrobust.reporting.report.details import PredictionDetails, SetupSection
from fedrobust.reporting.report.fairness import FairnessSection
from fedrobust.reporting.report.metrics import (
    ConditionDrop,
    ConditionMetrics,
    DropsSection,
    EvaluationMetrics,
)
from fedrobust.reporting.report.personal import PersonalMetrics, SiteDropsSection
from fedrobust.reporting.report.schedule import ScheduleSection
from fedrobust.reporting.report.values import (
    Absent,
    ClientNumber,
    ClientNumbers,
    DisclosureForm,
    DropPercent,
    Epsilon,
    Kind,
    MeasuredShare,
    MetricField,
    Name,
    Percent,
    ReportSection,
    Seconds,
)
from fedrobust.utils.validation import Count

MOST_NAMED = 50  # files left out that report.json names

TWIN_EVALUATIONS = ("twin_clean", "twin_corrupted")
TWIN_DROPS = ("poisoning", "total")

T = TypeVar("T")


class PurifiedMetrics(ReportSection):
    """A client's test images behind the purifier."""

    clean: ConditionMetrics = Field(description="without contamination")
    contaminated: ConditionMetrics = Field(description="under the client's contamination")


class DisclosureSection(ReportSection):
    """Form in which a real site reported its result, where not as predictions
    (docs/federation.md)."""

    form: DisclosureForm = Field(
        description="counts: rounded ones, so that metrics are estimates, without auroc and ece; "
        "nothing: no metrics at all"
    )
    min_cell: Absent[Annotated[int, Field(ge=1)]] = Field(
        default=None, description="of counts: all are multiples of it; 1: exact counts"
    )
    reason: Absent[Name] = Field(default=None, description="of nothing: why")


class ClientResult(ReportSection):
    """The global model on one client's own test images."""

    id: ClientNumber = Field(description="client number, from 0")
    kind: Kind = Field(description="whether the client's data are contaminated, and how")
    site: Absent[Name] = Field(
        default=None, description="the name of a real site; absent in simulations"
    )
    sites: Absent[tuple[Name, ...]] = Field(
        default=None,
        description="names of the sites whose images the client holds: of the data set under "
        "partition=by_site, else of the real site; absent of all other clients",
    )
    num_examples: Count = Field(
        description="training images; 0 of a real site that was never connected"
    )
    clean: ConditionMetrics = Field(description="on the clean images")
    contaminated: ConditionMetrics = Field(
        description="on the same images under the client's contamination"
    )
    purified: Absent[PurifiedMetrics] = Field(
        default=None, description="the same images behind the purifier; absent without one"
    )
    personal: Absent[PersonalMetrics] = Field(
        default=None,
        description="the client's own model on them; absent where it has none or does not report "
        "on it",
    )
    combined_drop: DropPercent | None = Field(
        description="combined drop from clean to contaminated; percent, at most 100, "
        "null: undefined"
    )
    weight: MeasuredShare = Field(description="mean influence over the rounds, 0 to 1")
    disclosure: Absent[DisclosureSection] = Field(
        default=None,
        description="of a real site that did not report its predictions; absent of all others",
    )


class DetectionSection(ReportSection):
    """Detection of poisoned clients by their influence, or by the rule that names them
    (fedrobust.evaluation.detection)."""

    precision: Percent | None = Field(
        description="share of the flagged clients that are poisoned; percent, null where no client "
        "was flagged"
    )
    recall: Percent | None = Field(
        description="share of the poisoned clients that are flagged; percent"
    )
    by: Absent[Literal["rule"]] = Field(
        default=None,
        description="rule: flagged are the clients that the rule reports, by its last report; "
        "absent: flagged by their influence",
    )


class SanitisingSection(ReportSection):
    """Training images that hospitals left out, all rounds after the warm-up together
    (docs/sanitising.md)."""

    images: Count = Field(description="images that were examined")
    dropped: Count = Field(description="images that were left out")
    altered: Count = Field(description="images that the contamination altered")
    found: Count = Field(description="altered images that were left out")
    precision: Percent | None = Field(
        description="100 found / dropped; percent, null where none was left out"
    )
    recall: Percent | None = Field(
        description="100 found / altered; percent, null where none was altered"
    )


class LabelDetectionSection(ReportSection):
    """Wrong training labels that hospitals' trainers suspected, by the last report of each
    hospital (docs/noisy_labels.md)."""

    images: Count = Field(description="images that were trained with")
    suspected: Count = Field(description="labels that were left out or replaced")
    mislabelled: Count = Field(description="labels that the contamination changed")
    found: Count = Field(description="changed labels that were suspected")
    corrected: Count = Field(description="changed labels that were replaced by the right ones")
    precision: Percent | None = Field(
        description="100 found / suspected; percent, null where none was suspected"
    )
    recall: Percent | None = Field(
        description="100 found / mislabelled; percent, null where none was changed"
    )


class PrivacySection(ReportSection):
    """Privacy mechanism of the updates and its cost (docs/privacy.md)."""

    name: Name = Field(description="name of the mechanism")
    clip: float = Field(gt=0, description="largest Euclidean length of an update, above 0")
    noise_multiplier: float = Field(
        ge=0, description="standard deviation of the noise in units of 2 clip; 0: no noise"
    )
    replies: int = Field(
        ge=1, description="replies of the hospital that was asked most often, at least 1"
    )
    delta: Absent[Annotated[float, Field(gt=0)]] = Field(
        default=None, description="for which epsilon is reported; absent without noise"
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


def _check_evaluations(found: Mapping[str, T]) -> Mapping[str, T]:
    missing = [name for name in ("clean", "corrupted") if name not in found]
    if missing:
        raise ValueError(f"'{missing[0]}' is missing")
    return found


EvaluationName = Annotated[str, Field(pattern="^[a-z0-9_]+$")]


class PredictionResults(ReportSection):
    """The report's entries that follow from predictions."""

    evaluations: Annotated[
        Mapping[EvaluationName, EvaluationMetrics],
        AfterValidator(_check_evaluations),
    ] = Field(
        description="by name; at least clean and corrupted; twin_clean and twin_corrupted unless "
        "the clean twin was switched off; purified_clean and purified_corrupted with a purifier",
        json_schema_extra={"required": ["clean", "corrupted"], "additionalProperties": False},
    )
    drops: DropsSection = Field(description="performance drops under contamination, by comparison")
    severity_drops: Absent[Mapping[EvaluationName, ConditionDrop]] = Field(
        default=None,
        description="from clean test images to those corrupted with each severity, by evaluation; "
        "absent where the corruption has no severities",
    )
    fairness: Absent[FairnessSection] = Field(
        default=None,
        description="worst case and spread over sites and classes; absent in files of earlier "
        "versions",
    )
    details: Absent[Mapping[EvaluationName, PredictionDetails]] = Field(
        default=None,
        description="confusion, reliability and ROC by evaluation, but for single severities",
    )
    clients: tuple[ClientResult, ...] = Field(min_length=1, description="one item a client")
    attack_success_rate: Percent | None = Field(
        description="test images of other classes that the backdoor's trigger turns into the "
        "attacker's class; percent, null where there is no backdoor"
    )
    schedule: Absent[ScheduleSection] = Field(
        default=None,
        description="rounds in which poisoned clients attacked; absent where they did in all",
    )
    detection: DetectionSection | None = Field(
        description="of poisoned clients by their influence or by what the rule reports; null "
        "where no client is poisoned"
    )
    named: Absent[tuple[ClientNumber, ...]] = Field(
        default=None,
        description="clients that the rule considers contaminated, by its last report on each; "
        "absent of rules that name none",
    )
    sanitising: Absent[SanitisingSection] = Field(
        default=None,
        description="images that hospitals left out of training; absent without a sanitiser",
    )
    label_detection: Absent[LabelDetectionSection] = Field(
        default=None,
        description="wrong labels that trainers suspected; absent of trainers that suspect none",
    )


class LeftOutFiles(ReportSection):
    """Files of the data folder that are not in the data set."""

    count: int = Field(ge=1, description="number of files, at least 1; a hidden folder counts once")
    first: Mapping[Name, Name] = Field(
        description=f"reasons by name of the first {MOST_NAMED} at most; manifest.json has all"
    )


class StoppingSection(ReportSection):
    """A run that ended before its last round (`stop_when`)."""

    planned_rounds: int = Field(ge=2, description="rounds that the configuration asks for")
    reason: Name = Field(description="why no further round followed")


class BestRoundSection(ReportSection):
    """The round whose model is in best.safetensors (`evaluation.best_metric`). All other entries
    of the report are about the last round."""

    metric: MetricField = Field(description="metric of the clean validation images")
    round: Annotated[int, Field(ge=1)] | None = Field(
        description="number of the round, from 1; null where the metric was never defined"
    )
    value: Percent | None = Field(description="its value there; percent, null likewise")


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
    setup: Absent[SetupSection] = Field(
        default=None, description="what was run; absent in files of earlier versions"
    )
    strategy: Name = Field(description="name of the server's strategy")
    num_clients: int = Field(ge=1, description="number of clients, at least 1")
    poisoned: ClientNumbers = Field(description="numbers of the poisoned clients")
    noisy: ClientNumbers = Field(description="numbers of the noisy clients")
    participants: Absent[ClientNumbers] = Field(
        default=None,
        description="numbers of the clients that trained, where others were only evaluated "
        "(`participants`); absent where all might train",
    )
    seed: int = Field(description="the run's seed")
    rounds: int = Field(
        ge=1, description="rounds of training, at least 1; the clean twin has as many"
    )
    stopping: Absent[StoppingSection] = Field(
        default=None, description="of a run that ended before its last round; absent of all others"
    )
    best: Absent[BestRoundSection] = Field(
        default=None, description="the best round, where its model is wanted; absent otherwise"
    )
    evasion: Absent[EvasionSection] = Field(
        default=None, description="attacks at test time; absent without one"
    )
    certificate: Absent[CertificateSection] = Field(
        default=None,
        description="certified answers of an ensemble of groups of clients; absent without one",
    )
    site_drops: Absent[SiteDropsSection] = Field(
        default=None,
        description="drops over clients of the global model and of the clients' own models; absent "
        "where these have none, unless evaluation.site_drops=true",
    )
    timing: Mapping[str, Seconds] = Field(description="seconds by stage")
    privacy: Absent[PrivacySection] = Field(
        default=None, description="mechanism applied to the updates; absent without one"
    )
    left_out_files: Absent[LeftOutFiles] = Field(
        default=None,
        description="files of the data folder that are not in the data set; absent where none",
    )
    plugins: Absent[Mapping[Name, Name]] = Field(
        default=None,
        description="versions of the user's own packages (docs/plugins.md) by name; unknown: not "
        "installed; absent where there are none",
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
