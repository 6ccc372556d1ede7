"""Sphere and slab by hand, their laws, and the paper's two-class formulas beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.defences.sanitisation import Sanitiser, none, sanitise
from fedrobust.defences.sanitisation.base import centroids, kept_rows
from fedrobust.defences.sanitisation.slab import slab
from fedrobust.defences.sanitisation.sphere import sphere
from fedrobust.errors import ConfigError
from fedrobust.learning.etf import simplex_etf
from fedrobust.utils.seeding import generator

LESS = settings(max_examples=40)
FACTORIES = [sphere, slab]
# the simplex ETF of three classes in the plane
THREE = torch.tensor([[1.0, -0.5, -0.5], [0.0, math.sqrt(0.75), -math.sqrt(0.75)]])


def cloud(seed: int, count: int, num_classes: int, dimension: int = 4) -> tuple[Tensor, Tensor]:
    g = generator(seed, "cloud")
    return torch.randn(count, dimension, generator=g), torch.randint(
        num_classes, (count,), generator=g
    )


def anchors(num_classes: int, dimension: int = 4, seed: int = 0) -> Tensor:
    return simplex_etf(dimension, num_classes, generator(seed, "etf"))


def test_sphere_by_hand() -> None:
    # class 0: centroid of (0,0), (2,0), (1,3) is (1,1); distances sqrt 2, sqrt 2, 2. Class 2: one
    # image, its own centroid.
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0], [9.0, 9.0]])
    found = sanitise(sphere(quantile=0.34), features, torch.tensor([0, 0, 0, 2]))
    assert found.scores_N.tolist() == pytest.approx([math.sqrt(2), math.sqrt(2), 2, 0])
    # floor(.34 * 3) = 1 of class 0, floor(.34) = 0 of class 2
    assert found.kept_N.tolist() == [True, True, False, True]


def test_slab_by_hand() -> None:
    # centroids (0,0) and (4,0): direction (-1,0) from class 0, (1,0) from class 1; what lies across
    # the line does not count
    features = torch.tensor([[3.0, 5.0], [-3.0, -5.0], [4.0, 7.0], [4.0, -7.0]])
    found = sanitise(slab(quantile=0.5), features, torch.tensor([0, 0, 1, 1]))
    assert found.scores_N.tolist() == pytest.approx([3, 3, 0, 0])
    # of equal scores the earlier goes; those at their centre stay
    assert found.kept_N.tolist() == [False, True, True, True]


def test_the_fixed_anchors_by_hand() -> None:
    # a picture of class 1 labelled 0: 1 - m1.m0 = 1 + 1/2; slab: |(m1 - m0).(m0 - m1)|/|m0 - m1| =
    # sqrt 3, towards m2 only .866 a perfect one of class 0: 0 and 0. (.6, .8) labelled 0, of any
    # length: 1 - .6; m0 - m1 = (1.5, -.866)/1.732 = (.866, -.5): (u - m0) = (-.4, .8): -.346 - .4 =
    # -.746; towards m2 -.346 + .4 = .054
    features = torch.tensor([[-0.5, math.sqrt(0.75)], [1.0, 0.0], [6.0, 8.0]])
    labels = torch.zeros(3, dtype=torch.int64)
    assert sanitise(
        sphere(anchors="etf"), features, labels, THREE
    ).scores_N.tolist() == pytest.approx([1.5, 0, 0.4], abs=1e-6)
    found = sanitise(slab(anchors="etf", quantile=0.34), features, labels, THREE)
    assert found.scores_N.tolist() == pytest.approx(
        [math.sqrt(3), 0, 0.2 * math.sqrt(3) + 0.4], abs=1e-6
    )
    assert found.kept_N.tolist() == [False, True, True]


@LESS
@given(seed=st.integers(0, 999), quantile=st.floats(0, 0.9))
def test_two_classes_are_the_paper_s(seed: int, quantile: float) -> None:
    """|x - mu_y| <= r_y and |<x - mu_y, mu_y - mu_-y>| <= s_y, written once more in NumPy."""
    features, labels = cloud(seed, 30, 2)
    labels[:2] = torch.tensor([0, 1])
    x, y = features.double().numpy(), labels.numpy()
    means = np.stack([x[y == k].mean(0) for k in (0, 1)])
    away = x - means[y]
    paper = {
        sphere: np.linalg.norm(away, axis=1),
        slab: np.abs((away * (means[y] - means[1 - y])).sum(1)),
    }
    for factory, scores in paper.items():
        mask = np.ones(30, bool)
        for k in (0, 1):
            rows = np.flatnonzero(y == k)
            worst = rows[np.argsort(-scores[rows], kind="stable")][
                : math.floor(quantile * len(rows) + 1e-9)
            ]
            mask[worst] = scores[worst] <= 1e-9
        assert (
            sanitise(factory(quantile=quantile), features, labels).kept_N.tolist() == mask.tolist()
        )


@LESS
@given(
    seed=st.integers(0, 999), size=st.tuples(st.integers(1, 40), st.integers(2, 5)), data=st.data()
)
@pytest.mark.parametrize("where", ["centroid", "etf"])
@pytest.mark.parametrize("factory", FACTORIES)
def test_laws(factory, where: str, seed: int, size: tuple[int, int], data: st.DataObject) -> None:
    count, num_classes = size
    features, labels = cloud(seed, count, num_classes)
    frame = anchors(num_classes)
    little, much = sorted(data.draw(st.lists(st.floats(0, 0.99), min_size=2, max_size=2)))
    few, many = (
        sanitise(factory(anchors=where, quantile=q), features, labels, frame)
        for q in (little, much)
    )
    assert torch.equal(few.scores_N, many.scores_N)
    assert not (many.kept_N & ~few.kept_N).any()  # who drops more drops the same and others
    for label in labels.unique():
        rows = labels == label
        assert int(many.kept_N[rows].sum()) >= 1  # no class is emptied
        assert int((~many.kept_N[rows]).sum()) <= much * int(rows.sum()) + 1e-6
        if (~many.kept_N[rows]).any():
            assert (
                many.scores_N[rows & many.kept_N].max()
                <= many.scores_N[rows & ~many.kept_N].min() + 1e-12
            )
    assert sanitise(factory(anchors=where, quantile=0.0), features, labels, frame).kept_N.all()
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator(seed, "turn")))
    order = torch.randperm(count, generator=generator(seed, "order"))
    other = sanitise(
        factory(anchors=where, quantile=much),
        3 * features[order] @ turn.T,
        labels[order],
        turn @ frame,
    )
    scale = 1 if where == "etf" else 3  # a unit feature has no length
    assert torch.allclose(other.scores_N, scale * few.scores_N[order], atol=1e-4)


@LESS
@given(seed=st.integers(0, 999))
@pytest.mark.parametrize("factory", FACTORIES)
def test_nobody_moves_the_anchors_but_everybody_the_centroids(factory, seed: int) -> None:
    features, labels = cloud(seed, 20, 3)
    poison = torch.full((40, 4), 5.0) + torch.randn(40, 4, generator=generator(seed, "poison"))
    both = torch.cat([features, poison]), torch.cat([labels, torch.zeros(40, dtype=torch.int64)])
    fixed, moved = (
        [
            sanitise(factory(anchors=where), x, y, anchors(3)).scores_N[:20]
            for x, y in ((features, labels), both)
        ]
        for where in ("etf", "centroid")
    )
    assert torch.equal(*fixed)
    assert not torch.allclose(*moved)


@LESS
@given(seed=st.integers(0, 999))
def test_the_sphere_around_an_anchor_is_a_sphere(seed: int) -> None:
    features, labels = cloud(seed, 20, 3)
    scores = sanitise(sphere(anchors="etf"), features, labels, anchors(3)).scores_N
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    assert torch.allclose(
        scores, (unit - anchors(3).double().T[labels]).square().sum(1) / 2, atol=1e-6
    )
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 2 + 1e-6


@pytest.mark.parametrize("where", ["centroid", "etf"])
@pytest.mark.parametrize("factory", FACTORIES)
def test_edges(factory, where: str) -> None:
    def found(features: Tensor, labels: list[int], quantile: float = 0.9) -> list[bool]:
        return sanitise(
            factory(anchors=where, quantile=quantile),
            features,
            torch.tensor(labels, dtype=torch.int64),
            THREE,
        ).kept_N.tolist()

    assert found(torch.zeros(0, 2), []) == []
    assert found(torch.randn(3, 2), [0, 1, 2]) == [True] * 3  # one image a class
    assert found(THREE.T[[0, 0, 0, 0]], [0, 0, 0, 0]) == [True] * 4  # all at their centre
    assert len(found(torch.zeros(5, 2), [0, 0, 0, 1, 1])) == 5  # features that point nowhere
    # class 1 has no image
    assert sum(found(torch.randn(10, 2, generator=generator(0)), [0] * 5 + [2] * 5)) >= 2


def test_a_zero_feature_points_nowhere() -> None:
    assert sanitise(
        sphere(anchors="etf"), torch.zeros(1, 2), torch.tensor([1]), THREE
    ).scores_N.tolist() == [1.0]


def test_one_class_alone_has_no_direction() -> None:
    features = torch.randn(6, 2, generator=generator(1))
    found = sanitise(slab(quantile=0.5), features, torch.full((6,), 1))
    assert found.scores_N.tolist() == [0.0] * 6
    assert found.kept_N.all()
    assert not sanitise(sphere(quantile=0.5), features, torch.full((6,), 1)).kept_N.all()


def test_a_class_without_images_has_no_centroid() -> None:
    found = centroids(torch.tensor([[2.0], [4.0], [7.0]]), torch.tensor([0, 0, 2]))
    assert found[[0, 2]].tolist() == [[3.0], [7.0]]
    assert found[1].isnan().all()


@pytest.mark.parametrize(
    ("quantile", "count", "dropped"),
    [(0.29, 100, 29), (0.3, 10, 3), (0.99, 1, 0), (0.99, 100, 99), (0.5, 3, 1)],
)
def test_the_share_is_rounded_down(quantile: float, count: int, dropped: int) -> None:
    mask = kept_rows(torch.arange(count) + 1.0, torch.zeros(count, dtype=torch.int64), quantile)
    assert int((~mask).sum()) == dropped
    assert mask[: count - dropped].all()


def test_what_lies_below_the_threshold_stays() -> None:
    # floor(.8 * 5) = 4 candidates with scores 5, 4, 3, 2; of those 2 and 3 are not above 3
    mask = kept_rows(
        torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.zeros(5, dtype=torch.int64), 0.8, 3.0
    )
    assert mask.tolist() == [True, True, True, False, False]


def test_none_keeps_everything_and_is_never_active() -> None:
    features, labels = cloud(0, 9, 3)
    assert sanitise(none(), features, labels).kept_N.all()
    assert not none().active(10**6)
    assert [sphere(warmup=2).active(number) for number in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (torch.tensor([[0.0], [torch.nan]]), torch.tensor([0, 0]), "not finite"),
        (torch.tensor([[0.0], [torch.inf]]), torch.tensor([0, 0]), "not finite"),
        (torch.zeros(3, 2), torch.tensor([0, 0]), "do not go together"),
        (torch.zeros(3), torch.tensor([0, 0, 0]), "do not go together"),
        (torch.zeros(2, 2), torch.tensor([0, -1]), "label -1"),
    ],
)
@pytest.mark.parametrize("factory", FACTORIES)
def test_what_makes_no_sense_is_refused(
    factory, features: Tensor, labels: Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        sanitise(factory(), features, labels)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (None, "needs the fixed anchors"),
        (torch.zeros(5, 3), "do not go together"),
        (torch.zeros(2, 2), "do not go together"),
    ],
)
def test_anchors_that_do_not_fit_are_refused(frame: Tensor | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sanitise(sphere(anchors="etf"), torch.zeros(3, 2), torch.tensor([0, 1, 2]), frame)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"quantile": 1.0}, "sanitiser.quantile=1.0: must be at most 0.99"),
        ({"quantile": -0.1}, "sanitiser.quantile=-0.1: must be at least 0"),
        ({"quantile": math.nan}, "sanitiser.quantile=nan: must be a number"),
        ({"warmup": 1.5}, "sanitiser.warmup=1.5: must be a whole number"),
        ({"threshold": -1}, "sanitiser.threshold=-1: must be at least 0"),
        ({"anchors": "median"}, "sanitiser.anchors=median: must be one of centroid, etf"),
    ],
)
@pytest.mark.parametrize("factory", FACTORIES)
def test_wrong_settings_end_in_one_line(factory, wrong: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        factory(**wrong)
    assert str(error.value) == line


def test_factories_give_values() -> None:
    assert isinstance(slab(), Sanitiser)
    assert (sphere().name, slab().name, sphere(quantile=0).quantile) == ("sphere", "slab", 0.0)
