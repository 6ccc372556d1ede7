import math
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from fedrobust.errors import ConfigError
from fedrobust.learning import hub
from fedrobust.learning.classifier import timm_model
from fedrobust.learning.etf import simplex_etf
from fedrobust.learning.model_files import save_state
from fedrobust.state import Layout, State, load, read
from fedrobust.utils.seeding import generator
from tests.helpers import models

ANCHORS = simplex_etf(6, 3, generator(0, "etf"))


def images(count=4, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=generator(seed, "images"))


def test_etf_head_scores_are_inner_products_of_unit_features():
    model = models.resnet().eval()
    features, scores = model.features(images()), model(images())
    assert features.shape == (4, 6)
    assert torch.allclose(features.norm(dim=1), torch.ones(4), atol=1e-6)
    assert torch.allclose(scores, features @ ANCHORS, atol=1e-6)
    assert scores.abs().max() <= 1 + 1e-6
    assert (model.head, model.num_classes, model.scale) == ("etf", 3, 16.0)


def test_linear_head():
    model = models.resnet("linear").eval()
    assert model.anchors is None
    assert (model.head, model.scale) == ("linear", 1.0)
    assert torch.allclose(
        model(images()), model.last(model.backbone((images() - model.mean) / model.std)), atol=1e-5
    )
    assert model.features(images()).shape == (4, model.last.in_features)


def test_probabilities_by_hand():
    # scale 16, scores (0, log(3)/16, 0): softmax of (0, log 3, 0) = 1/5, 3/5, 1/5
    model = models.classifier()
    assert model.probabilities(torch.tensor([[0.0, math.log(3) / 16, 0.0]])).tolist()[
        0
    ] == pytest.approx([0.2, 0.6, 0.2])


def test_the_anchors_are_neither_parameter_nor_state():
    model = models.resnet()
    assert not any(
        "anchors" in name for name in [*model.state_dict(), *dict(model.named_parameters())]
    )
    layout = Layout.of(model)
    names = [name for name, _ in (*layout.parameters, *layout.buffers)]
    assert not any(word in name for name in names for word in ("anchors", "mean.", "std"))
    assert "last.weight" in names
    assert not model.anchors.requires_grad
    given = ANCHORS.clone()
    built = timm_model("resnet18", dimension=6, options=models.NARROW).build(
        3, given, generator(0, "init")
    )
    given.zero_()  # the model keeps its own copy
    assert torch.equal(built.anchors, ANCHORS)


def test_a_zero_feature_is_no_nan():
    model = models.resnet().eval()
    with torch.no_grad():
        model.last.weight.zero_()
    scores = model(images())
    assert torch.equal(scores, torch.zeros(4, 3))
    scores.sum().backward()
    assert model.last.weight.grad.isfinite().all()


def test_scores_are_float32_under_autocast():
    model = models.resnet().eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images()).dtype == torch.float32
        assert model.features(images()).norm(dim=1).sub(1).abs().max() < 1e-6


def test_normalisation_is_inside():
    # timm's resnet18: ImageNet's mean .485 .456 .406 and standard deviation .229 .224 .225
    model = models.resnet()
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert model.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert models.classifier().mean.flatten().tolist() == [0.5] * 3
    assert models.classifier().std.flatten().tolist() == [0.25] * 3


def test_initialisation_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    one = models.resnet(seed=1).state_dict()
    torch.rand(3)
    two = models.resnet(seed=1).state_dict()
    other = models.resnet(seed=2).state_dict()
    torch.set_rng_state(before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["backbone.conv1.weight"], other["backbone.conv1.weight"])
    models.resnet(stem="small")
    assert torch.equal(before, torch.get_rng_state())


def test_batchnorm_momentum_reaches_every_layer():
    found = [
        m.momentum
        for m in models.resnet(bn_momentum=0.5).modules()
        if isinstance(m, torch.nn.BatchNorm2d)
    ]
    assert set(found) == {0.5}
    assert len(found) > 5


def test_small_stem_sees_four_times_the_pixels():
    # 32 px: 7x7 of stride 2 -> 16, pool -> 8; 3x3 of stride 1 -> 32, pool -> 16
    sizes = {}
    for stem in ("standard", "small"):
        model = models.resnet(stem=stem).eval()
        model.backbone.maxpool.register_forward_hook(
            lambda module, args, out, stem=stem: sizes.update({stem: out.shape[-1]})
        )
        model(images())
    assert sizes == {"standard": 8, "small": 16}


def test_a_backbone_whose_head_has_a_hidden_layer():
    factory = timm_model("mobilenetv3_small_050", dimension=6)
    assert factory.build(3, ANCHORS, generator(0, "init")).eval()(images(2)).shape == (2, 3)


