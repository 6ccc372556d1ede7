"""Metrics against values worked by hand, against plain numpy and, where installed, scikit-learn and
torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedrobust.evaluation import metrics
from fedrobust.evaluation.metrics import NAMES, Counts, classification_metrics, hit_table, rates


def predictions(n: int, num_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random softmax rows, coarse enough to have ties between images, and labels that leave some
    classes out."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (n, num_classes), generator=g).float()
    return scores.softmax(dim=1), torch.randint(0, max(1, num_classes - 1), (n,), generator=g)


def test_golden() -> None:
    # labels 0 0 1 1, predictions (first largest) 0 1 1 1: class 2 never occurs and is left out.
    probabilities = torch.tensor(
        [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0]]
    )
    got = classification_metrics(probabilities, torch.tensor([0, 0, 1, 1]))
    assert got["accuracy"] == 75.0
    assert got["balanced_accuracy"] == 75.0  # recalls 1/2 and 2/2
    assert got["precision"] == pytest.approx(100 * (1 + 2 / 3) / 2)  # 1/1 and 2/3
    assert got["f1"] == pytest.approx(100 * (2 / 3 + 4 / 5) / 2)  # 2*1/(2+1) and 2*2/(2+3)
    assert got["auroc"] == 100.0  # class 0: .8 .3 above .2 .1; class 1: .7 .9 above .1 .6
    # every confidence in its own bin: (|1-.8| + |0-.6| + |1-.7| + |1-.9|) / 4 = 1.2 / 4
    assert got["ece"] == pytest.approx(30.0, abs=1e-4)
    assert got["n"] == 4


def test_a_class_never_predicted_has_precision_zero_and_one_only_predicted_counts_too() -> None:
    # labels 0 0 2, predictions 0 1 0: precision 1/2, 0/1, 0 -> 1/6; recall of the labelled 1/2, 0
    # -> 1/4; f1 2/4, 0, 0 -> 1/6
    got = classification_metrics(torch.eye(3)[[0, 1, 0]], torch.tensor([0, 0, 2]))
    assert got["precision"] == pytest.approx(100 / 6)
    assert got["f1"] == pytest.approx(100 / 6)
    assert got["balanced_accuracy"] == 25.0


def test_half_a_tie_in_auroc() -> None:
    got = classification_metrics(torch.full((4, 2), 0.5), torch.tensor([0, 1, 1, 1]))
    assert got["auroc"] == 50.0


def test_auroc_is_undefined_with_one_class() -> None:
    got = classification_metrics(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 0]))
    assert got["auroc"] is None
    assert got["accuracy"] == 50.0


def test_full_confidence_is_a_bin_of_its_own() -> None:
    # confidences 1 (wrong), .99 (right) and .95 (right); .95 and .99 share [14/15, 1): (|0 - 1| +
    # |2 - 1.94|) / 3
    probabilities = torch.tensor([[1.0, 0.0], [0.99, 0.01], [0.95, 0.05]])
    assert classification_metrics(probabilities, torch.tensor([1, 0, 0]))["ece"] == pytest.approx(
        100 * 1.06 / 3, abs=1e-4
    )


def test_empty_set() -> None:
    assert classification_metrics(
        torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    ) == dict.fromkeys(NAMES) | {"n": 0}


@pytest.mark.parametrize(
    ("probabilities", "labels", "words"),
    [
        (torch.tensor([[float("nan"), 0.5]]), torch.tensor([0]), "NaN"),
        (torch.tensor([[2.0, -1.0]]), torch.tensor([0]), "outside"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([2]), "labels must be in"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([-1]), "labels must be in"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]), "do not fit"),
        (torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), "do not fit"),
    ],
)
def test_refusals(probabilities: torch.Tensor, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        classification_metrics(probabilities, labels)


def numpy_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every definition again, image by image."""
    predicted = probabilities.argmax(axis=1)
    precisions, recalls, f1s, areas = [], [], [], []
    for k in range(probabilities.shape[1]):
        own, said = labels == k, predicted == k
        hits = float((own & said).sum())
        if own.any() or said.any():
            precisions.append(hits / said.sum() if said.any() else 0.0)
            f1s.append(2 * hits / (own.sum() + said.sum()))
        if own.any():
            recalls.append(hits / own.sum())
        if own.any() and not own.all():
            ours, others = probabilities[own, k][:, None], probabilities[~own, k][None, :]
            areas.append(((ours > others) + 0.5 * (ours == others)).mean())
    top, gap = probabilities.max(axis=1).astype(np.float64), 0.0
    for b in range(15):
        inside = (top >= b / 15) & (top < (b + 1) / 15)
        if inside.any():
            gap += abs((predicted == labels)[inside].mean() - top[inside].mean()) * inside.mean()
    found = {
        "accuracy": (predicted == labels).mean(),
        "balanced_accuracy": np.mean(recalls),
        "ece": gap,
    }
    found |= {
        "f1": np.mean(f1s),
        "precision": np.mean(precisions),
        "auroc": np.mean(areas) if areas else np.nan,
    }
    return {name: 100 * float(value) for name, value in found.items()}


@settings(max_examples=40)
@given(n=st.integers(1, 60), num_classes=st.integers(2, 6), seed=st.integers(0, 2**31))
@example(n=35, num_classes=5, seed=5286)
def test_agrees_with_plain_numpy(n: int, num_classes: int, seed: int) -> None:
    probabilities, labels = predictions(n, num_classes, seed)
    got, want = (
        classification_metrics(probabilities, labels),
        numpy_metrics(probabilities.numpy(), labels.numpy()),
    )
    places = 15 * probabilities.amax(dim=1).double()
    # 0.2 is the end of a bin: rounding decides on which side it lies
    on_an_edge = bool(((places - places.round()).abs() < 1e-4).any())
    for name in NAMES if not on_an_edge else [one for one in NAMES if one != "ece"]:
        value = got[name]
        assert (
            np.isnan(want[name]) if value is None else value == pytest.approx(want[name], abs=1e-4)
        ), name


