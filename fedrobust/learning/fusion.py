"""Feature fusion: several networks that look at the same images, as one whose features are all of
theirs (MEFF)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrobust.learning.losses import full_precision

FUSIONS = ("concatenate", "mean")


class Fusion(nn.Module):
    """Images (B, 3, H, W) -> the members' features, each at unit length so that none outshouts the
    others, side by side (B, sum of the widths) or averaged (B, width), float32.

    members: modules from images to features (B, widths[i]). It takes the place of a timm backbone
    in a `classifier.Classifier`, whose own normalisation of the images it switches off
    (`pretrained_cfg`), since every member has its own. A zero feature stays zero. Raises ValueError
    for members of different widths whose mean is wanted.
    """

    def __init__(self, members: Sequence[nn.Module], widths: Sequence[int], fusion: str) -> None:
        super().__init__()
        if fusion == "mean" and len(set(widths)) != 1:
            raise ValueError(
                f"features of {', '.join(map(str, widths))} values have no mean; fuse "
                "them side by side"
            )
        self.members = nn.ModuleList(members)
        self.fusion = fusion
        self.head_hidden_size = widths[0] if fusion == "mean" else sum(widths)
        self.pretrained_cfg = {"mean": [0.0] * 3, "std": [1.0] * 3}

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features = [member(images) for member in self.members]
        with full_precision(images):
            units = [functional.normalize(one.float(), dim=1, eps=1e-8) for one in features]
            return torch.stack(units).mean(0) if self.fusion == "mean" else torch.cat(units, dim=1)


class Normalised(nn.Module):
    """A timm backbone with its own normalisation of images in [0, 1] (`image_statistics`)."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        for name, values in image_statistics(backbone).items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1] -> pooled features (B, F)."""
        normal = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.backbone(normal)  # type: ignore[no-any-return]


def image_statistics(backbone: nn.Module) -> dict[str, Tensor]:
    """Mean and std, (1, 3, 1, 1) each, by which the backbone wants its images normalised; .5 and
    .25 where it does not say."""
    cfg = getattr(backbone, "pretrained_cfg", None) or {}
    values = {
        name: cfg.get(name) or [fallback] * 3 for name, fallback in (("mean", 0.5), ("std", 0.25))
    }
    return {
        name: torch.tensor(one, dtype=torch.float32).view(1, 3, 1, 1)
        for name, one in values.items()
    }
