"""Feature fusion by hand, the model option, and ensembles of finished models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedrobust.errors import ConfigError
from fedrobust.learning import training
from fedrobust.learning.classifier import meff
from fedrobust.learning.ensemble import from_states, fuse
from fedrobust.learning.etf import simplex_etf
from fedrobust.learning.fusion import Fusion
from fedrobust.learning.losses import dot_regression
from fedrobust.learning.model_files import save_state
from fedrobust.learning.settings import TrainingSettings
from fedrobust.state import Layout, State, read
from fedrobust.utils.seeding import generator
from tests.helpers import models

TWO = [
    {"name": "resnet18", "options": models.NARROW},
    {"name": "resnet18", "options": {**models.NARROW, "channels": [8, 8, 16, 32]}},
]


class Says(nn.Module):
    """Features that do not depend on the image."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = torch.tensor([values])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.values.expand(len(images), -1)


def unit(images: torch.Tensor) -> torch.Tensor:
    return images.to(torch.float32) / 255


def test_fusion_by_hand() -> None:
    # (3, 4) -> (.6, .8); (0, 2) -> (0, 1); (0, 0) stays; mean of the first two (.3, .9)
    image = torch.zeros(1, 3, 4, 4)
    side = Fusion([Says(3, 4), Says(0, 2), Says(0, 0)], [2, 2, 2], "concatenate")
    assert side(image).tolist() == [pytest.approx([0.6, 0.8, 0, 1, 0, 0])]
    assert side.head_hidden_size == 6
    mean = Fusion([Says(3, 4), Says(0, 2)], [2, 2], "mean")
    assert mean(image).tolist() == [pytest.approx([0.3, 0.9])]
    assert mean.head_hidden_size == 2
    with pytest.raises(ValueError, match="features of 2, 3 values have no mean"):
        Fusion([Says(3, 4), Says(0, 2, 1)], [2, 3], "mean")


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(0.1, 9)), min_size=1, max_size=5
    ),
    st.floats(0.1, 50),
)
def test_no_member_outshouts_the_others(
    values: list[tuple[float, float, float]], factor: float
) -> None:
    image = torch.zeros(1, 3, 4, 4)
    for fusion in ("concatenate", "mean"):
        plain = Fusion([Says(*one) for one in values], [3] * len(values), fusion)(image)
        loud = Fusion(
            [Says(*(factor * x for x in values[0])), *(Says(*one) for one in values[1:])],
            [3] * len(values),
            fusion,
        )(image)
        assert torch.allclose(plain, loud, atol=1e-5)
        assert float(plain.norm()) <= len(values) ** 0.5 + 1e-5


def built(seed: int = 0, **changes):
    factory = meff(TWO, **{"dimension": 6, **changes})
    anchors = simplex_etf(6, 3, generator(0, "etf")) if factory.head == "etf" else None
    return factory.build(3, anchors, generator(seed, "init"))


@pytest.mark.parametrize("head", ["etf", "linear"])
def test_the_model_option_is_a_classifier_of_which_every_member_learns(head: str) -> None:
    model = built(head=head)
    assert (model.head, model.last.in_features) == (head, 16 + 32)
    before = read(model, Layout.of(model))
    assert torch.equal(before.parameters, read(built(head=head), Layout.of(model)).parameters)
    assert not torch.equal(
        before.parameters, read(built(1, head=head), Layout.of(model)).parameters
    )
    scores = model(unit(models.samples(4).images))
    assert scores.shape == (4, 3)
    nn.functional.cross_entropy(model.scale * scores, torch.tensor([0, 1, 2, 0])).backward()
    for member in model.backbone.members:
        assert float(member.backbone.conv1.weight.grad.abs().sum()) > 0


def test_members_see_images_in_their_own_normalisation() -> None:
    model = built()
    member = model.backbone.members[0]
    images = unit(models.samples(4).images)
    model.eval()
    normal = (images - member.mean) / member.std
    assert float((normal - images).abs().max()) > 0.1
    expected = nn.functional.normalize(member.backbone(normal), dim=1)
    assert torch.allclose(
        model.backbone((images - model.mean) / model.std)[:, :16], expected, atol=1e-5
    )


