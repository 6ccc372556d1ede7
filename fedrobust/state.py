"""A model as two flat vectors: `State`, and the `Layout` that reads, loads and names them."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar, final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class State:
    """The floats of one model as two flat float32 vectors, in the order of a `state.Layout`.

    parameters: (D,) trainable parameters, the only part that enters an update or a distance.
    buffers: (B,) floating-point buffers (BatchNorm statistics), merged by a named policy.
    The fixed ETF is in neither: it travels once, with its hash.
    """

    parameters: Tensor
    buffers: Tensor


def state_digest(state: State) -> str:
    """SHA-256 (hexadecimal) of both vectors with their lengths, as little-endian float32: two
    parties hold the same numbers if and only if their digests agree."""
    found = hashlib.sha256()
    for vector in (state.parameters, state.buffers):
        values = (
            vector.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False)
        )
        found.update(len(values).to_bytes(8, "little"))
        found.update(values.data)
    return found.hexdigest()


def freeze(module: nn.Module) -> None:
    """Mark a module and all that it holds as frozen, in place: without gradients, in eval mode (a
    `classifier.Classifier` keeps it there) and in no `State`. Copies are frozen too."""
    module.requires_grad_(False).eval()
    for part in module.modules():
        part.frozen = True  # type: ignore[assignment]  # torch knows tensors and modules only


def is_frozen(module: nn.Module) -> bool:
    """Whether the module was marked by `freeze`."""
    return getattr(module, "frozen", False) is True


def live_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The module and all that it holds, without what is frozen."""
    if not is_frozen(module):
        yield module
        for child in module.children():
            yield from live_modules(child)


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The floats of frozen modules and the parameters without gradients by name, as in the model's
    state_dict: with a `State` the whole model. Empty where nothing is frozen."""
    modules = {name for name, module in model.named_modules() if is_frozen(module)}
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and (name.rpartition(".")[0] in modules or name in fixed)
    }


Module = TypeVar("Module", bound=nn.Module)
Entries = tuple[tuple[str, torch.Size], ...]
# the dictionary of the module that owns a tensor, and its name there
Place = tuple[dict[str, Any], str]


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of a model's named tensors in the two flat vectors of a `State`.

    Four-dimensional tensors (convolutions) lie channels last, as the models have them. Integer
    buffers (BatchNorm's num_batches_tracked), non-persistent buffers (the ETF) and all tensors of
    frozen modules (`freeze`) are left out on purpose.
    """

    parameters: Entries
    buffers: Entries

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        persistent = model.state_dict().keys() - frozen_tensors(model).keys()
        floats = [
            (name, b)
            for name, b in model.named_buffers()
            if name in persistent and b.is_floating_point()
        ]
        return cls(tuple((n, t.shape) for n, t in named), tuple((n, t.shape) for n, t in floats))

    @property
    def num_parameters(self) -> int:
        return _length(self.parameters)

    @property
    def num_buffers(self) -> int:
        return _length(self.buffers)

    def named(self, state: State) -> dict[str, Tensor]:
        """The state's tensors by name: views of the flat vectors, no copies."""
        return {**views(self.parameters, state.parameters), **views(self.buffers, state.buffers)}


def _length(entries: Entries) -> int:
    return sum(shape.numel() for _, shape in entries)


def views(entries: Entries, vector: Tensor) -> dict[str, Tensor]:
    """The named pieces of one flat vector, in their shapes: views, no copies."""
    pieces = torch.split(vector, [shape.numel() for _, shape in entries]) if entries else ()
    return {
        name: _shaped(piece, shape) for (name, shape), piece in zip(entries, pieces, strict=True)
    }


def _shaped(piece: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) != 4:
        return piece.view(shape)
    out, channels, height, width = shape
    return piece.view(out, height, width, channels).permute(0, 3, 1, 2)


def flat(tensors: list[Tensor]) -> Tensor:
    """The inverse of `views`: tensors in their shapes as one float32 vector on the CPU (a copy)."""
    if not tensors:
        return torch.zeros(0)
    return torch.cat(
        [_lined_up(one.detach()).reshape(-1).to(torch.float32) for one in tensors]
    ).cpu()


def _lined_up(tensor: Tensor) -> Tensor:
    """The tensor with its axes in the order in which it lies in a flat vector."""
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def read(model: nn.Module, layout: Layout) -> State:
    """A copy of the model's floats on the CPU."""
    return State(flat(_tensors(model, layout.parameters)), flat(_tensors(model, layout.buffers)))


def take(model: nn.Module, layout: Layout) -> State:
    """The model's floats on the CPU, without a copy where a loaded model lies there: the state and
    the model then share memory, so the model may be used, but must be loaded anew before it is
    changed."""
    vectors = [_home(_tensors(model, entries)) for entries in (layout.parameters, layout.buffers)]
    if any(vector is None for vector in vectors):
        return read(model, layout)
    return State(*(vector.cpu() for vector in vectors if vector is not None))


@torch.no_grad()
def load(model: nn.Module, layout: Layout, state: State) -> None:
    """Copy a state into the model, on any device. Nothing that was taken from the
    model before is touched.

    Raises ValueError when the vectors do not have the layout's sizes.
    """
    _check_sizes(layout, state)
    held = writable_state(model, layout)
    held.parameters.copy_(state.parameters)
    held.buffers.copy_(state.buffers)


