import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fedrobust.errors import ConfigError
from fedrobust.learning import losses
from fedrobust.learning.etf import simplex_etf
from fedrobust.utils.seeding import generator


def general_dot_regression(features_Bd, anchors_dK, labels_B, lengths_K):
    """The authors' form, of features of any length: 1/(2B) sum (h.t - |t||h|)^2 / |h|, t = r_y m_y,
    lengths constant for autograd."""
    targets_Bd = (lengths_K * anchors_dK).T[labels_B]
    with torch.no_grad():
        feature_B = features_Bd.norm(dim=1).clamp(min=1e-8)
        target_B = targets_Bd.norm(dim=1)
    products_B = (features_Bd * targets_Bd).sum(1)
    return 0.5 * ((products_B - target_B * feature_B) ** 2 / feature_B).mean()


def batch(seed=0, size=12, num_classes=4, dimension=6):
    g = generator(seed, "batch")
    features = functional.normalize(torch.randn(size, dimension, generator=g), dim=1)
    return (
        features,
        simplex_etf(dimension, num_classes, g),
        torch.randint(0, num_classes, (size,), generator=g),
    )


# ---- Rect


def test_rect_lengths_by_hand():
    # labels 0 0 0 1: B = 4, U = 2, gamma = 2; r = sqrt(2/3), sqrt(2/1), and 1 for the absent class
    # 2
    lengths = losses.rect_lengths(torch.tensor([0, 0, 0, 1]), 3)
    assert lengths.tolist() == pytest.approx([math.sqrt(2 / 3), math.sqrt(2), 1.0])


def test_rect_cap_bounds_the_weight_and_not_the_length():
    # one image of class 1 among 40: gamma = 20, r^2 = 20/39 and 20 -> capped to 10
    labels = torch.tensor([0] * 39 + [1])
    assert losses.rect_lengths(labels, 2).square().tolist() == pytest.approx([20 / 39, 10.0])
    assert losses.rect_lengths(labels, 2, cap=None).square().tolist() == pytest.approx(
        [20 / 39, 20.0]
    )


def test_rect_of_given_counts():
    # counts 6, 2, 0: gamma = 8/2 = 4; r^2 = 4/6, 4/2, and 1 for the class without an image, as in a
    # batch with these very images
    lengths = losses.rect_lengths(torch.tensor([0, 1]), 3, counts_K=torch.tensor([6.0, 2.0, 0.0]))
    assert lengths.square().tolist() == pytest.approx([4 / 6, 2.0, 1.0])
    assert torch.equal(lengths, losses.rect_lengths(torch.tensor([0] * 6 + [1] * 2), 3))


@pytest.mark.parametrize("labels", [[2], [1, 1, 1], [0, 1, 2], [0, 1, 2, 2, 1, 0], []])
def test_rect_leaves_single_balanced_and_empty_batches_alone(labels):
    assert losses.rect_lengths(
        torch.tensor(labels, dtype=torch.int64), 3
    ).tolist() == pytest.approx([1.0, 1.0, 1.0])


@settings(max_examples=40)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_dot_regression_with_rect_is_the_class_balanced_mean(labels, seed):
    labels = torch.tensor(labels)
    scores = torch.rand(len(labels), 5, generator=generator(seed, "scores")) * 2 - 1
    lengths = losses.rect_lengths(labels, 5, cap=None)
    per_image = 0.5 * (1 - scores.gather(1, labels[:, None])[:, 0]) ** 2
    balanced = torch.stack([per_image[labels == k].mean() for k in labels.unique()]).mean()
    assert torch.allclose(losses.dot_regression(scores, labels, lengths), balanced, atol=1e-6)
    # the weights of a batch sum to B
    assert lengths[labels].square().sum().item() == pytest.approx(len(labels), rel=1e-5)


# ---- dot regression


