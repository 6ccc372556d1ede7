import math

import pytest
import torch
from torch import nn

from fedrobust.errors import ConfigError, RunError
from fedrobust.learning import etf, optimizers
from fedrobust.learning.inference import predict
from fedrobust.learning.losses import cross_entropy, make_loss
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import fit, fit_together
from fedrobust.state import Layout, read
from fedrobust.types import Samples, Shard
from fedrobust.utils.seeding import generator
from tests.helpers import models

FAST = {"name": "Adam", "lr": 0.02}
SGD = {"name": "SGD", "lr": 0.1}


def train(net, data, seed=0, *, loss=None, extra_loss=None, memory=None, **settings):
    loss = loss or make_loss(
        "dot_regression" if net.head == "etf" else "cross_entropy", scale=net.scale
    )
    chosen = TrainingSettings(**{"optimizer": FAST, "augment": False, **settings})
    return fit(
        net, data, loss, chosen, generator(seed, "fit"), extra_loss=extra_loss, memory=memory
    )


def same(one, two):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("head", "loss"),
    [("etf", "dot_regression"), ("etf", "balanced_softmax"), ("linear", "cross_entropy")],
)
@pytest.mark.parametrize("augment", [False, True])
def test_it_learns(head, loss, augment):
    net, data = models.classifier(head), models.shard()
    chosen = make_loss(loss, scale=net.scale, counts_K=torch.full((3,), 16.0))
    train(net, data, loss=chosen, epochs=15, augment=augment)
    assert (predict(net, data.test.images).argmax(1) == data.test.labels).double().mean() > 0.9


def test_one_step_by_hand():
    # SGD on a model with one weight row: w' = w - lr * dL/dw, from torch's own gradient of the same
    # loss
    net, data = models.classifier("linear"), models.shard(train=6)
    twin = models.classifier("linear").train()
    images = data.train.images.float() / 255
    order = torch.randperm(6, generator=_after_isolation(0))
    cross_entropy(twin(images[order]), data.train.labels[order]).backward()
    expected = twin.last.weight.detach() - 0.1 * twin.last.weight.grad
    fitted = train(net, data, optimizer=SGD, batch_size=6)
    assert torch.allclose(net.last.weight, expected, atol=1e-6)
    assert fitted.seen == 6


def _after_isolation(seed):
    g = generator(seed, "fit")
    torch.randint(2**62, (1,), generator=g)  # the seed of dropout is drawn first
    return g


def test_sums_are_those_of_the_images_seen():
    net, data = models.classifier(), models.shard(train=20)
    still = {"name": "SGD", "lr": 0.0}
    fitted = train(net, data, optimizer=still, epochs=2, batch_size=20)
    net.train()
    scores = net(data.train.images.float() / 255)
    loss = make_loss("dot_regression", scale=16.0)(scores, data.train.labels)
    assert fitted.seen == 40
    assert fitted.sums["loss"] == pytest.approx(40 * loss.item(), rel=1e-5)
    assert fitted.sums["correct"] == 2 * (scores.argmax(1) == data.train.labels).sum().item()
    assert set(fitted.sums) == {"loss", "correct"}


