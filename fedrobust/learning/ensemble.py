"""MEFF from finished models: the client models of a federation, or models trained one by one, fused
under one classifier."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedrobust.learning import batchnorm
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.fusion import Fusion
from fedrobust.state import Layout, State


class Frozen(nn.Module):
    """A finished classifier as a source of features: it is no longer trained and stays in eval
    mode, regardless of the surrounding context."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Frozen:
        """Eval mode in any case."""
        super().train(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1] -> the classifier's features (B, d)."""
        return self.classifier.features(images)


def from_states(
    model: Classifier, layout: Layout, states: Sequence[State], images: Tensor | None = None
) -> list[Classifier]:
    """Copies of `model`, on its device, one for each state: the client models of a federation.
    images: those on which their BatchNorm statistics are re-estimated (None: they keep theirs)."""
    members = [copy.deepcopy(model) for _ in states]
    for member, state in zip(members, states, strict=True):
        batchnorm.load_and_recalibrate(member, layout, state, images)
    return members


def fuse(members: Sequence[Classifier], fusion: str = "mean") -> Classifier:
    """One classifier over the features of finished ones, which are frozen and moved into it; only
    its last layer can be trained (`training.fit` does so, with any loss).

    With the same fixed anchors the features of all members lie in one space: before any training
    the last layer is their mean ("concatenate" starts there too), so the fused model answers at
    once. Linear heads have no common space: theirs starts at zero and must be trained. Raises
    ValueError for no members, for different heads, classes or anchors.
    """
    if not members:
        raise ValueError("an ensemble needs at least one member")
    first = members[0]
    for other in members[1:]:
        same = (other.head, other.num_classes) == (first.head, first.num_classes)
        if not same or (first.anchors is not None and not _equal(first.anchors, other.anchors)):
            raise ValueError(
                "the members of an ensemble must have the same classes and the same "
                "head, with the same anchors"
            )
    device = next(first.parameters()).device
    widths = [
        one.last.in_features if one.anchors is None else one.anchors.shape[0] for one in members
    ]
    backbone = Fusion([Frozen(one) for one in members], widths, fusion)
    fused = Classifier(
        backbone, backbone.head_hidden_size, first.num_classes, first.anchors, first.scale
    )
    with torch.no_grad():
        if first.anchors is None:
            fused.last.weight.zero_()
            fused.last.bias.zero_()
        else:
            copies = backbone.head_hidden_size // widths[0]
            fused.last.weight.copy_(torch.eye(widths[0]).repeat(1, copies) / copies)
    return fused.to(device)


def _equal(one: Tensor, two: Tensor | None) -> bool:
    return two is not None and one.shape == two.shape and torch.equal(one, two.to(one.device))