@pytest.mark.parametrize("size", [28, 33])
def test_other_sizes(size):
    assert models.resnet(stem="small").eval()(images(2, size)).shape == (2, 3)


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"name": "resnet51"}, r"model\.name=resnet51: .*resnet50"),
        ({"name": None}, r"model\.name=None"),
        ({"head": "mlp"}, r"model\.head=mlp"),
        ({"dimension": 0}, r"model\.dimension=0"),
        ({"dimension": "512"}, r"model\.dimension=512: must be a whole number"),
        ({"scale": 0}, r"model\.scale=0"),
        ({"bn_momentum": 1.5}, r"model\.bn_momentum=1\.5"),
        ({"stem": "auto"}, r"model\.stem=auto"),
        ({"pretrained": "yes"}, r"model\.pretrained=yes"),
        ({"checkpoint": 3}, r"model\.checkpoint=3"),
        ({"checkpoint": "a", "pretrained": True}, r"model\.checkpoint=a: excludes"),
        ({"options": [1]}, r"model\.options=\[1\]"),
        ({"options": {"widths": 3}}, r"model\.options=.*widths"),
        ({"name": "mobilenetv3_small_050", "stem": "small"}, r"model\.stem=small: is for ResNets"),
    ],
)
def test_wrong_settings_are_refused_at_once_in_one_line(keywords, match):
    with pytest.raises(ConfigError, match=match) as caught:
        timm_model(**keywords)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_had_end_in_one_line(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(hub, "_unreachable", lambda _: "")
    with pytest.raises(
        ConfigError,
        match=r"model\.pretrained=true: no weights for resnet50 \(OSError: no route "
        r"to the hub\); use",
    ) as caught:
        timm_model(pretrained=True).build(
            3, simplex_etf(512, 3, generator(0, "etf")), generator(0, "init")
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "anchors"), [("etf", None), ("etf", ANCHORS[:4]), ("linear", ANCHORS)]
)
def test_anchors_must_fit_the_head(head, anchors):
    with pytest.raises(ValueError, match="anchors"):
        timm_model("resnet18", head=head, dimension=6, options=models.NARROW).build(
            3, anchors, generator(0, "init")
        )


# ---- checkpoints


def test_a_run_s_checkpoint_comes_back(tmp_path):
    model = models.resnet(seed=0)
    layout = Layout.of(model)
    save_state(tmp_path / "model.safetensors", layout, read(model, layout), model.anchors)
    factory = timm_model(
        "resnet18",
        dimension=6,
        options=models.NARROW,
        checkpoint=str(tmp_path / "model.safetensors"),
    )
    loaded = factory.build(3, ANCHORS, generator(9, "init"))
    assert torch.equal(read(loaded, layout).parameters, read(model, layout).parameters)
    with pytest.raises(ConfigError, match="other anchors"):
        factory.build(3, simplex_etf(6, 3, generator(1, "etf")), generator(9, "init"))


def test_a_checkpoint_of_another_dimension(tmp_path):
    model = models.resnet()
    layout = Layout.of(model)
    save_state(tmp_path / "bare.safetensors", layout, read(model, layout))
    factory = timm_model(
        "resnet18",
        dimension=8,
        options=models.NARROW,
        checkpoint=str(tmp_path / "bare.safetensors"),
    )
    with pytest.raises(ConfigError, match=r"last\.weight has shape \(6, 16\) instead of \(8, 16\)"):
        factory.build(3, simplex_etf(8, 3, generator(1, "etf")), generator(9, "init"))


def test_a_timm_backbone_without_its_own_classifier(tmp_path):
    source = timm.create_model(
        "resnet18", num_classes=11, layers=(1, 1, 1, 1), channels=(8, 8, 16, 16)
    )
    save_file(
        {name: tensor.contiguous() for name, tensor in source.state_dict().items()},
        tmp_path / "timm.safetensors",
    )
    factory = timm_model(
        "resnet18",
        dimension=6,
        options=models.NARROW,
        checkpoint=str(tmp_path / "timm.safetensors"),
    )
    model = factory.build(3, ANCHORS, generator(0, "init"))
    assert torch.equal(model.backbone.conv1.weight, source.conv1.weight)
    # the projection is fresh
    assert torch.equal(model.last.weight, models.resnet(seed=0).last.weight)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({}, "lacks bn1.bias and"),
        ({"conv1.weight": torch.zeros(1)}, "conv1.weight has shape"),
        ({"conv9.weight": torch.zeros(1)}, "holds an unknown conv9.weight"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, tensors, match):
    source = models.resnet().backbone.state_dict() if tensors else {"bn1.weight": torch.zeros(64)}
    save_file(
        {name: tensor.contiguous() for name, tensor in {**source, **tensors}.items()},
        tmp_path / "bad.safetensors",
    )
    with pytest.raises(ConfigError, match=match):
        models.resnet(checkpoint=str(tmp_path / "bad.safetensors"))


def test_unreadable_checkpoints(tmp_path):
    with pytest.raises(
        ConfigError, match=r"model\.checkpoint=.*missing.* not a readable safetensors file"
    ):
        models.resnet(checkpoint=str(tmp_path / "missing.safetensors"))
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ConfigError, match="not a readable safetensors file"):
        models.resnet(checkpoint=str(tmp_path / "text.safetensors"))


# the compiler's own
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
@pytest.mark.slow
def test_a_compiled_model_is_the_same_model_under_another_engine():
    """With the compiler's front half only (aot_eager): what it traces is what the model does,
    before and after a state is swapped in."""
    factory = timm_model("resnet18", dimension=6, options=models.NARROW)
    plain, compiled = (
        replace(factory, compile=compile).build(3, ANCHORS, generator(1, "init"))
        for compile in (None, "aot_eager")
    )
    layout = Layout.of(plain)
    assert Layout.of(compiled) == layout
    for seed in (0, 1):
        scores = [model(images(seed=seed)) for model in (plain, compiled)]
        assert torch.allclose(*scores, atol=1e-5)
        for model, one in zip((plain, compiled), scores, strict=True):
            model.zero_grad()
            one.square().sum().backward()
        assert torch.allclose(plain.last.weight.grad, compiled.last.weight.grad, atol=1e-5)
        state = read(plain, layout)
        for model in (plain, compiled):
            load(model, layout, State(1.1 * state.parameters, state.buffers))


def test_an_unknown_compiler_is_refused():
    with pytest.raises(ConfigError, match=r"model\.compile=fast: must be .*inductor"):
        timm_model(compile="fast")