def test_dot_regression_by_hand():
    # cos = .6 and -.2: 1/(2*2) (.4^2 + 1.2^2) = 1.6/4 = .4; with lengths^2 2 and .5: 1/4 (2*.16 +
    # .5*1.44) = .26
    scores, labels = torch.tensor([[0.6, 9.0], [9.0, -0.2]]), torch.tensor([0, 1])
    assert losses.dot_regression(scores, labels).item() == pytest.approx(0.4)
    assert losses.dot_regression(
        scores, labels, torch.tensor([2.0, 0.5]).sqrt()
    ).item() == pytest.approx(0.26)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), size=st.integers(1, 20))
def test_on_unit_features_value_and_gradient_are_those_of_the_general_form(seed, size):
    features, anchors, labels = batch(seed, size)
    lengths = losses.rect_lengths(labels, 4)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss, expected = (
        losses.dot_regression(ours @ anchors, labels, lengths),
        general_dot_regression(theirs, anchors, labels, lengths),
    )
    assert torch.allclose(loss, expected, atol=1e-6)
    loss.backward(), expected.backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    # closed form: dL/du = -(r^2/B) (1 - cos) m
    cosine = (features @ anchors).gather(1, labels[:, None])
    closed = -(lengths[labels].square()[:, None] / size) * (1 - cosine) * anchors.T[labels]
    assert torch.allclose(ours.grad, closed, atol=1e-6)


@pytest.mark.parametrize("cosine", [-1.0, -0.6, 0.0, 0.8, 1.0])
def test_gradient_through_the_normalisation(cosine):
    # |dL/dz| = r^2 (1 - cos) sin / (B |z|), 0 at both ends; here r = 1, B = 1, |z| = 2
    anchor = torch.tensor([1.0, 0.0])
    raw = 2 * torch.tensor([[cosine, math.sqrt(1 - cosine**2)]])
    raw.requires_grad_()
    scores = functional.normalize(raw, dim=1) @ torch.stack([anchor, -anchor], dim=1)
    losses.dot_regression(scores, torch.tensor([0])).backward()
    assert raw.grad.norm().item() == pytest.approx(
        (1 - cosine) * math.sqrt(1 - cosine**2) / 2, abs=1e-6
    )


@pytest.mark.parametrize("name", losses.NAMES)
def test_gradients_agree_with_finite_differences(name):
    scores = (
        torch.rand(6, 4, generator=generator(1, "scores"), dtype=torch.float64) * 2 - 1
    ).requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 3, 3])
    loss = losses.make_loss(name, scale=4.0, counts_K=torch.tensor([3.0, 1.0, 0.0, 2.0]))
    assert torch.autograd.gradcheck(lambda s: loss(s, labels), scores)


# ---- cross-entropy and balanced softmax


@pytest.mark.parametrize(
    ("scale", "top"),
    # top probability at perfect alignment, K = 8: 1 / (1 + 7 exp(-8 s / 7))
    [(1.0, 0.309), (4.0, 0.932), (8.0, 0.9993), (16.0, 1.0)],
)
def test_a_small_scale_is_a_trap(scale, top):
    anchors = simplex_etf(16, 8, generator(0, "etf"))
    scores = (anchors.T @ anchors)[:1]
    probability = functional.softmax(scale * scores, dim=1)[0, 0].item()
    assert probability == pytest.approx(top, abs=5e-4)
    assert probability == pytest.approx(1 / (1 + 7 * math.exp(-8 * scale / 7)), abs=1e-6)
    assert losses.cross_entropy(scores, torch.tensor([0]), scale).item() == pytest.approx(
        -math.log(probability), abs=1e-5
    )


def test_the_floor_of_cross_entropy_at_scale_one():
    # 1.173 = log(1 + 7 exp(-8/7))
    scores = torch.full((1, 8), -1 / 7).index_fill(1, torch.tensor([0]), 1.0)
    assert losses.cross_entropy(scores, torch.tensor([0]), 1.0).item() == pytest.approx(
        1.173, abs=5e-4
    )


