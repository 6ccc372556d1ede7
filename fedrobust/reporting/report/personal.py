"""The clients' own models (client=ditto and the like), beside the global one."""

from __future__ import annotations

from pydantic import Field

from fedrobust.reporting.report.metrics import ClientsDrop, ConditionMetrics
from fedrobust.reporting.report.values import Absent, ReportSection


class PersonalMetrics(ReportSection):
    """A client's own model on its own test images."""

    clean: ConditionMetrics = Field(description="without contamination")
    contaminated: ConditionMetrics = Field(description="under the client's contamination")
    corrupted: ConditionMetrics = Field(description="under the test-time corruption")
    twin_clean: Absent[ConditionMetrics] = Field(
        default=None,
        description="its own model of the clean twin, without contamination; absent without a twin "
        "and of real sites",
    )


class SiteDrops(ReportSection):
    """Drops of the metrics' means over clients, each on its own test images and with the same
    weight."""

    poisoning: Absent[ClientsDrop] = Field(
        default=None, description="clean twin to this run, both on clean images"
    )
    corruption: Absent[ClientsDrop] = Field(
        default=None, description="this run, from clean to corrupted images"
    )
    total: Absent[ClientsDrop] = Field(
        default=None, description="clean twin on clean to this run on corrupted images"
    )
    clients: Absent[ClientsDrop] = Field(
        default=None, description="this run, from clean images to those of each client's own"
    )

    @property
    def present(self) -> dict[str, ClientsDrop]:
        """The drops that there are, by name."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: drop for name, drop in found.items() if drop is not None}


class SiteDropsSection(ReportSection):
    """Drops over clients, of the global model and of the clients' own ones
    (docs/personalisation.md)."""

    global_model: Absent[SiteDrops] = Field(
        default=None, description="the global model on each client's test images; absent of sites"
    )
    personal_models: Absent[SiteDrops] = Field(
        default=None, description="each client's own model; absent where clients have none"
    )
