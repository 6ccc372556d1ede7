"""What was run, and what lies behind the metrics: what the page's sentences and pictures need."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from fedrobust.reporting.report.values import Absent, Name, Percent, ReportSection
from fedrobust.utils.validation import Count

MOST_CLASSES = 50  # with more there is no confusion matrix


class NamedSettings(ReportSection):
    """One part of the experiment by its name, with its own settings."""

    name: Name = Field(description="name of the part")
    settings: Mapping[Name, bool | int | float | str] = Field(
        description="its settings that are single values; none that names a place on a machine"
    )


class SetupSection(ReportSection):
    """What was run: data, model and what was contaminated."""

    data: Name = Field(description="name of the data set")
    images: tuple[Count, Count, Count] = Field(
        description="images for training, validation and test"
    )
    image_size: int = Field(ge=1, description="side of an image, pixels")
    classes: tuple[Name, ...] = Field(
        min_length=1, description="names of the classes, in their order"
    )
    client_images: Absent[tuple[tuple[Count, ...], ...]] = Field(
        default=None,
        description="images by client (row) and class (column), of all three splits; absent of "
        "real sites",
    )
    model: NamedSettings = Field(description="the network")
    partition: NamedSettings = Field(description="how the images are shared out")
    attack: Absent[NamedSettings] = Field(
        default=None, description="contamination of the poisoned clients; absent without one"
    )
    noise: Absent[NamedSettings] = Field(
        default=None, description="contamination of the noisy clients; absent without one"
    )
    corruption: NamedSettings = Field(description="corruption of the test images")
    purifier: Absent[NamedSettings] = Field(
        default=None, description="purifier of test images; absent without one"
    )


class ReliabilitySection(ReportSection):
    """Images whose top probability lies in one bin."""

    confidence: Percent = Field(description="their mean top probability, percent")
    accuracy: Percent = Field(description="how many are predicted right, percent")
    n: int = Field(ge=1, description="number of images, at least 1")


class PredictionDetails(ReportSection):
    """What lies behind the metrics of one evaluation."""

    confusion: Absent[tuple[tuple[Count, ...], ...]] = Field(
        default=None,
        description="images by true (row) and predicted class (column); absent above "
        f"{MOST_CLASSES} classes",
    )
    reliability: tuple[ReliabilitySection, ...] = Field(
        description="bins of the top probability that hold images, by rising confidence"
    )
    roc: tuple[Percent, ...] | None = Field(
        description="true positive rates, mean over classes against the rest, at evenly spaced "
        "false positive rates from 0 to 100 %; percent, null: undefined"
    )
