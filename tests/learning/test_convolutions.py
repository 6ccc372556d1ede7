"""Strided 1x1 convolutions computed another way, and that no small model makes torch corrupt its
memory."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedrobust.errors import exit_reason
from fedrobust.learning.convolutions import BLOCK, avoid_strided_pointwise
from fedrobust.reporting.manifest import processor
from tests.helpers import models

PROGRAM = Path(__file__).with_name("convolution_shapes.py")
INSTRUCTIONS = ("native", "AVX2", "SSE41")
# glibc's checks of the heap, where the system has them
DEBUG_LIBRARY = Path("/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")


def test_every_second_pixel_is_taken_before_the_sum() -> None:
    layer = nn.Conv2d(2, 1, 1, stride=2, bias=False).double()
    layer.weight.data[:] = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1)
    avoid_strided_pointwise(layer)
    images = torch.arange(18.0, dtype=torch.float64).view(1, 2, 3, 3)
    # channel 0 at (0,0) (0,2) (2,0) (2,2): 0 2 6 8; channel 1: 9 11 15 17; 2 a - b: -9 -7 -3 -1
    assert layer(images).flatten().tolist() == [-9, -7, -3, -1]
    assert (layer.stride, list(layer.state_dict())) == ((1, 1), ["weight"])


@given(
    into=st.integers(1, BLOCK - 1),
    out=st.integers(1, 5),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_equal_to_the_convolution_as_it_was(into, out, stride, padding, size) -> None:
    torch.manual_seed(into + 10 * out)
    before = nn.Conv2d(into, out, 1, stride=stride, padding=padding).double()
    after = copy.deepcopy(before)
    avoid_strided_pointwise(after)
    images = torch.randn(2, into, *size, dtype=torch.float64)
    results = []
    for layer in (before, copy.deepcopy(after)):  # a copy keeps to it
        scores = layer(entry := images.clone().requires_grad_())
        results.append(
            (scores, *torch.autograd.grad(scores.square().sum(), (entry, *layer.parameters())))
        )
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(BLOCK, 4, 1, stride=2), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 1)],
    ids=["wide", "three by three", "every pixel"],
)
def test_other_layers_are_left_alone(layer: nn.Conv2d) -> None:
    stride = layer.stride
    avoid_strided_pointwise(layer)
    assert (layer.stride, dict(layer._forward_pre_hooks)) == (stride, {})


def test_a_factory_keeps_its_models_clear_of_it() -> None:
    model = models.resnet(options={**models.NARROW, "channels": [4, 4, 8, 8]})
    narrow = [
        one
        for one in model.modules()
        if isinstance(one, nn.Conv2d) and one.kernel_size == (1, 1) and one.in_channels < BLOCK
    ]
    assert narrow
    assert all(layer.stride == (1, 1) for layer in narrow)


@pytest.mark.slow
def test_no_shape_corrupts_the_memory() -> None:
    """A child process trains them with glibc's checks of the heap, three times: older processors'
    kernels are given to newer ones. It takes 15 to 20 seconds for 276 shapes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_PERTURB_": "165"}
    environment.pop("ONEDNN_MAX_CPU_ISA", None)
    if DEBUG_LIBRARY.exists():
        environment |= {"LD_PRELOAD": str(DEBUG_LIBRARY), "MALLOC_CHECK_": "3"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "1", *INSTRUCTIONS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    ended = dict(re.findall(r"^(\w+) (-?\d+)$", done.stdout, re.MULTILINE))
    reasons = {name: exit_reason(int(code)) for name, code in ended.items() if code != "0"}
    where = f"torch {torch.__version__} on {processor()}, oneDNN's kernels"
    assert not reasons, (
        f"{where}: training small convolutions: {reasons}\n{done.stdout}{done.stderr}"
    )
    assert done.stdout == "".join(f"{one} 0\n" for one in INSTRUCTIONS), f"{where}:\n{done.stdout}"
    assert done.returncode == 0, done.stderr
