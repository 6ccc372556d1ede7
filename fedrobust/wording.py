"""The words that the screen, the pictures and the page share: names and meanings of metrics and drops, values as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

UNSTABLE_BELOW: Final = 5.0  # the same as in drops.py, which is slow to import; a test compares them

METRIC_NAMES: Final[dict[str, str]] = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced",
    "f1": "F1",
    "precision": "Precision",
    "auroc": "AUROC",
    "ece": "ECE",
}

METRIC_TITLES: Final[dict[str, str]] = METRIC_NAMES | {"balanced_accuracy": "Balanced accuracy"}  # where there is room

METRIC_MEANINGS: Final[dict[str, str]] = {
    "accuracy": "Share of images whose class is named correctly.",
    "balanced_accuracy": "Mean over classes of the share recognised (recall); every class counts alike.",
    "f1": "Mean over the classes that occur of the harmonic mean of precision and recall (macro F1; 0 for a class never predicted).",
    "precision": "Mean over the classes that occur of the share of predictions that are right (macro; 0 for a class never predicted).",
    "auroc": "Area under the ROC curve, one class against the rest, mean over classes; 50 is chance.",
    "ece": "Expected calibration error: the mean gap between confidence and accuracy; 0 is best.",
}

EVALUATION_MEANINGS: Final[dict[str, str]] = {
    "clean": "This run's model on the clean test images.",
    "corrupted": "This run's model on the same test images, corrupted.",
    "twin_clean": "The clean twin's model (same seed, nobody contaminated) on the clean test images.",
    "twin_corrupted": "The clean twin's model on the corrupted test images.",
}

DROP_MEANINGS: Final[dict[str, str]] = {
    "poisoning": "clean twin → this run, both on clean test images",
    "corruption": "this run's model, clean → corrupted test images",
    "total": "clean twin on clean → this run on corrupted test images",
    "clients": "each client's own test images, clean → under that client's contamination, mean over clients",
}

DROP_FORMULA: Final = "drop = 100 (normal - attack) / normal for each metric; Combined is the mean over metrics; a negative drop is a gain"
INFLUENCE_MEANING: Final = "The weight that the server gave to a client's update, between 0 and 1, mean over the rounds."
ATTACK_SUCCESS_MEANING: Final = "Share of test images of other classes that the backdoor's trigger turns into the attacker's class."
DETECTION_MEANING: Final = (
    "A client counts as flagged when its influence is below half of the smaller of an equal share and its share of the training images; "
    "precision: flagged clients that are poisoned; recall: poisoned clients that are flagged."
)


def label(name: str) -> str:
    """A metric's short name, or any other key with blanks instead of underscores."""
    return METRIC_NAMES.get(name, name.replace("_", " "))


def decimal(value: float | None, digits: int = 1) -> str:
    """A number for people: fixed digits, never "-0.0"; an undefined one is a dash."""
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def duration(seconds: float) -> str:
    """A time span for people: "41 s", "6 min", "2 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def count_kinds(report: Mapping[str, Any]) -> dict[str, int]:
    """Number of clients of each kind."""
    kinds = [client["kind"] for client in report["clients"]]
    return {kind: kinds.count(kind) for kind in ("clean", "noisy", "poisoned")}


def headline(report: Mapping[str, Any]) -> str:
    """One line that says what was run."""
    kinds, total, rounds = count_kinds(report), report["num_clients"], report["rounds"]
    return (
        f"{report['strategy']} · {total} hospital{'s' * (total != 1)} ({kinds['poisoned']} poisoned, {kinds['noisy']} noisy)"
        f" · {rounds} round{'s' * (rounds != 1)} · seed {report['seed']}"
    )


def uses_text(uses: Mapping[str, int] | None) -> str:
    """What the strategy knew beyond the clients' replies, e.g. "root (84 images)"; empty where that is nothing."""
    return ", ".join(f"{name} ({size} images)" for name, size in sorted((uses or {}).items()))


def drop_text(value: float | None) -> str:
    """A drop; a negative one is called a gain."""
    text = decimal(value)
    return f"gain {text}" if text.startswith("-") and value is not None else text


def interval(ci95: Sequence[float] | None) -> str:
    """Both ends, or a dash where no interval was computed."""
    return "-" if ci95 is None else f"{decimal(ci95[0])} to {decimal(ci95[1])}"


def ordered(drops: Mapping[str, Any]) -> list[str]:
    """The names of the drops that a report has, in the order in which people read them."""
    return [name for name in DROP_MEANINGS if name in drops]


def drop_notes(drops: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Metrics that were left out or say little, and the clients' drop by kind."""
    notes = [f"{name}: left out of Combined: {', '.join(map(label, drops[name]['skipped']))}" for name in drops if drops[name]["skipped"]]
    shaky = {name: ", ".join(unstable(drops[name]["per_metric"])) for name in ordered(drops)}
    notes += [f"{name}: unstable, a ratio to less than {UNSTABLE_BELOW:.0f}: {metrics}" for name, metrics in shaky.items() if metrics]
    kinds = drops["clients"]["by_kind"].items()
    return [*notes, "clients by kind: " + ", ".join(f"{kind} {decimal(one['combined'])} ({one['num_clients']})" for kind, one in kinds)]


def unstable(per_metric: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Metrics whose normal value is so small that the ratio says little."""
    return [label(metric) for metric, one in per_metric.items() if 0 < (one["normal"] or 0) < UNSTABLE_BELOW]


def evaluation_names(evaluations: Mapping[str, Any]) -> list[str]:
    """The names of the evaluations, the well-known ones first."""
    return [name for name in EVALUATION_MEANINGS if name in evaluations] + sorted(set(evaluations) - set(EVALUATION_MEANINGS))


def sanitising_text(found: Mapping[str, Any]) -> str:
    """The report's section `sanitising` in one line, with what chance would reach."""
    images = max(found["images"], 1)
    by_chance = f"by chance {decimal(100 * found['altered'] / images)} and {decimal(100 * found['dropped'] / images)}"
    verdict = f"precision {decimal(found['precision'])}, recall {decimal(found['recall'])} ({by_chance})"
    left_out = f"{found['dropped']} of {found['images']} images, {found['found']} of {found['altered']} altered ones"
    return f"sanitising left out {left_out}: {verdict}"