def test_the_etf_is_bit_identical_after_training_and_in_no_optimizer():
    net = models.resnet()
    before = etf.digest(net.anchors)
    train(net, models.shard(size=32), steps=2)
    assert etf.digest(net.anchors) == before
    pointers = {p.data_ptr() for p in net.parameters()}
    assert net.anchors.data_ptr() not in pointers
    assert net.anchors.grad is None


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_generator_gives_the_same_bits_and_no_other_randomness_is_touched(dropout):
    data, before = models.shard(), torch.get_rng_state()
    nets = [models.classifier(dropout=dropout) for _ in range(3)]
    results = [
        train(net, data, seed, augment=True, epochs=2)
        for net, seed in zip(nets, (0, 0, 1), strict=True)
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert same(nets[0], nets[1])
    assert results[0] == results[1]
    assert not same(nets[0], nets[2])


def test_bytes_and_unit_floats_train_alike_and_stay_as_they_are():
    data = models.shard(size=16)
    floats = Shard(
        *(
            Samples(part.images / 255, part.labels)
            for part in (data.train, data.validation, data.test)
        )
    )
    kept, nets = data.train.images.clone(), [models.classifier(), models.classifier()]
    for net, shard in zip(nets, (data, floats), strict=True):
        train(net, shard, augment=True)
    assert same(*nets)
    assert torch.equal(kept, data.train.images)


@pytest.mark.parametrize(
    ("count", "batches"), [(9, [4, 5]), (8, [4, 4]), (5, [5]), (4, [4]), (2, [2]), (10, [4, 4, 2])]
)
def test_a_last_batch_of_one_joins_the_batch_before(count, batches):
    sizes = []
    train(
        models.classifier(),
        models.shard(train=count),
        batch_size=4,
        extra_loss=lambda images, s, y: sizes.append(len(y)) or s.sum() * 0,
    )
    assert sizes == batches


def test_one_image_trains_with_batchnorm_frozen():
    # a ResNet at 32 px ends in 1x1 maps: BatchNorm in train mode would raise on a single image
    net = models.resnet()
    mean, weight = net.backbone.bn1.running_mean.clone(), net.last.weight.detach().clone()
    fitted = train(net, models.shard(train=1, size=32), epochs=2)
    assert fitted.seen == 2
    assert torch.equal(net.backbone.bn1.running_mean, mean)
    assert not torch.equal(net.last.weight, weight)


def test_one_class_only():
    data = models.shard()
    only = data.train.take((data.train.labels == 1).nonzero()[:, 0])
    net = models.classifier()
    fitted = train(net, Shard(only, data.validation, data.test), epochs=15)
    assert math.isfinite(fitted.sums["loss"])
    assert predict(net, only.images).argmax(1).eq(1).all()


@pytest.mark.parametrize(("steps", "seen"), [(1, 8), (3, 20), (4, 28), (7, 48)])
def test_steps_take_the_place_of_epochs(steps, seen):
    # 20 images in batches 8 8 4: passes of three steps
    sizes = []
    fitted = train(
        models.classifier(),
        models.shard(train=20),
        steps=steps,
        epochs=99,
        batch_size=8,
        extra_loss=lambda i, s, y: sizes.append(len(y)) or s.sum() * 0,
    )
    assert len(sizes) == steps
    assert fitted.seen == sum(sizes) == seen


def test_every_pass_sees_every_image_once_in_another_order():
    seen = []
    data = models.shard(train=12)
    marked = Shard(
        Samples(torch.arange(12).view(12, 1, 1, 1).expand(12, 3, 8, 8) / 12, data.train.labels),
        data.validation,
        data.test,
    )
    train(
        models.classifier(),
        marked,
        epochs=2,
        batch_size=4,
        extra_loss=lambda images, s, y: seen.extend(images[:, 0, 0, 0].tolist()) or s.sum() * 0,
    )
    assert sorted(seen[:12]) == sorted(seen[12:]) == pytest.approx([i / 12 for i in range(12)])
    assert seen[:12] != seen[12:]


def test_extra_loss_is_added_and_reported():
    plain, pulled = models.classifier(), models.classifier()
    train(plain, models.shard())
    fitted = train(
        pulled,
        models.shard(),
        extra_loss=lambda images, scores, labels: 3 + 0.5 * pulled.last.weight.square().sum(),
    )
    assert pulled.last.weight.norm() < plain.last.weight.norm()
    assert fitted.sums["extra_loss"] > 3 * 48
    assert pulled.training == plain.training


def test_clipping_bounds_the_step():
    # SGD, lr .1, one step: |w' - w| = .1 * min(|g|, clip)
    net = models.classifier("linear")
    before = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    train(net, models.shard(), optimizer=SGD, steps=1, max_grad_norm=0.01)
    assert (
        nn.utils.parameters_to_vector(net.parameters()) - before
    ).norm().item() == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training(value):
    with pytest.raises(RunError, match=r"training: loss; lower client\.optimizer\.lr=0\.02"):
        train(models.classifier(), models.shard(), loss=lambda scores, labels: scores.sum() * value)
    with pytest.raises(RunError, match="training: extra_loss;"):
        train(
            models.classifier(),
            models.shard(),
            steps=1,
            extra_loss=lambda images, scores, labels: scores.sum() * value,
        )


def test_no_images():
    with pytest.raises(RunError, match="no training images"):
        train(models.classifier(), models.shard(train=0))


def test_the_mode_of_the_model_returns():
    net = models.classifier().eval()
    train(net, models.shard(), early_stopping=1)
    assert not any(module.training for module in net.modules())


# ---- early stopping and plateau


def judged(values):
    """A loss whose value on the 24 validation images follows a list, and which trains as usual on
    all others."""
    usual, left = make_loss("dot_regression", scale=16.0), iter(values)
    return lambda scores, labels: (
        torch.tensor(next(left))
        if len(labels) == 24 and not scores.requires_grad
        else usual(scores, labels)
    )


def test_early_stopping_goes_back_to_the_best_epoch():
    # validation losses 3 2 4 5: best after epoch 2, patience 2 ends after epoch 4
    stopped, reference = models.classifier(), models.classifier()
    fitted = train(
        stopped, models.shard(), loss=judged([3.0, 2.0, 4.0, 5.0]), epochs=50, early_stopping=2
    )
    train(reference, models.shard(), epochs=2)
    assert fitted.seen == 4 * 48
    assert same(stopped, reference)


def test_without_an_end_the_best_epoch_is_kept_too():
    stopped, reference = models.classifier(), models.classifier()
    train(stopped, models.shard(), loss=judged([1.0, 2.0, 3.0]), epochs=3, early_stopping=20)
    train(reference, models.shard(), epochs=1)
    assert same(stopped, reference)


def test_plateau_lowers_the_rate_and_is_carried_by_memory():
    # patience 1, factor .1, losses 1 1 1 1 1: the third bad epoch lowers once -> 2e-3; the memory
    # continues from there
    settings = {"lr_plateau": {"patience": 1, "factor": 0.1}}
    first = train(models.classifier(), models.shard(), loss=judged([1.0] * 3), epochs=3, **settings)
    assert first.memory["rates"] == pytest.approx([0.002])
    second = train(
        models.classifier(),
        models.shard(),
        loss=judged([1.0] * 2),
        epochs=2,
        memory=first.memory,
        **settings,
    )
    assert second.memory["rates"] == pytest.approx([0.0002])
    assert first.memory["rates"] == pytest.approx([0.002])
    assert train(models.classifier(), models.shard()).memory == {}


def test_without_validation_images_nothing_is_judged():
    fitted = train(
        models.classifier(),
        models.shard(validation=0),
        epochs=3,
        early_stopping=1,
        lr_plateau={"patience": 1},
    )
    assert fitted.seen == 3 * 48
    assert fitted.memory["rates"] == [0.02]


# ---- settings


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"loss": "mse"}, r"client\.loss=mse"),
        ({"rect": 1}, r"client\.rect=1"),
        ({"rect_scope": "all"}, r"client\.rect_scope=all"),
        ({"rect_cap": 0}, r"client\.rect_cap=0"),
        ({"epochs": 0}, r"client\.epochs=0"),
        ({"steps": 1.5}, r"client\.steps=1\.5"),
        ({"batch_size": 1}, r"client\.batch_size=1: must be at least 2"),
        ({"max_grad_norm": "five"}, r"client\.max_grad_norm=five"),
        ({"early_stopping": 0}, r"client\.early_stopping=0"),
        ({"lr_plateau": {"factor": 2}}, r"client\.lr_plateau="),
        ({"lr_plateau": 3}, r"client\.lr_plateau=3"),
        ({"optimizer": "Adam"}, r"client\.optimizer=Adam: must be a mapping"),
        ({"optimizer": {"name": "Adan"}}, r"client\.optimizer\.name=Adan: .*Adam"),
        ({"optimizer": {"name": "LBFGS"}}, r"client\.optimizer\.name=LBFGS"),
        ({"optimizer": {"name": "Adam", "lr": -1}}, r"client\.optimizer=.*Invalid learning rate"),
        (
            {"optimizer": {"name": "Adam", "lr": "fast"}},
            r"client\.optimizer\.lr=fast: must be a number",
        ),
        (
            {"optimizer": {"name": "SGD", "momentun": 0.9}},
            r"client\.optimizer\.momentun=0\.9: .*mean momentum",
        ),
        ({"optimizer": {"name": "Muon"}}, r"client\.optimizer=.*2D parameters"),
    ],
)
def test_wrong_settings_are_refused_at_once_in_one_line(settings, match):
    with pytest.raises(ConfigError, match=match) as caught:
        TrainingSettings(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "NAdam", "Adagrad"])
