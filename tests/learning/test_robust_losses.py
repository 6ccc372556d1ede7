"""Losses that bear wrong labels: by hand, their limits, Rect as weights, and the estimate of how
annotators confuse classes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fedrobust.errors import ConfigError
from fedrobust.learning import losses
from fedrobust.learning.losses import RobustLoss, make_loss
from fedrobust.learning.noisy_labels import estimate_confusion
from fedrobust.utils.confusion import confusion_matrix
from fedrobust.utils.seeding import generator

# probabilities (3/4, 1/4)
SCORES = torch.tensor([[math.log(3.0), 0.0]])
FIRST, SECOND = torch.tensor([0]), torch.tensor([1])


def drawn(seed, size=9, num_classes=4):
    g = generator(seed, "scores")
    scores = 2 * torch.randn(size, num_classes, generator=g, dtype=torch.float64)
    return scores, torch.randint(0, num_classes, (size,), generator=g)


def test_forward_correction_by_hand():
    # p = (3/4, 1/4), T = ((.8, .2), (.4, .6)): label 1 is written with 3/4 * .2 + 1/4 * .6 = .3,
    # label 0 with 3/4 * .8 + 1/4 * .4 = .7
    confusion = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    for labels, share in ((FIRST, 0.7), (SECOND, 0.3)):
        loss = losses.forward_correction(SCORES, labels, confusion)
        assert loss.item() == pytest.approx(-math.log(share), rel=1e-6)


def test_generalised_cross_entropy_by_hand():
    # q = 1/2, p_1 = 1/4: (1 - (1/4)^(1/2)) / (1/2) = 1
    assert losses.generalised_cross_entropy(SCORES, SECOND, 0.5).item() == pytest.approx(1.0)


def test_symmetric_cross_entropy_by_hand():
    # alpha .1, beta 2, A = -4, p_1 = 1/4: .1 log 4 + 2 * 4 * (1 - 1/4) = .1 log 4 + 6
    loss = losses.symmetric_cross_entropy(SCORES, SECOND, RobustLoss(beta=2.0))
    assert loss.item() == pytest.approx(0.1 * math.log(4) + 6, rel=1e-6)


def test_label_smoothing_by_hand():
    # smoothing .2 over two classes: label 1 keeps .9, class 0 gets .1: .9 log 4 + .1 log(4/3)
    loss = losses.label_smoothing(SCORES, SECOND, 0.2)
    assert loss.item() == pytest.approx(0.9 * math.log(4) + 0.1 * math.log(4 / 3), rel=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 999))
def test_each_has_cross_entropy_as_a_limit(seed):
    scores, labels = drawn(seed)
    plain = losses.cross_entropy(scores, labels, 1.5)
    nearly = {
        "forward_correction": RobustLoss(confusion=torch.eye(4).tolist()),
        "generalised_cross_entropy": RobustLoss(q=1e-7),
        "symmetric_cross_entropy": RobustLoss(alpha=1.0, beta=0.0),
        "label_smoothing": RobustLoss(smoothing=0.0),
    }
    assert set(nearly) == set(losses.ROBUST)
    for name, robust in nearly.items():
        loss = make_loss(name, scale=1.5, rect=False, robust=robust)
        assert torch.allclose(loss(scores, labels), plain, rtol=1e-4), name


@settings(max_examples=30)
@given(seed=st.integers(0, 999))
def test_the_mean_absolute_error_sums_to_the_same_whatever_the_label(seed):
    # symmetric losses: the sum over all labels is constant (K - 1 for q = 1, A (K - 1) for reverse
    # cross-entropy), so that symmetric noise does not move the minimiser
    scores, _ = drawn(seed)
    every = [torch.full((len(scores),), k) for k in range(4)]
    absolute = sum(losses.generalised_cross_entropy(scores, labels, 1.0) for labels in every)
    only_reverse = RobustLoss(alpha=0.0, beta=1.0, log_zero=-2.0)
    reverse = sum(losses.symmetric_cross_entropy(scores, labels, only_reverse) for labels in every)
    assert (absolute.item(), reverse.item()) == (pytest.approx(3.0), pytest.approx(6.0))


def test_the_right_confusion_leads_to_clean_shares():
    # of one kind of image 3/4 are class 0; labels are written by T, so 3/4 * .8 + 1/4 * .4 = 70 %
    # are 0: the minimiser over one free score is 3/4 again, and 70 % without the correction
    confusion = torch.tensor([[0.8, 0.2], [0.4, 0.6]], dtype=torch.float64)
    labels = torch.tensor([0] * 7 + [1] * 3)
    found = []
    for matrix in (confusion, torch.eye(2)):
        free = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([free], max_iter=50)

        def step(free=free, matrix=matrix, optimizer=optimizer):
            optimizer.zero_grad()
            scores = torch.cat([free, torch.zeros(1, dtype=torch.float64)]).expand(10, 2)
            loss = losses.forward_correction(scores, labels, matrix)
            loss.backward()
            return loss

        optimizer.step(step)
        found.append(torch.sigmoid(free).item())
    assert found == [pytest.approx(0.75, abs=1e-3), pytest.approx(0.7, abs=1e-3)]


@pytest.mark.parametrize("name", losses.ROBUST)
def test_rect_makes_every_class_weigh_the_same(name):
    # class 0 three times, class 1 once, all images alike within a class: the mean over classes
    g = generator(3, "scores")
    of_class = torch.randn(2, 3, generator=g)
    labels = torch.tensor([0, 0, 0, 1])
    scores = of_class[labels]
    plain = make_loss(name, scale=2.0, rect=False)
    single = [plain(of_class[k : k + 1], torch.tensor([k])) for k in (0, 1)]
    assert torch.allclose(make_loss(name, scale=2.0)(scores, labels), sum(single) / 2)
    assert torch.allclose(plain(scores, labels), (3 * single[0] + single[1]) / 4)


@pytest.mark.parametrize("name", losses.ROBUST)
def test_scores_of_the_anchors_and_logits_are_one(name):
    # inner products times the scale are the logits of a linear head
    scores, labels = drawn(5)
    inner = functional.normalize(scores, dim=1)
    assert torch.equal(
        make_loss(name, scale=16.0)(inner, labels), make_loss(name, scale=1.0)(16 * inner, labels)
    )


def test_confusion_is_read_from_images_that_stand_for_their_class():
    # 101 images for either class: the quantile .97 is the image with place 98 of 202 * .97 = 195
    # from below of p_0: probabilities .8 .2; class 1: .1 .9; class 2 is first for none: as it is
    rows = [[0.8, 0.2, 0.0]] * 101 + [[0.1, 0.9, 0.0]] * 101
    found = estimate_confusion(torch.tensor(rows))
    expected = torch.tensor([[0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]])
    assert torch.allclose(found, expected.double(), atol=1e-6)
    # one image that is surer than all others decides nothing
    rows[0] = [1.0, 0.0, 0.0]
    assert torch.allclose(estimate_confusion(torch.tensor(rows)), expected.double(), atol=1e-6)
    assert torch.equal(estimate_confusion(torch.zeros(0, 3)), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"q": 0}, r"client\.robust_loss\.q=0: must be greater than 0"),
        ({"log_zero": 0.0}, r"client\.robust_loss\.log_zero=0.0: must be less than 0"),
        ({"smoothing": 2.0}, r"client\.robust_loss\.smoothing=2.0"),
        ({"confusion": "guess"}, r"client\.robust_loss\.confusion=guess: must be estimate, or K"),
        ({"confusion": [[1.0, 0.0], [0.5, 0.4]]}, r"confusion=.*: must be 2 rows of 2 prob"),
        ({"confusion": [[1.0]] * 2}, r"confusion=.*: must be 2 rows of 2 probabilities"),
    ],
)
def test_wrong_settings(given, match):
    with pytest.raises(ConfigError, match=match):
        RobustLoss(**given)


def test_a_confusion_of_another_number_of_classes():
    with pytest.raises(ConfigError, match=r"x\.y=.*: must be 3 rows of 3 probabilities"):
        confusion_matrix("x.y", [[1.0, 0.0], [0.0, 1.0]], 3)
