"""Running clients' models on the server's own images, one model in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrobust.aggregation.updates import Updates
from fedrobust.learning import batchnorm
from fedrobust.learning.alignment import alignment
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import predict_scores
from fedrobust.state import Layout, State
from fedrobust.types import Samples


@dataclass(frozen=True, slots=True)
class ScratchModel:
    """Scratch model for the members, with its parts: the model, the order of its floats, the
    server's images (None: not asked for), and whether BatchNorm statistics are re-estimated on the
    proxy images before every use."""

    model: Classifier
    layout: Layout
    root: Samples | None
    proxy: Samples | None
    recalibrate: bool

    @property
    def proxy_samples(self) -> Samples:
        """The proxy images; raises ValueError where there are none."""
        return _given(self.proxy, "proxy")

    @property
    def root_samples(self) -> Samples:
        """The root set; raises ValueError where there is none."""
        return _given(self.root, "root")

    def load_and_recalibrate(self, state: State) -> State:
        """Load a state and re-estimate its statistics; returns what the model now holds."""
        images = self.proxy.images if self.recalibrate and self.proxy is not None else None
        return batchnorm.load_and_recalibrate(self.model, self.layout, state, images)

    def alignment(self) -> float:
        """Alignment of the loaded model with the root labels, in [-1, 1] (see
        `fedrobust.learning.alignment`)."""
        root = self.root_samples
        return float(
            alignment(predict_scores(self.model, root.images), root.labels, self.model.head)
        )


def _given(samples: Samples | None, name: str) -> Samples:
    if samples is None:
        raise ValueError(f"no {name} images were given")
    return samples


@dataclass(frozen=True, slots=True)
class Members:
    """The clients' models: the reference plus an update shortened by its factor, buffers as
    sent."""

    reference: State
    updates: Updates
    factors_N: Tensor

    def row(self, n: int) -> Tensor:
        """The (D,) shortened update."""
        row_D = self.updates.row(n).to(self.reference.parameters)
        return row_D * self.factors_N[n].to(row_D)

    def rows(self, clients: Sequence[int]) -> Iterator[Tensor]:
        """Their shortened updates, one after the other."""
        return (self.row(n) for n in clients)

    def state(self, n: int) -> State:
        return State(
            self.reference.parameters + self.row(n),
            self.updates.buffers_NB[n].to(self.reference.buffers),
        )


@dataclass(frozen=True, slots=True)
class MemberScores:
    """Results of one visit to every member: scores on the CPU and re-estimated buffers. Parts that
    were not asked for have no images: (N, 0, K)."""

    root_NRK: Tensor
    proxy_NPK: Tensor
    buffers_NB: Tensor

    @property
    def usable(self) -> Tensor:
        """(N,) bool: the member's scores are all finite."""
        return self.root_NRK.isfinite().flatten(1).all(dim=1) & self.proxy_NPK.isfinite().flatten(
            1
        ).all(dim=1)


def score_members(
    scratch: ScratchModel, members: Members, *, need_root: bool, need_proxy: bool
) -> MemberScores:
    """Place every member once and keep all that later steps need; no member is placed where nothing
    is needed.

    Cost of a member: one pass over the proxy images for its statistics, one over the root set, one
    over the proxy images for their scores.
    """
    num_clients, num_classes = len(members.updates), scratch.model.num_classes
    root_NRK = torch.empty(num_clients, len(scratch.root_samples) if need_root else 0, num_classes)
    proxy_NPK = torch.empty(
        num_clients, len(scratch.proxy_samples) if need_proxy else 0, num_classes
    )
    if not (need_root or need_proxy):
        return MemberScores(root_NRK, proxy_NPK, members.updates.buffers_NB)
    buffers_NB = torch.empty(members.updates.buffers_NB.shape)
    for n in range(num_clients):
        buffers_NB[n] = scratch.load_and_recalibrate(members.state(n)).buffers
        if need_root:
            root_NRK[n] = predict_scores(scratch.model, scratch.root_samples.images)
        if need_proxy:
            proxy_NPK[n] = predict_scores(scratch.model, scratch.proxy_samples.images)
    return MemberScores(root_NRK, proxy_NPK, buffers_NB)
