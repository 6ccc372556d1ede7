"""Low-rank adapters (LoRA): a frozen transformer learns through small matrices beside its
attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from fedrobust.errors import ConfigError
from fedrobust.state import freeze

NAMES = ("adapter_down", "adapter_up")  # of what trains in an adapted layer


class AdaptedLinear(nn.Linear):
    """x -> W x + b + U (D x) with W and b of a given layer, without gradients; D (rank,
    in_features) is drawn, U (out_features, rank) starts at zero, so that at first nothing
    changes."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(
            layer.in_features, layer.out_features, layer.bias is not None, device="meta"
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.requires_grad_(False)
        self.adapter_down = nn.Parameter(torch.empty(rank, layer.in_features))
        nn.init.kaiming_uniform_(self.adapter_down, a=math.sqrt(5))
        self.adapter_up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        low = functional.linear(input, self.adapter_down)
        return super().forward(input) + functional.linear(low, self.adapter_up)


def adapt(backbone: Any, rank: int) -> None:
    """Freeze one of timm's vision transformers in place and put adapters beside the projections to
    queries, keys and values in all its blocks.

    Args:
        backbone: as timm makes it.
        rank: of the adapters, at least 1.

    Raises:
        ConfigError: it is another kind of network.

    Reference:
        Hu et al., LoRA, ICLR 2022 (without its factor alpha / r).
    """
    if not isinstance(backbone, VisionTransformer):
        raise ConfigError(
            "model.freeze=adapters: is for timm's vision transformers (vit_..., deit_...); use "
            "model.freeze=backbone or a number of stages"
        )
    freeze(backbone)
    for block in [one for one in backbone.modules() if isinstance(one, Attention)]:
        block.qkv = AdaptedLinear(block.qkv, rank)