def test_any_optimizer_by_name(name):
    settings = {"name": name, "lr": 0.01}
    optimizers.check_optimizer("client.optimizer", settings)
    made = optimizers.make_optimizer(settings, [nn.Parameter(torch.zeros(2))])
    assert type(made).__name__ == name
    assert made.param_groups[0]["lr"] == 0.01


# ---- a cohort


def train_together(nets, data, peer_loss, seed=0, *, loss=None, memory=None, **settings):
    chosen = TrainingSettings(**{"optimizer": FAST, "augment": False, **settings})
    loss = loss or make_loss("cross_entropy", scale=nets[0].scale)
    return fit_together(
        nets, data, loss, chosen, generator(seed, "fit"), peer_loss=peer_loss, memory=memory
    )


def no_peers(scores, others, labels):
    return scores.sum() * 0


@pytest.mark.parametrize("augment", [False, True])
def test_a_cohort_that_learns_nothing_from_its_peers_trains_as_each_alone(augment):
    data, together, alone = (
        models.shard(),
        [models.classifier("linear", seed=seed) for seed in (0, 1)],
        [models.classifier("linear", seed=s) for s in (0, 1)],
    )
    results = train_together(together, data, no_peers, epochs=2, augment=augment)
    singles = [
        train(
            net, data, epochs=2, augment=augment, extra_loss=lambda i, scores, y: scores.sum() * 0
        )
        for net in alone
    ]
    assert all(same(*pair) for pair in zip(together, alone, strict=True))
    assert results == singles


