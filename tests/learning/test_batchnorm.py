from dataclasses import replace

import pytest
import torch
from torch import nn

from fedrobust.learning import batchnorm
from fedrobust.state import Layout, load, read
from fedrobust.utils.seeding import generator
from tests.helpers import models


def norm_only(momentum=0.1):
    model = nn.Sequential(nn.Identity(), nn.BatchNorm2d(3, momentum=momentum), nn.Dropout(0.5))
    model[1].running_mean.fill_(7.0)
    model[1].num_batches_tracked.fill_(5)
    return model


def images(count, size=4, seed=0):
    return torch.rand(count, 3, size, size, generator=generator(seed, "images"))


def test_statistics_by_hand():
    # two images of constant 0 and 1, size 1x1: mean 1/2, unbiased variance ((1/2)^2 + (1/2)^2)/(2 -
    # 1) = 1/2
    model = norm_only()
    batchnorm.recalibrate(model, torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    assert model[1].running_mean.tolist() == [0.5] * 3
    assert model[1].running_var.tolist() == [0.5] * 3


def test_the_statistics_are_those_that_the_model_shows_afterwards():
    """Every layer's mean and unbiased variance over all that reaches it in eval mode."""
    model, x = models.resnet(), images(9, 32)
    batchnorm.recalibrate(model, x)
    seen = {}
    for layer in batchnorm.layers(model):
        layer.register_forward_pre_hook(lambda layer, inputs: seen.update({layer: inputs[0]}))
    with torch.no_grad():
        model.eval()(x)
    assert len(seen) == len(batchnorm.layers(model))
    for layer, inputs in seen.items():
        torch.testing.assert_close(layer.running_mean, inputs.mean((0, 2, 3)))
        torch.testing.assert_close(layer.running_var, inputs.var((0, 2, 3)))


def test_the_pass_answers_as_the_model_does_afterwards():
    model, x = models.resnet(), images(9, 32)
    rows, answers = batchnorm.recalibrate(model.train(), x)
    assert rows.tolist() == list(range(9))
    with torch.no_grad():
        assert torch.equal(answers, model.eval()(x))


@pytest.mark.parametrize(
    ("most", "pixels", "rows"),
    [(8, 1 << 23, range(7)), (4, 1 << 23, [0, 2, 4, 6]), (8, 3 * 16, [0, 3, 6]), (8, 1, [0, 4])],
)
def test_of_many_images_evenly_spaced_ones_are_taken(monkeypatch, most, pixels, rows):
    monkeypatch.setattr(batchnorm, "MOST_IMAGES", most)
    monkeypatch.setattr(batchnorm, "MOST_PIXELS", pixels)
    model, few, x = norm_only(), norm_only(), images(7)
    assert batchnorm.recalibrate(model, x)[0].tolist() == list(rows)
    batchnorm.recalibrate(few, x[list(rows)])
    assert torch.equal(model[1].running_var, few[1].running_var)


def test_a_compiled_model_is_recalibrated_as_any_other():
    x = images(5)
    plain, compiled = models.classifier(), models.classifier()
    compiled.compile(backend="eager")
    with torch.no_grad():
        compiled.eval()(x)
    batchnorm.recalibrate(plain, x)
    batchnorm.recalibrate(compiled, x)
    assert all(
        torch.equal(a.running_var, b.running_var)
        for a, b in zip(batchnorm.layers(plain), batchnorm.layers(compiled), strict=True)
    )


def test_nothing_but_the_running_statistics_changes():
    model = models.resnet()
    model.train()
    model.backbone.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    batchnorm.recalibrate(model, images(5, 32))
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    expected = {name for name in before if name.endswith(("running_mean", "running_var"))}
    assert changed == expected
    assert modes == [m.training for m in model.modules()]
    assert {layer.momentum for layer in batchnorm.layers(model)} == {0.1}
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_the_result_depends_on_the_images_alone():
    one, two = models.resnet().eval(), models.resnet().train()
    for layer in batchnorm.layers(two):
        layer.running_var.fill_(float("nan"))
    batchnorm.recalibrate(one, (255 * images(9, 32)).to(torch.uint8))
    batchnorm.recalibrate(two, (255 * images(9, 32)).to(torch.uint8).div(255))
    assert all(
        torch.equal(a.running_var, b.running_var)
        for a, b in zip(batchnorm.layers(one), batchnorm.layers(two), strict=True)
    )


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_change_nothing(count):
    model = norm_only()
    rows, answers = batchnorm.recalibrate(model, images(count))
    assert model[1].running_mean.tolist() == [7.0] * 3
    assert len(rows) == len(answers) == 0


def test_without_batchnorm_nothing_runs():
    model = nn.Linear(2, 2)  # would not even accept images
    batchnorm.recalibrate(model, images(4))
    assert batchnorm.layers(model) == []


def test_a_failing_pass_restores_the_modes():
    model = norm_only().train()
    with pytest.raises(ValueError, match="4D"):
        batchnorm.recalibrate(model, torch.rand(4, 3))
    assert [m.training for m in model.modules()] == [True] * 4
    assert model[1].momentum == 0.1
    assert model[1].num_batches_tracked == 5


def test_frozen_keeps_statistics_while_the_rest_trains():
    model = models.classifier(dropout=0.5).train()
    with batchnorm.freeze_statistics(model):
        assert model.backbone.drop.training
        before = model.backbone.norm.running_mean.clone()
        model(images(4)).sum().backward()
        assert torch.equal(before, model.backbone.norm.running_mean)
        assert model.backbone.norm.weight.grad is not None
    assert model.backbone.norm.training
    model(images(4))
    assert not torch.equal(before, model.backbone.norm.running_mean)


def test_a_loaded_state_is_recalibrated_where_there_are_images() -> None:
    net, images = models.classifier(), models.samples(8).images
    layout = Layout.of(net)
    stale = replace(read(net, layout), buffers=torch.full((layout.num_buffers,), 3.0))
    assert batchnorm.load_and_recalibrate(net, layout, stale, None) is stale
    assert torch.equal(read(net, layout).buffers, stale.buffers)
    found = batchnorm.load_and_recalibrate(net, layout, stale, images)
    load(net, layout, stale)
    batchnorm.recalibrate(net, images)
    assert torch.equal(found.buffers, read(net, layout).buffers)
    assert not torch.equal(found.buffers, stale.buffers)
    assert found.parameters is stale.parameters
