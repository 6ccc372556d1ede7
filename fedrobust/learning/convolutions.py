"""Convolutions that oneDNN computes wrongly, computed another way with equal results.

The fault: on processors with AVX2 but without AVX-512, the gradient of the weights of a 1x1
convolution with a stride of two or more and fewer than eight input channels, in channels-last
layout, writes beyond its workspace (kernel `jit_1x1:avx2`, `backward_weights`; oneDNN 3.13.3, the
one in torch 2.15.0; uxlfoundation/oneDNN issue 6035, open when this was written). The heap is
corrupted: gradients are wrong, or the process hangs, aborts or dies of SIGSEGV. Not touched, as
tried with glibc's checks of the heap: the AVX-512 and the SSE4.1 kernels, a stride of one, eight
and more channels, other kernel sizes, grouped convolutions. To see it: ONEDNN_MAX_CPU_ISA=AVX2
ONEDNN_VERBOSE=1 and a ResNet with four channels in its first stage.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

# input channels that the AVX2 kernel takes at once; with as many or more it keeps within its
# workspace
BLOCK = 8


def avoid_strided_pointwise(model: nn.Module) -> None:
    """Let 1x1 convolutions of few input channels take every s-th pixel first and then a stride of
    one, in place.

    The sum over input channels at each pixel that is kept is the same, so are weights, their names
    and their shapes. It applies on every processor, so that results do not depend on it.

    Args:
        model: any module; layers that the fault cannot reach are left alone.
    """
    for layer in model.modules():
        if (
            not isinstance(layer, nn.Conv2d)
            or isinstance(layer.padding, str)
            or layer.padding_mode != "zeros"
        ):
            continue
        strided_pointwise = layer.kernel_size == (1, 1) and max(layer.stride) > 1
        if strided_pointwise and layer.in_channels // layer.groups < BLOCK:
            layer.register_forward_pre_hook(
                partial(_subsample, stride=layer.stride, padding=layer.padding)
            )
            layer.stride, layer.padding = (1, 1), (0, 0)


def _subsample(
    _: nn.Module, inputs: tuple[Any, ...], *, stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[Any, ...]:
    images: Tensor = inputs[0]
    if any(padding):
        images = functional.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    return images[..., :: stride[0], :: stride[1]], *inputs[1:]