def test_one_step_of_a_cohort_by_hand():
    # all members answer before any is changed: w_k' = w_k - lr * d/dw_k (CE_k + 1/2 mean |scores_k
    # - scores_l|^2), scores_l constant
    data, nets = models.shard(train=6), [models.classifier("linear", seed=seed) for seed in (0, 1)]
    twins = [models.classifier("linear", seed=seed).train() for seed in (0, 1)]
    order = torch.randperm(6, generator=_after_isolation(0))
    images, labels = data.train.images[order].float() / 255, data.train.labels[order]
    scores = [twin(images) for twin in twins]
    expected = []
    for place, twin in enumerate(twins):
        gap = scores[place] - scores[1 - place].detach()
        (cross_entropy(scores[place], labels) + gap.square().mean() / 2).backward()
        expected.append(twin.last.weight.detach() - 0.1 * twin.last.weight.grad)
    train_together(
        nets,
        data,
        lambda own, others, y: (own - others[0]).square().mean() / 2,
        optimizer=SGD,
        batch_size=6,
    )
    for net, weight in zip(nets, expected, strict=True):
        assert torch.allclose(net.last.weight, weight, atol=1e-6)


def test_peers_come_in_their_order_and_without_gradients():
    seen = []

    def note(own, others, labels):
        seen.append(
            (
                own.requires_grad,
                [one.requires_grad for one in others],
                [one[0, 0].item() for one in (own.detach(), *others)],
            )
        )
        return own.sum() * 0

    train_together(
        [models.classifier("linear", seed=seed) for seed in range(3)], models.shard(), note, steps=1
    )
    assert all(own and not any(others) for own, others, _ in seen)
    (_, _, (a, b, c)), second, third = seen
    assert (second[2], third[2]) == ([b, a, c], [c, a, b])