def test_cross_entropy_gradient_in_closed_form():
    # dL/du = (s/B) sum_k (p_k - 1[k = y]) m_k
    features, anchors, labels = batch()
    features.requires_grad_()
    losses.cross_entropy(features @ anchors, labels, 16.0).backward()
    p = functional.softmax(16 * features.detach() @ anchors, dim=1) - functional.one_hot(labels, 4)
    assert torch.allclose(features.grad, 16 / 12 * p @ anchors.T, atol=1e-5)


def test_balanced_softmax_by_hand():
    # scores 0 0, counts 3 1: softmax(log 3, log 1) = 3/4, 1/4; the rare class costs log 4
    loss = losses.balanced_softmax(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx(math.log(4))
    # a class without images counts as one: 3/(3+1) again
    absent = losses.balanced_softmax(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([3.0, 0.0]))
    assert absent.item() == pytest.approx(math.log(4))


@settings(max_examples=20)
@given(seed=st.integers(0, 999), counts=st.lists(st.integers(1, 50), min_size=4, max_size=4))
def test_balanced_softmax_is_the_arb_form(seed, counts):
    # ARB: -log exp(z_y) / sum_j (n_j / n_y) exp(z_j)
    features, anchors, labels = batch(seed)
    z, n = 8 * features @ anchors, torch.tensor(counts, dtype=torch.float32)
    arb = torch.stack(
        [((n / n[y]) * (row - row[y]).exp()).sum().log() for row, y in zip(z, labels, strict=True)]
    ).mean()
    assert torch.allclose(
        losses.balanced_softmax(features @ anchors, labels, n, 8.0), arb, atol=1e-4
    )


# ---- mutual learning


def test_mutual_kl_by_hand():
    # teacher (1/2, 1/2), student softmax(1 * (log 3, 0)) at T = 1 = (3/4, 1/4):
    # KL = 1/2 log(.5/.75) + 1/2 log(.5/.25) = 1/2 log(4/3) = .14384
    student, teacher = torch.tensor([[math.log(3), 0.0]]), torch.full((1, 2), 0.5)
    assert losses.mutual_kl(student, teacher, 1.0, 1.0).item() == pytest.approx(
        0.5 * math.log(4 / 3)
    )
    # scale 2 and T = 2 give the same softmax and T^2 = 4 times the value; half the weight halves it
    assert losses.mutual_kl(student, teacher, 2.0, 2.0).item() == pytest.approx(2 * math.log(4 / 3))


def test_mutual_kl_gradient_is_the_difference_of_the_probabilities():
    # d/da = T^2 * (s/T) (softmax(s a/T) - teacher) / B
    g = generator(0, "kl")
    student = torch.randn(5, 4, generator=g).requires_grad_()
    teacher = functional.softmax(torch.randn(5, 4, generator=g), dim=1).requires_grad_()
    losses.mutual_kl(student, teacher, 8.0, 2.0).backward()
    expected = (
        4 * (8 / 2) * (functional.softmax(4 * student.detach(), dim=1) - teacher.detach()) / 5
    )
    assert torch.allclose(student.grad, expected, atol=1e-5)
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("scale", "divergence"), [(1.0, 0.24), (4.0, 4.2), (8.0, 9.1), (16.0, 18.0)]
)
def test_without_scale_mutual_learning_does_nothing(scale, divergence):
    # KL between members that are perfectly sure of two different classes, K = 8,
    # T = 1
    scores = torch.eye(8) * 8 / 7 - 1 / 7
    teacher = functional.softmax(scale * scores[:1], dim=1)
    assert losses.mutual_kl(scores[1:2], teacher, scale, 1.0).item() == pytest.approx(
        divergence, rel=0.05
    )


def test_a_sure_teacher_is_no_nan():
    assert losses.mutual_kl(
        torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), 1.0, 1.0
    ).item() == pytest.approx(math.log(2))


