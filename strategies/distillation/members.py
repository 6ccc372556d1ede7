"""Running clients' models on the server's own images: one model in memory at a time, or, where the
images are small, one for each of the server's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue

import torch
from torch import Tensor

from fedrobust.aggregation.updates import Updates
from fedrobust.learning import batchnorm
from fedrobust.learning.alignment import root_losses
from fedrobust.learning.classifier import Classifier, is_compiled
from fedrobust.learning.inference import one_thread_each, predict_scores, recalibrate_and_score
from fedrobust.state import Layout, State, replica, writable_state
from fedrobust.types import Samples

NO_IMAGES = torch.zeros(0)
SMALL_PASS = 1 << 19  # pixels of a set of images: 512 of 32 px, 128 of 64 px
MOST_MODELS = 16  # side by side: together no more pixels than one pass takes in recalibration
PIECE = 1 << 18  # values of a model that are computed at once


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

    def score(self, *, need_root: bool, need_proxy: bool) -> tuple[Tensor, Tensor]:
        """Re-estimate the loaded model's statistics; its scores (R, K) of the root set and (P, K)
        of the proxy images, without rows where they are not needed. Every image goes through the
        model once."""
        root = self.root_samples.images if need_root else NO_IMAGES
        if need_proxy and self._images is not None:
            proxy_PK, root_RK = recalibrate_and_score(self.model, self._images, root)
            return root_RK, proxy_PK
        if self._images is not None:
            batchnorm.recalibrate(self.model, self._images)
        proxy = self.proxy_samples.images if need_proxy else NO_IMAGES
        return predict_scores(self.model, root), predict_scores(self.model, proxy)

    @property
    def suits_threads(self) -> bool:
        """Whether its passes are so small that a thread should do one alone. It depends on the
        images and the model, not on the number of threads, which decides no result then."""
        sets = [one.images for one in (self.root, self.proxy) if one is not None]
        return (
            next(self.model.parameters()).device.type == "cpu"
            and not is_compiled(self.model)
            and all(
                images.ndim == 4 and len(images) * images.shape[2:].numel() <= SMALL_PASS
                for images in sets
            )
        )

    def root_losses(self) -> Tensor:
        """(R,) float64: the loaded model's loss on each root image (see
        `fedrobust.learning.alignment.root_losses`)."""
        root = self.root_samples
        return root_losses(predict_scores(self.model, root.images), root.labels, self.model.scale)


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
        state = State(
            torch.empty_like(self.reference.parameters), torch.empty_like(self.reference.buffers)
        )
        self.write(n, state)
        return state

    def write(self, n: int, out: State) -> None:
        """Write the n-th client's model into a state on any device: piece by piece, each near a
        core while it is worked on."""
        pieces = [
            torch.split(one, PIECE)
            for one in (self.updates.row(n), self.reference.parameters, out.parameters)
        ]
        factor = self.factors_N[n].to(out.parameters)
        for row, reference, target in zip(*pieces, strict=True):
            torch.mul(row.to(target), factor, out=target)
            target.add_(reference.to(target))
        out.buffers.copy_(self.updates.buffers_NB[n])


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

    Cost of a member: one pass over the proxy images and the root set. Small passes
    (`ScratchModel.suits_threads`) are done side by side, one by each of torch's threads on a model
    of its own, of which there are at most `MOST_MODELS`: the same bits for any number of threads.
    """
    num_clients, num_classes = len(members.updates), scratch.model.num_classes
    root_NRK = torch.empty(num_clients, len(scratch.root_samples) if need_root else 0, num_classes)
    proxy_NPK = torch.empty(
        num_clients, len(scratch.proxy_samples) if need_proxy else 0, num_classes
    )
    if not (need_root or need_proxy):
        return MemberScores(root_NRK, proxy_NPK, members.updates.buffers_NB)
    buffers_NB = torch.empty(members.updates.buffers_NB.shape)

    def visit(scratch: ScratchModel, held: State, n: int) -> None:
        members.write(n, held)
        root_NRK[n], proxy_NPK[n] = scratch.score(need_root=need_root, need_proxy=need_proxy)
        buffers_NB[n] = held.buffers

    _visit_all(scratch, num_clients, visit)
    return MemberScores(root_NRK, proxy_NPK, buffers_NB)


def _visit_all(
    scratch: ScratchModel, num_clients: int, visit: Callable[[ScratchModel, State, int], None]
) -> None:
    """Call `visit` with a scratch model, the memory of its floats and a client's row, for all
    clients."""
    if not scratch.suits_threads:
        held = writable_state(scratch.model, scratch.layout)
        for n in range(num_clients):
            visit(scratch, held, n)
        return
    models = min(torch.get_num_threads(), num_clients, MOST_MODELS)
    free: SimpleQueue[tuple[ScratchModel, State]] = SimpleQueue()
    for number in range(models):
        one = replace(scratch, model=replica(scratch.model)) if number else scratch
        free.put((one, writable_state(one.model, one.layout)))

    def visit_next(n: int) -> None:
        one, held = free.get()
        try:
            visit(one, held, n)
        finally:
            free.put((one, held))

    with one_thread_each() as pool:
        for _ in pool.map(visit_next, range(num_clients)):
            pass
