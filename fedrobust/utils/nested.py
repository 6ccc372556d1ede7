"""Values nested in one another, as JSON values and a list of tensors, and back: what rules and
clients remember, without pickle.

None, bool, int, float, str and lists are kept, and so is a dict whose keys are plain
words. The rest is tagged: {"!dict": [[key, value], ...]} with keys of any of those scalars,
{"!tuple": [...]}, {"!tensor": number, "device": name} and {"!bytes": number}, where the number
counts in the list of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SCALARS = (bool, int, float, str)


def flatten(value: Any) -> tuple[Any, list[Tensor]]:
    """(JSON value, tensors). Raises TypeError that names the place and the type of what cannot be
    kept."""
    tensors: list[Tensor] = []
    return _flatten(value, tensors, ""), tensors


def _flatten(value: Any, tensors: list[Tensor], place: str) -> Any:
    if value is None or isinstance(value, SCALARS):
        return value
    if isinstance(value, Mapping):
        return _flatten_mapping(value, tensors, place)
    if isinstance(value, (list, tuple)):
        items = [_flatten(item, tensors, f"{place}[{index}]") for index, item in enumerate(value)]
        return {"!tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Tensor):
        tensors.append(value.detach())
        return {"!tensor": len(tensors) - 1, "device": str(value.device)}
    if isinstance(value, bytes):
        tensors.append(
            torch.frombuffer(bytearray(value), dtype=torch.uint8)
            if value
            else torch.zeros(0, dtype=torch.uint8)
        )
        return {"!bytes": len(tensors) - 1}
    raise TypeError(f"{place or 'the value'} is of type {type(value).__name__}")


def _flatten_mapping(value: Mapping[Any, Any], tensors: list[Tensor], place: str) -> Any:
    for key in value:
        if key is not None and not isinstance(key, SCALARS):
            raise TypeError(f"{place or 'the value'} has a key of type {type(key).__name__}")
    items = [(key, _flatten(inner, tensors, f"{place}[{key!r}]")) for key, inner in value.items()]
    plain = all(isinstance(key, str) and not key.startswith("!") for key in value)
    return dict(items) if plain else {"!dict": [[key, inner] for key, inner in items]}


def unflatten(value: Any, tensors: Sequence[Tensor]) -> Any:
    """The inverse of `flatten`. A tensor goes back to its device. Raises ValueError, KeyError,
    IndexError or TypeError where the two do not belong together."""
    if isinstance(value, list):
        return [unflatten(item, tensors) for item in value]
    return _restore_dict(value, tensors) if isinstance(value, dict) else value


def _restore_dict(value: Mapping[str, Any], tensors: Sequence[Tensor]) -> Any:
    if "!dict" in value:
        return {key: unflatten(inner, tensors) for key, inner in value["!dict"]}
    if "!tuple" in value:
        return tuple(unflatten(item, tensors) for item in value["!tuple"])
    if "!tensor" in value:
        return _find(value["!tensor"], tensors).to(value["device"])
    if "!bytes" in value:
        return _find(value["!bytes"], tensors).numpy().tobytes()
    return {key: unflatten(inner, tensors) for key, inner in value.items()}


def _find(number: Any, tensors: Sequence[Tensor]) -> Tensor:
    if type(number) is not int or number < 0:
        raise ValueError("no number of a tensor")
    return tensors[number]
