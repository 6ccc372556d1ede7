"""The laws of `fedrobust.testing` for every purifier, and further ones. A new yaml in
configs/purifier is tested by its mere existence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from fedrobust import configs
from fedrobust.defences.purification import base
from fedrobust.errors import ConfigError
from fedrobust.experiment import factories
from fedrobust.testing import PURIFIER_LAWS
from fedrobust.testing.purifiers import example_pictures, purified
from fedrobust.types import NO_PURIFIER, Purifier
from fedrobust.utils.seeding import generator

FOLDER = Path(configs.__file__).parent / "purifier"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
ACTIVE = [name for name in NAMES if name != "none"]
every = pytest.mark.parametrize("name", NAMES)
active = pytest.mark.parametrize("name", ACTIVE)


def build(name: str, **overrides: Any) -> Purifier:
    shown = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert isinstance(shown, dict)
    made = factories.build_group({"purifier": {**shown, **overrides}}, "purifier")
    assert isinstance(made, Purifier)
    return made


def test_the_six_are_there() -> None:
    assert {"none", "mdda", "jpeg", "median_filter", "tv", "gaussian"} <= set(NAMES)
    assert build("none") is NO_PURIFIER


@every
def test_it_has_the_name_of_its_file(name: str) -> None:
    assert build(name).name == name


@pytest.mark.parametrize("law", PURIFIER_LAWS)
@every
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31))
def test_every_purifier_keeps_the_laws(name: str, law: str, seed: int) -> None:
    PURIFIER_LAWS[law](build(name), seed)


@every
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_sizes(name: str, channels: int) -> None:
    assert purified(build(name), example_pictures(1, channels, 29, 31)).shape == (
        1,
        channels,
        29,
        31,
    )


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_floats_keep_their_type(name: str, dtype: torch.dtype) -> None:
    images = example_pictures().to(dtype)
    after = purified(build(name), images)
    assert after.dtype == dtype
    assert torch.allclose(
        after.double(),
        purified(build(name), example_pictures()).double(),
        atol=2e-3 if name != "jpeg" else 0.1,
    )


@every
def test_only_mdda_draws_random_numbers(name: str) -> None:
    images = example_pictures()
    assert torch.equal(purified(build(name), images, 1), purified(build(name), images)) == (
        name != "mdda"
    )


@every
def test_how_many_images_are_worked_on_at_once_changes_no_image(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, purifier = example_pictures(7), build(name)
    whole = purified(purifier, images)
    monkeypatch.setattr(base, "VALUES", 3 * 13 * 16 * 2)  # two images at once
    assert torch.allclose(purified(purifier, images), whole, atol=1e-6)


@active
@pytest.mark.parametrize("shape", [(3, 3, 28, 28), (2, 1, 13, 16), (1, 3, 5, 2)])
def test_without_compiled_loops_it_does_the_same(
    name: str, shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, purifier = example_pictures(*shape), build(name)
    compiled = purified(purifier, images)
    monkeypatch.setattr(base, "COMPILED", False)
    by_tensors = purified(purifier, images)
    assert torch.allclose(by_tensors, compiled, atol=1e-6, rtol=0)
    assert torch.equal(purified(purifier, images), by_tensors)
    random = generator(0, "purifier")
    alone = torch.cat([purifier.purify(one, random) for one in images.split(1)])
    assert torch.allclose(alone, by_tensors, atol=1e-6)


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None  # as if it were not installed
import torch
from fedrobust.defences.purification.mdda import mdda
images = torch.rand(2, 3, 16, 16)
after = mdda(std=0.01, blocks=1, weight=0.05).purify(images, torch.Generator())
assert after.shape == images.shape and after.isfinite().all() and not after.equal(images)
"""


@pytest.mark.slow
def test_nothing_needs_numba() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@active
def test_what_is_even_stays(name: str) -> None:
    # 128 / 255 is the one grey that JPEG codes without any loss
    even = torch.full((2, 3, 9, 12), 128 / 255)
    after = purified(build(name, **({"std": 0.0} if name == "mdda" else {})), even)
    assert torch.allclose(after, even, atol=1e-6)


@active
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.01, 1.01])
def test_values_that_are_no_pixels_are_refused(name: str, wrong: float) -> None:
    images = example_pictures()
    images[3, 1, 4, 5] = wrong
    with pytest.raises(ValueError, match=rf"purifier={name}: images must be numbers in \[0, 1\]"):
        purified(build(name), images)


@active
@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)],
    ids=["bytes", "one image"],
)
def test_other_tensors_are_refused(name: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"purifier={name}: images must be floating-point"):
        purified(build(name), images)


@active
def test_it_says_whether_gradients_flow(name: str) -> None:
    images = example_pictures().requires_grad_()
    purifier = build(name)
    after = purified(purifier, images)
    assert after.requires_grad == purifier.differentiable == (name != "jpeg")
    if purifier.differentiable:
        (slope,) = torch.autograd.grad(after.square().sum(), images)
        assert slope.isfinite().all()
        assert slope.any()


@active
def test_gradients_at_even_images_are_numbers(name: str) -> None:
    purifier = build(name)
    if purifier.differentiable:
        even = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
        (slope,) = torch.autograd.grad(purified(purifier, even).sum(), even)
        assert slope.isfinite().all()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *(
            ("mdda", "std", -0.1),
            ("mdda", "blocks", 1.5),
            ("mdda", "blocks", -1),
            ("mdda", "weight", 0),
            ("mdda", "iterations", 0),
        ),
        *(("mdda", "smoothing", -0.1), ("mdda", "smoothing", 1.1)),
        *(
            ("tv", "weight", -1),
            ("tv", "iterations", 0),
            ("gaussian", "std", 0),
            ("median_filter", "size", 4),
        ),
        *(("median_filter", "size", 0), ("jpeg", "quality", 0), ("jpeg", "quality", 101)),
    ],
)
def test_wrong_settings(name: str, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^purifier\.{key}={value}: must be"):
        build(name, **{key: value})
