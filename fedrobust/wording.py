"""The words that the screen, the pictures and the page share: names and one-line meanings of metrics, evaluations and drops."""

from __future__ import annotations

from typing import Final

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
    "f1": "Mean over classes of the harmonic mean of precision and recall (macro F1; 0 for a class never predicted).",
    "precision": "Mean over classes of the share of predictions that are right (macro; 0 for a class never predicted).",
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


def headline(strategy: str, kinds: dict[str, int], rounds: int, seed: int) -> str:
    """One line that says what was run. `kinds`: number of clients of each kind."""
    total = sum(kinds.values())
    return (
        f"{strategy} · {total} hospital{'s' * (total != 1)} ({kinds.get('poisoned', 0)} poisoned, {kinds.get('noisy', 0)} noisy)"
        f" · {rounds} round{'s' * (rounds != 1)} · seed {seed}"
    )