def test_inner_product_gap_by_hand():
    # true classes 0 and 1: gaps .2 - .5 = -.3 and .9 - .4 = .5; 1/(2*2) (.09 + .25) = .085
    student = torch.tensor([[0.2, 9.0], [9.0, 0.9]], requires_grad=True)
    teacher = torch.tensor([[0.5, 0.0], [0.0, 0.4]], requires_grad=True)
    loss = losses.inner_product_gap(student, teacher, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(0.085)
    loss.backward()
    assert torch.allclose(student.grad, torch.tensor([[-0.15, 0.0], [0.0, 0.25]]))
    assert teacher.grad is None


# ---- edges, for all


def every(scale=2.0, num_classes=3):
    counts = torch.ones(num_classes)
    named = {name: losses.make_loss(name, scale=scale, counts_K=counts) for name in losses.NAMES}
    teacher = torch.full((1, num_classes), 1 / num_classes)
    named["mutual_kl"] = lambda s, y: losses.mutual_kl(s, teacher.expand(len(s), -1), scale)
    named["inner_product_gap"] = lambda s, y: losses.inner_product_gap(s, torch.zeros_like(s), y)
    return named.items()


@pytest.mark.parametrize(("name", "loss"), every())
def test_edges(name, loss):
    empty = torch.zeros(0, 3, requires_grad=True)
    nothing = loss(empty, torch.zeros(0, dtype=torch.int64))
    nothing.backward()
    assert nothing.item() == 0
    assert empty.grad.shape == (0, 3)
    scores = torch.tensor([[0.5, -0.2, 0.1]])
    assert loss(scores, torch.tensor([1])).isfinite()
    assert not loss(scores * math.nan, torch.tensor([1])).isfinite()
    # the same image twice costs what it costs once (a single class: Rect does nothing)
    assert torch.allclose(
        loss(scores, torch.tensor([1])), loss(scores.repeat(2, 1), torch.tensor([1, 1]))
    )


@pytest.mark.parametrize(("name", "loss"), every(scale=16.0))
def test_float32_whatever_autocast_surrounds(name, loss):
    scores, labels = (
        torch.rand(8, 3, generator=generator(0, "autocast")),
        torch.tensor([0, 1, 2, 0, 1, 2, 0, 0]),
    )
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(scores, labels)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(scores, labels))
    assert loss(scores.to(torch.bfloat16), labels).dtype == torch.float32


def test_rect_can_be_switched_off_and_never_touches_cross_entropy():
    scores, labels = torch.rand(4, 2, generator=generator(0, "rect")), torch.tensor([0, 0, 0, 1])
    plain = losses.make_loss("dot_regression", scale=1.0, rect=False)(scores, labels)
    assert torch.equal(plain, losses.dot_regression(scores, labels))
    assert not torch.allclose(losses.make_loss("dot_regression", scale=1.0)(scores, labels), plain)
    assert torch.equal(
        losses.make_loss("cross_entropy", scale=3.0)(scores, labels),
        losses.cross_entropy(scores, labels, 3.0),
    )


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"name": "dot"}, "client.loss=dot: must be one of"),
        ({"name": "balanced_softmax"}, "client.loss=balanced_softmax: needs"),
        ({"name": "dot_regression", "rect_scope": "client"}, "client.rect_scope=client: needs"),
        ({"name": "dot_regression", "rect_scope": "world"}, "client.rect_scope=world"),
    ],
)
def test_wrong_settings(keywords, match):
    with pytest.raises(ConfigError, match=match):
        losses.make_loss(scale=1.0, **keywords)


def test_distillation_of_scores_is_the_loss_of_its_name() -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(5, 4, generator=g), torch.randn(5, 4, generator=g)
    labels = torch.tensor([0, 1, 2, 3, 0])
    kl = losses.make_score_distillation("kl", 16.0, 2.0)
    taught = (16.0 / 2.0 * teacher).softmax(dim=1)
    assert torch.equal(kl(student, teacher, labels), losses.mutual_kl(student, taught, 16.0, 2.0))
    gap = losses.make_score_distillation("true_class", 16.0, 2.0)
    assert torch.equal(
        gap(student, teacher, labels), losses.inner_product_gap(student, teacher, labels)
    )
