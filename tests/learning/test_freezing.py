import copy
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from fedrobust.errors import ConfigError
from fedrobust.learning import batchnorm
from fedrobust.learning.classifier import meff, timm_model
from fedrobust.learning.freezing import list_stages
from fedrobust.learning.inference import eval_mode
from fedrobust.learning.model_files import save_state
from fedrobust.state import Layout, frozen_tensors, load, read
from fedrobust.utils.seeding import generator
from tests.helpers import models

IMAGES = torch.rand(6, 3, 32, 32, generator=generator(0, "images"))


def build(freeze, seed=0, head="linear", **settings):
    factory = timm_model("resnet18", head=head, options=models.NARROW, freeze=freeze, **settings)
    return factory.build(3, None, generator(seed, "init"))


def step(model):
    """One step of training on all images, in training mode."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(IMAGES).square().sum().backward()
    optimizer.step()


def changed(model, before):
    return {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}


def names(layout):
    return {name for name, _ in (*layout.parameters, *layout.buffers)}


@pytest.mark.parametrize("freeze", ["none", "backbone", "batchnorm", 1, 3])
def test_only_what_is_in_the_layout_trains(freeze):
    model = build(freeze)
    for layer in (one for one in model.modules() if isinstance(one, nn.BatchNorm2d)):
        nn.init.ones_(layer.weight)  # timm starts some at zero: nothing below them would move
    layout, before = Layout.of(model), copy.deepcopy(model.state_dict())
    step(model)
    moved = {name for name in changed(model, before) if not name.endswith("num_batches_tracked")}
    assert moved == names(layout)
    assert names(layout) | frozen_tensors(model).keys() == {
        name for name in before if not name.endswith("num_batches_tracked")
    }
    assert not names(layout) & frozen_tensors(model).keys()


def test_what_each_setting_leaves_to_train():
    assert names(Layout.of(build("backbone"))) == {"last.weight", "last.bias"}
    whole, without = names(Layout.of(build("none"))), names(Layout.of(build("batchnorm")))
    assert all("bn" in name or "downsample.1" in name for name in whole - without)
    assert not any("running" in name for name in without)
    last = {name for name in whole if name.startswith(("backbone.layer4", "last."))}
    assert names(Layout.of(build(1))) == last
    two = {name for name in whole if name.startswith("backbone.layer3")}
    assert names(Layout.of(build(2))) == last | two
    with pytest.raises(ConfigError, match=r"model\.freeze=5: the backbone has 5 stages; let fewer"):
        build(5)


@pytest.mark.parametrize("freeze", [0, -1, "head", True, 1.5, None])
def test_other_values_are_refused(freeze):
    with pytest.raises(ConfigError, match=r"model\.freeze=.*: must be none, backbone, batchnorm"):
        timm_model("resnet18", freeze=freeze)


def test_a_norm_alone_at_the_end_is_no_stage():
    with torch.device("meta"):
        convnext = timm.create_model("convnext_atto", num_classes=0)
    stages = list_stages(convnext)
    assert len(stages) == 5
    assert stages[-1][-1] == "head.norm.bias"


def test_single_parameters_are_frozen_where_their_module_trains():
    factory = timm_model(
        "vit_tiny_patch16_224",
        head="linear",
        freeze=1,
        options={"img_size": 32, "depth": 2, "embed_dim": 12, "num_heads": 2},
    )
    model = factory.build(3, None, generator(0, "init"))
    assert "backbone.cls_token" in frozen_tensors(model)
    assert names(Layout.of(model)) >= {"backbone.norm.weight", "backbone.blocks.1.norm1.weight"}
    assert not any("blocks.0." in name for name in names(Layout.of(model)))


def transformer(freeze="adapters", **settings):
    options = {"img_size": 32, "depth": 2, "embed_dim": 12, "num_heads": 2}
    factory = timm_model(
        "vit_tiny_patch16_224", head="linear", freeze=freeze, options=options, **settings
    )
    return factory.build(3, None, generator(0, "init"))


def test_adapters_train_beside_a_frozen_transformer():
    model, plain = transformer(adapter_rank=2), transformer("none")
    assert torch.equal(model.eval().pool(IMAGES), plain.eval().pool(IMAGES))
    adapters = {
        f"backbone.blocks.{block}.attn.qkv.{name}": shape
        for block in range(2)
        for name, shape in (("adapter_down", (2, 12)), ("adapter_up", (36, 2)))
    }
    layout = Layout.of(model)
    assert {n: tuple(s) for n, s in layout.parameters if "last" not in n} == adapters
    assert frozen_tensors(model).keys() == {
        name for name in plain.state_dict() if not name.startswith("last")
    }
    before = copy.deepcopy(model.state_dict())
    step(model)
    step(model)
    assert changed(model, before) == names(layout)
    qkv = model.backbone.blocks[0].attn.qkv
    x = torch.rand(5, 12, generator=generator(0, "inputs"))
    by_hand = x @ (qkv.weight + qkv.adapter_up @ qkv.adapter_down).T + qkv.bias
    assert torch.allclose(qkv(x), by_hand, atol=1e-5)


def test_adapters_start_beside_the_weights_of_a_file(tmp_path):
    plain = transformer("none")
    path = tmp_path / "vit.safetensors"
    tensors = plain.backbone.state_dict()
    save_file({name: one.contiguous() for name, one in tensors.items()}, path)
    model = transformer(checkpoint=str(path))
    assert torch.equal(model.eval().pool(IMAGES), plain.eval().pool(IMAGES))
    layout = Layout.of(model)
    save_state(path, layout, read(model, layout), frozen=frozen_tensors(model))
    again = transformer(checkpoint=str(path))
    assert torch.equal(again.last.weight, model.last.weight)


def test_other_networks_take_no_adapters():
    with pytest.raises(ConfigError, match=r"model\.freeze=adapters: is for timm's vision trans"):
        build("adapters")


def test_frozen_parts_stay_in_eval_mode_and_recalibration_leaves_them_alone():
    model = build("backbone")
    model.train()
    assert not any(module.training for module in model.backbone.modules())
    assert model.last.training
    with eval_mode(model):
        assert not model.training
    assert model.training
    assert not model.backbone.training
    before = copy.deepcopy(model.state_dict())
    batchnorm.recalibrate(model, IMAGES)
    assert not changed(model, before)
    part = build(1)
    before = copy.deepcopy(part.state_dict())
    batchnorm.recalibrate(part, IMAGES)
    assert changed(part, before)
    assert all("layer4" in name and "running" in name for name in changed(part, before))
    assert not copy.deepcopy(model).train().backbone.training


def test_a_frozen_backbone_has_gradients_for_images_that_want_them_only():
    model = build("backbone")
    assert not model.pool(IMAGES).requires_grad
    assert model(IMAGES).requires_grad
    images = IMAGES.clone().requires_grad_(True)
    model(images).sum().backward()
    assert images.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@pytest.mark.parametrize("head", ["etf", "linear"])
def test_pooled_features_in_place_of_images_give_the_same(head):
    factory = timm_model(
        "resnet18", head=head, dimension=6, options=models.NARROW, freeze="backbone", hidden=[8, 5]
    )
    model = factory.build(
        3, None if head == "linear" else torch.eye(6)[:, :3], generator(0, "init")
    ).eval()
    pooled = model.pool(IMAGES)
    assert torch.equal(model(pooled), model(IMAGES))
    assert torch.equal(model.features(pooled), model.features(IMAGES))
    assert (
        model.frozen_digest()
        == replace(factory, hidden=()).build(3, model.anchors, generator(0, "init")).frozen_digest()
    )


def test_hidden_layers_by_hand():
    model = build("none", hidden=[2, 4])
    linear = [module for module in model.hidden if isinstance(module, nn.Linear)]
    assert [tuple(one.weight.shape) for one in linear] == [(2, 16), (4, 2)]
    assert model.last.in_features == 4
    model.eval()
    pooled = torch.rand(3, 16)
    first = (pooled @ linear[0].weight.T + linear[0].bias).clamp(min=0)
    second = (first @ linear[1].weight.T + linear[1].bias).clamp(min=0)
    assert torch.allclose(model.features(pooled), second)
    assert torch.allclose(model(pooled), second @ model.last.weight.T + model.last.bias)
    for wrong in ([0], [8] * 9, 8, ["8"]):
        with pytest.raises(ConfigError, match=r"model\.hidden=.*: must be a list of at most 8"):
            timm_model("resnet18", hidden=wrong)


def test_the_digest_tells_frozen_parts_apart():
    one, same, other = build("backbone"), build("backbone"), build("backbone", seed=1)
    assert one.frozen_digest() == same.frozen_digest() != other.frozen_digest()
    assert build("none").frozen_digest() == ""
    step(same)
    assert one.frozen_digest() == same.frozen_digest()
    with torch.no_grad():
        same.backbone.bn1.running_mean[0] += 1e-6
    assert one.frozen_digest() != same.frozen_digest()
    layout = Layout.of(one)
    load(one, layout, read(other, layout))
    assert torch.equal(one.last.weight, other.last.weight)
    assert one.frozen_digest() != other.frozen_digest()


def test_the_backbones_of_an_ensemble_are_frozen():
    factory = meff(freeze="backbone", head="linear")
    model = factory.build(3, None, generator(0, "init"))
    assert factory.frozen_backbone
    assert names(Layout.of(model)) == {"last.weight", "last.bias"}
    stage = meff(freeze=1, head="linear").build(3, None, generator(0, "init"))
    assert any("members.2.backbone.layer4" in name for name in names(Layout.of(stage)))
    assert not any("layer3" in name for name in names(Layout.of(stage)))