@torch.no_grad()
def writable_state(model: nn.Module, layout: Layout) -> State:
    """Give the model memory of its own, without values yet, and return it: what is written into
    these vectors, on the model's device, is what the model holds. Nothing that was taken from the
    model before is touched. For one thread at a time."""
    device = next(model.parameters()).device
    _detach_memory(model, layout)
    held = State(
        _POOL.vector(layout.num_parameters, device), _POOL.vector(layout.num_buffers, device)
    )
    show(model, layout, held)
    return held


def replica(model: Module) -> Module:
    """A second model with modules and buffers of its own. Its parameters lie in the same memory
    until it gets other memory (`load`, `show`, `writable_state`), so a frozen part is there
    once."""
    shared = {
        id(one): nn.Parameter(one.detach(), requires_grad=one.requires_grad)
        for one in model.parameters()
    }
    return copy.deepcopy(model, dict[int, Any](shared))


@torch.no_grad()
def show(model: nn.Module, layout: Layout, state: State) -> None:
    """As `load`, but without a copy where state and model are on one device: for a model that is
    read only, since a change would change the state."""
    _check_sizes(layout, state)
    for entries, vector in ((layout.parameters, state.parameters), (layout.buffers, state.buffers)):
        targets = _tensors(model, entries)
        if targets:
            for target, view in zip(
                targets, views(entries, vector.to(targets[0].device)).values(), strict=True
            ):
                # autograd's bookkeeping stays with the parameter, only its memory is another
                target.data = view


def _check_sizes(layout: Layout, state: State) -> None:
    sizes = (state.parameters.numel(), state.buffers.numel())
    if sizes != (layout.num_parameters, layout.num_buffers):
        raise ValueError(
            f"a state of {sizes} values does not fit a model of "
            f"{layout.num_parameters, layout.num_buffers}"
        )


def _detach_memory(model: nn.Module, layout: Layout) -> None:
    """Leave the model's tensors without values, so that their memory is free for the values that
    come next, unless somebody took them."""
    for entries in (layout.parameters, layout.buffers):
        for target in _tensors(model, entries):
            target.data = target.new_empty(0)


def _tensors(model: nn.Module, entries: Entries) -> list[Tensor]:
    places = _PLACES.setdefault(model, {})
    if entries not in places:
        places[entries] = _find(model, entries)
    return [holder[key] for holder, key in places[entries]]


def _find(model: nn.Module, entries: Entries) -> list[Place]:
    """Walking through a model's modules takes as long as copying its tensors, so it is done once.
    What is remembered are the modules' own dictionaries: a tensor may be replaced by another."""
    modules, found = dict(model.named_modules()), []
    for name, _ in entries:
        path, _, key = name.rpartition(".")
        module = modules[path]
        found.append((module._parameters if key in module._parameters else module._buffers, key))
    return found


def _home(tensors: list[Tensor]) -> Tensor | None:
    """The one flat vector whose pieces these float32 tensors are, or None."""
    if not tensors:
        return torch.zeros(0)
    first, storage = tensors[0], tensors[0].untyped_storage()
    starts = [
        int(first.storage_offset()) + before
        for before in accumulate((one.numel() for one in tensors), initial=0)
    ]
    for one, start in zip(tensors, starts, strict=False):
        same = (
            one.untyped_storage().data_ptr() == storage.data_ptr() and one.storage_offset() == start
        )
        if not same or one.dtype != torch.float32 or not _lined_up(one).is_contiguous():
            return None
    whole: Tensor = torch.empty(0, device=first.device)
    return whole.set_(storage, starts[0], torch.Size([starts[-1] - starts[0]]), (1,))


@final
class _Pool:
    """Vectors on the CPU that are reused as soon as nothing refers to them.

    A copy into fresh memory takes eight times as long (94 MB: 34 against 4 ms), since the system
    hands it out page by page, and a client needs a new vector of the model's size in every round.
    (A GPU's allocator does the same by itself.)
    """

    KEPT = 4  # the model's, the reply's, the global state's, and one on its way

    def __init__(self) -> None:
        self._arrays: dict[int, list[np.ndarray[Any, Any]]] = {}

    def vector(self, size: int, device: torch.device) -> Tensor:
        if device.type != "cpu":
            return torch.empty(size, device=device)
        kept = self._arrays.setdefault(size, [])
        for number in range(len(kept)):
            if sys.getrefcount(kept[number]) == _UNUSED:
                return torch.from_numpy(kept[number])
        fresh = np.empty(size, np.float32)
        if len(kept) < self.KEPT:
            kept.append(fresh)
        return torch.from_numpy(fresh)


def _references_of_an_unused_array() -> int:
    """`sys.getrefcount` of an array that lies in a list and nowhere else: 2 up to Python
    3.13, less later."""
    kept = [np.empty(1)]
    return sys.getrefcount(kept[0])


_PLACES: WeakKeyDictionary[nn.Module, dict[Entries, list[Place]]] = WeakKeyDictionary()
_UNUSED = _references_of_an_unused_array()
_POOL = _Pool()
