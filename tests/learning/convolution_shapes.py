"""Train small convolutions and small ResNets of many shapes for a few steps: a program of its own,
since a fault may kill it.

python convolution_shapes.py THREADS INSTRUCTIONS...: for each of them ("native", or a value of
`ONEDNN_MAX_CPU_ISA`, which oneDNN reads before its first work) a fork, as torch takes seconds to
load. Prints a line for each shape whose gradients are not those of float64, and at the end of each
its instructions and its exit code.
"""

import itertools
import os
import sys
import traceback
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from fedrobust.learning.classifier import timm_model
from fedrobust.learning.convolutions import avoid_strided_pointwise
from fedrobust.utils.seeding import generator

TOLERANCE = 1e-3  # relative to the largest entry; float32 gives 1e-6 here


def layer(*shape: int, double: bool) -> nn.Module:
    into, out, kernel, stride = shape
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False))
    if double:
        return made.double()
    avoid_strided_pointwise(made)
    return made.to(memory_format=torch.channels_last)


def far_apart(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return not bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def try_layer(into: int, out: int, kernel: int, stride: int, *, batch: int, pixels: int) -> None:
    ours, exact = (layer(into, out, kernel, stride, double=double) for double in (False, True))
    for step in range(3):
        images = torch.randn(batch, into, pixels, pixels, generator=generator(step, "images"))
        gradients = []
        for model, entry in (
            (ours, images.contiguous(memory_format=torch.channels_last)),
            (exact, images.double()),
        ):
            entry.requires_grad_()
            scores = model(entry)
            gradients.append(
                torch.autograd.grad(
                    (scores * scores.detach().cos()).sum(), (entry, *model.parameters())
                )
            )
        if any(far_apart(a, b) for a, b in zip(*gradients, strict=True)):
            print(
                f"convolution {into} -> {out}, kernel {kernel}, stride {stride}, "
                f"{batch} images of {pixels} pixels: wrong gradients"
            )
            return


def try_resnet(channels: list[int], batch: int, pixels: int) -> None:
    factory = timm_model(
        "resnet18",
        head="linear",
        options={"layers": [1, 1, 1, 1], "channels": channels, "output_stride": 32},
    )
    model = factory.build(3, None, generator(0, "init"))
    for step in range(5):
        model(
            torch.rand(batch, 3, pixels, pixels, generator=generator(step, "images"))
        ).square().mean().backward()


def try_all() -> None:
    for into, (kernel, stride), (out, batch, pixels) in itertools.product(
        (*range(1, 10), 12, 16, 17, 24),
        ((1, 1), (1, 2), (1, 3), (3, 1), (3, 2)),
        ((4, 4, 8), (8, 4, 15), (9, 1, 8), (16, 8, 16)),
    ):
        try_layer(into, out, kernel, stride, batch=batch, pixels=pixels)
    for channels, batch, pixels in itertools.product(
        ([4, 4, 8, 8], [6, 6, 8, 8], [8, 8, 16, 16], [3, 5, 7, 9]), (4, 16), (8, 32)
    ):
        try_resnet(channels, batch, pixels)


def in_fork(instructions: str) -> int:
    """The exit code of a fork that tries all shapes with these instructions."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        if instructions != "native":
            os.environ["ONEDNN_MAX_CPU_ISA"] = instructions
        try_all()
        code = 0
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


torch.set_num_threads(int(sys.argv[1]))
for instructions in sys.argv[2:]:
    print(instructions, in_fork(instructions))
