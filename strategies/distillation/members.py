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
from fedrobust.learning.inference import predict_scores, recalibrate_and_score
from fedrobust.state import Layout, State, load
from fedrobust.types import Samples

NO_IMAGES = torch.zeros(0)


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
        return batchnorm.load_and_recalibrate(self.model, self.layout, state, self._images)

    @property
    def _images(self) -> Tensor | None:
        """Those on which statistics are re-estimated; None: every state keeps its own."""
        return self.proxy.images if self.recalibrate and self.proxy is not None else None

    def load_and_score(
        self, state: State, *, need_root: bool, need_proxy: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`load_and_recalibrate`, and scores: the (B,) buffers that the model now holds, its scores
        (R, K) of the root set and (P, K) of the proxy images, without rows where they are not
        needed. Every image goes through the model once."""
        root = self.root_samples.images if need_root else NO_IMAGES
        if need_proxy and self._images is not None:
            load(self.model, self.layout, state)
            proxy_PK, root_RK = recalibrate_and_score(self.model, self._images, root)
            return batchnorm.read_buffers(self.model, self.layout), root_RK, proxy_PK
        buffers_B = self.load_and_recalibrate(state).buffers
        proxy = self.proxy_samples.images if need_proxy else NO_IMAGES
        return buffers_B, predict_scores(self.model, root), predict_scores(self.model, proxy)

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

    Cost of a member: one pass over the proxy images and the root set.
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
        buffers_NB[n], root_NRK[n], proxy_NPK[n] = scratch.load_and_score(
            members.state(n), need_root=need_root, need_proxy=need_proxy
        )
    return MemberScores(root_NRK, proxy_NPK, buffers_NB)
