"""Section of the attacks at test time."""

from __future__ import annotations

from pydantic import Field

from fedrobust.reporting.report.metrics import (
    ByPurifier,
    ConditionDrop,
    ConditionMetrics,
    Interval95,
)
from fedrobust.reporting.report.values import (
    Absent,
    Bound,
    ClientNumber,
    DropPercent,
    Kind,
    Length,
    MeasuredShare,
    Name,
    Percentage,
    ReportSection,
    ThreatModel,
)


class RecoveredShare(ReportSection):
    """Accuracy that a purifier recovers from the oblivious attack."""

    percent: Percentage | None = Field(
        description="share of the lost balanced accuracy; percent, null where the attack takes none"
    )
    ci95: Interval95 | None = Field(
        description="95 % interval [low, high], percent; null where it was not computed"
    )


class AttackOutcome(ReportSection):
    """An attack on a model that is evaluated on the test images."""

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
    drop: ConditionDrop = Field(description="from the unattacked images without a purifier")
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
        description="from the unattacked images without a purifier; percent, at most 100, "
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
        description="cost of the purifier on the unattacked images; null where there is none"
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