def test_a_member_starts_from_a_finished_model_s_backbone(tmp_path: Path) -> None:
    finished = models.resnet(seed=5)
    layout = Layout.of(finished)
    save_state(tmp_path / "model.safetensors", layout, read(finished, layout), finished.anchors)
    factory = meff(
        [{**TWO[0], "checkpoint": str(tmp_path / "model.safetensors")}, TWO[1]], dimension=6
    )
    model = factory.build(3, simplex_etf(6, 3, generator(0, "etf")), generator(0, "init"))
    theirs = finished.backbone.state_dict()
    assert all(
        torch.equal(value, theirs[name])
        for name, value in model.backbone.members[0].backbone.state_dict().items()
    )
    assert factory.untrained().members[0].checkpoint is None


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"members": []}, r"model\.members=\[\]: must be a list of backbones"),
        ({"members": "resnet18"}, r"model\.members=resnet18: must be a list"),
        (
            {"members": [{"stem": "small"}]},
            r"model\.members\.0=\{'stem': 'small'\}: must have a name",
        ),
        (
            {"members": [*TWO, {"name": "resnet18", "head": "etf"}]},
            r"model\.members\.2=.*: must have a name and may have stem",
        ),
        (
            {"members": [{"name": "resnt18"}]},
            r"model\.members\.0\.name=resnt18: timm has no such model",
        ),
        ({"members": TWO, "fusion": "sum"}, r"model\.fusion=sum: must be one of concatenate, mean"),
        (
            {"members": TWO, "fusion": "mean"},
            (
                r"model\.fusion=mean: features of 16, 32 values have no mean.*; use "
                r"model\.fusion=concatenate"
            ),
        ),
        ({"members": TWO, "dimension": 0}, r"model\.dimension=0"),
        (
            {"members": [{"name": "resnet18", "checkpoint": "/nowhere"}]},
            r"model\.checkpoint=/nowhere",
        ),
    ],
)
def test_wrong_settings_end_in_one_line(given: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as error:
        meff(**given)
    assert "\n" not in str(error.value)


def clients(count: int = 3):
    """Client models as a server has them: one model, several states."""
    model = models.classifier()
    layout, start = Layout.of(model), read(model, Layout.of(model))
    noise = [
        0.1 * torch.randn(layout.num_parameters, generator=generator(one, "noise"))
        for one in range(count)
    ]
    return model, layout, [State(start.parameters + one, start.buffers) for one in noise]


def test_client_models_are_the_states() -> None:
    model, layout, states = clients()
    members = from_states(model, layout, states)
    for member, state in zip(members, states, strict=True):
        assert torch.equal(read(member, layout).parameters, state.parameters)
        assert torch.equal(member.anchors, model.anchors)


@pytest.mark.parametrize("fusion", ["mean", "concatenate"])
def test_under_one_etf_an_untrained_ensemble_is_the_mean_of_unit_features(fusion: str) -> None:
    members = from_states(*clients())
    images = unit(models.samples(6).images)
    mean = torch.stack([member.eval().features(images) for member in members]).mean(0)
    expected = nn.functional.normalize(mean, dim=1) @ members[0].anchors
    assert torch.allclose(fuse(members, fusion).eval()(images), expected, atol=1e-5)


def test_an_ensemble_of_one_is_that_one() -> None:
    (member,) = from_states(*clients(1))
    images = unit(models.samples(6).images)
    expected = member.eval()(images)
    assert torch.allclose(fuse([member])(images), expected, atol=1e-5)


@pytest.mark.parametrize("head", ["etf", "linear"])
def test_training_changes_the_classifier_on_top_and_nothing_else(head: str) -> None:
    members = [models.classifier(head), models.classifier(head, seed=0)]
    fused = fuse(members, "concatenate")
    frozen = [read(one, Layout.of(models.classifier(head))).buffers.clone() for one in members]
    kept = {name: value.clone() for name, value in fused.backbone.state_dict().items()}
    last = fused.last.weight.clone()
    loss = dot_regression if head == "etf" else nn.functional.cross_entropy
    training.fit(
        fused,
        models.shard(),
        loss,
        TrainingSettings(epochs=1, loss="cross_entropy"),
        generator(0, "fit"),
    )
    assert all(
        torch.equal(value, kept[name]) for name, value in fused.backbone.state_dict().items()
    )
    assert all(
        torch.equal(read(one, Layout.of(models.classifier(head))).buffers, two)
        for one, two in zip(members, frozen, strict=True)
    )
    assert not torch.equal(fused.last.weight, last)
    assert {name for name, _ in Layout.of(fused).parameters} == (
        {"last.weight"} if head == "etf" else {"last.weight", "last.bias"}
    )


def test_gradients_reach_the_image_through_frozen_members() -> None:
    images = unit(models.samples(2).images).requires_grad_()
    fuse(from_states(*clients()))(images).square().sum().backward()
    assert float(images.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    "members",
    [
        [],
        [models.classifier(), models.classifier("linear")],
        [models.classifier(), models.classifier(num_classes=4)],
        [models.classifier(seed=0), models.classifier(seed=1)],
    ],
)
def test_members_that_do_not_go_together_are_refused(members) -> None:
    with pytest.raises(ValueError, match="ensemble"):
        fuse(members)