def counted(labels: torch.Tensor, predicted: torch.Tensor, num_classes: int) -> Counts:
    return Counts(
        *hit_table(labels, predicted, num_classes).sum(dim=0, dtype=torch.float64).chunk(3)
    )


@settings(max_examples=40)
@given(n=st.integers(1, 60), num_classes=st.integers(2, 6), seed=st.integers(0, 2**31))
def test_the_rates_of_the_bootstrap_are_the_reported_metrics(
    n: int, num_classes: int, seed: int
) -> None:
    probabilities, labels = predictions(n, num_classes, seed)
    reported = classification_metrics(probabilities, labels)
    got = rates(counted(labels, probabilities.argmax(dim=1), num_classes))
    assert {name: float(value) for name, value in got.items()} == pytest.approx(
        {name: reported[name] for name in got}, abs=1e-4
    )


@settings(max_examples=20)
@given(n=st.integers(2, 60), num_classes=st.integers(2, 6), seed=st.integers(0, 2**31))
def test_agrees_with_scikit_learn(n: int, num_classes: int, seed: int) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    probabilities, labels = predictions(n, num_classes, seed)
    y, p = labels.numpy(), probabilities.argmax(dim=1).numpy()
    got = classification_metrics(probabilities, labels)
    assert got["accuracy"] == pytest.approx(100 * sk.accuracy_score(y, p))
    assert got["balanced_accuracy"] == pytest.approx(
        100 * sk.recall_score(y, p, labels=np.unique(y), average="macro", zero_division=0)
    )
    assert got["f1"] == pytest.approx(100 * sk.f1_score(y, p, average="macro", zero_division=0))
    assert got["precision"] == pytest.approx(
        100 * sk.precision_score(y, p, average="macro", zero_division=0)
    )


@settings(max_examples=30)
@given(n=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_the_order_of_images_and_the_names_of_classes_do_not_matter(n: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    probabilities, labels = torch.rand(n, 5, generator=g), torch.randint(5, (n,), generator=g)
    rows, names = torch.randperm(n, generator=g), torch.randperm(5, generator=g)
    renamed = classification_metrics(probabilities[rows][:, names], names.argsort()[labels[rows]])
    assert renamed == pytest.approx(classification_metrics(probabilities, labels), nan_ok=True)


def test_rates_of_many_confusion_matrices_at_once() -> None:
    g = torch.Generator().manual_seed(1)
    labels, predicted = (
        torch.randint(4, (3, 50), generator=g),
        torch.randint(4, (3, 50), generator=g),
    )
    single = [counted(y, p, 4) for y, p in zip(labels, predicted, strict=True)]
    stacked = Counts(
        *(
            torch.stack([getattr(one, part) for one in single])
            for part in ("hits", "predicted", "labelled")
        )
    )
    for name, values in rates(stacked).items():
        assert values.tolist() == [float(rates(one)[name]) for one in single]


def test_a_perfect_ranking_is_never_more_than_100() -> None:
    """Summed in float32, a perfect ranking may come out a little above 1."""
    for n in range(3, 200):
        labels = (torch.arange(n) % 3 == 0).long()
        scores = (
            torch.stack([1 - labels.double() * 0.8, labels.double() * 0.8], dim=1)
            * torch.linspace(0.9, 1, n)[:, None]
        )
        area = metrics.auroc(scores, labels)
        assert area is not None
        assert area <= 100


def reference(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float | None]:
    """The same by torchmetrics, in percent."""
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    predicted, count = scores.argmax(dim=1), scores.shape[1]
    found = {
        "accuracy": theirs.multiclass_accuracy(predicted, labels, count, average="micro"),
        "balanced_accuracy": theirs.multiclass_recall(predicted, labels, count, average=None)[
            labels.unique()
        ].mean(),
        "f1": theirs.multiclass_f1_score(predicted, labels, count, average="macro"),
        "precision": theirs.multiclass_precision(predicted, labels, count, average="macro"),
        "ece": theirs.multiclass_calibration_error(scores, labels, count, n_bins=15, norm="l1"),
    }
    own = torch.nn.functional.one_hot(labels, count)
    areas = [
        min(float(theirs.binary_auroc(scores[:, k], own[:, k])), 1.0)
        for k in range(count)
        if 0 < own[:, k].sum() < len(labels)
    ]
    percent = {name: 100 * float(one) for name, one in found.items()}
    return {**percent, "auroc": 100 * sum(areas) / len(areas) if areas else None}


@settings(max_examples=40)
@given(
    n=st.integers(1, 3000),
    count=st.integers(2, 9),
    seed=st.integers(0, 2**31),
    digits=st.sampled_from([1, 2, 4, None]),
)
@example(n=1, count=2, seed=0, digits=None)
@example(n=40_000, count=7, seed=1, digits=2)
def test_every_bit_is_that_of_torchmetrics(
    n: int, count: int, seed: int, digits: int | None
) -> None:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(count if seed % 3 else count - 1, (n,), generator=g)
    scores = 4 * torch.randn(n, count, generator=g) + 3 * torch.nn.functional.one_hot(labels, count)
    scores = scores.softmax(dim=1).double()
    if digits is not None:  # ties, and confidences on the edges of bins
        scores = scores.mul(10**digits).round().div(10**digits).clamp(0, 1)
    got = classification_metrics(scores, labels)
    assert {name: got[name] for name in NAMES} == reference(scores, labels)