def test_a_cohort_ends_when_all_of_it_would_and_each_keeps_its_own_best():
    # validation losses of member 0: 1 2 3 4, of member 1: 4 1 2 3, patience 2: 0 would end after
    # three epochs, 1 after four
    values = [1.0, 4.0, 2.0, 1.0, 3.0, 2.0, 4.0, 3.0]
    nets, one, two = ([models.classifier("linear", seed=seed) for seed in (0, 1)] for _ in range(3))
    usual, left = make_loss("cross_entropy", scale=1.0), iter(values)
    loss = lambda s, y: (  # noqa: E731
        torch.tensor(next(left)) if len(y) == 24 and not s.requires_grad else usual(s, y)
    )
    fitted = train_together(nets, models.shard(), no_peers, loss=loss, epochs=50, early_stopping=2)
    assert [result.seen for result in fitted] == [4 * 48, 4 * 48]
    train_together(one, models.shard(), no_peers, epochs=1)
    train_together(two, models.shard(), no_peers, epochs=2)
    assert same(nets[0], one[0])
    assert same(nets[1], two[1])


def test_the_schedule_in_the_memory_is_that_of_the_first():
    settings = {"lr_plateau": {"patience": 0, "factor": 0.1}, "epochs": 1}
    first, second = train_together(
        [models.classifier("linear") for _ in range(2)],
        models.shard(),
        no_peers,
        memory={"plateau": _plateau(), "rates": [0.005]},
        **settings,
    )
    assert first.memory["rates"] == [0.005]
    assert second.memory["rates"] == [0.02]


def _plateau():
    return train(
        models.classifier(), models.shard(validation=0), lr_plateau={"patience": 0, "factor": 0.1}
    ).memory["plateau"]


def test_a_cohort_without_images_or_with_a_loss_that_is_not_finite():
    nets = [models.classifier("linear", seed=seed) for seed in (0, 1)]
    with pytest.raises(RunError, match="no training images"):
        train_together(nets, models.shard(train=0), no_peers)
    with pytest.raises(RunError, match="training: loss, extra_loss; lower"):
        train_together(nets, models.shard(), lambda own, others, labels: own.sum() * math.nan)
    fitted = train_together(
        [models.resnet("linear", seed=seed) for seed in (0, 1)],
        models.shard(train=1, size=32),
        no_peers,
        epochs=2,
    )
    assert [one.seen for one in fitted] == [2, 2]  # BatchNorm frozen in both


def test_only_the_steps_on_features_use_a_fused_optimizer(monkeypatch):
    asked, make = [], optimizers.make_optimizer

    def spy(settings, parameters, *, fused=False):
        asked.append(fused)
        return make(settings, parameters, fused=fused)

    monkeypatch.setattr(optimizers, "make_optimizer", spy)
    net, data = models.classifier(), models.shard()
    train(net, data, steps=1)
    assert True not in asked
    views = [Samples(torch.rand(len(part), 3, 8), part.labels) for part in (data.train, data.test)]
    before = read(net.last, Layout.of(net.last)).parameters
    train(net, Shard(views[0], views[1], views[1]), steps=3)
    assert asked[-1]
    assert asked.count(True) == 1
    assert not torch.equal(before, read(net.last, Layout.of(net.last)).parameters)
