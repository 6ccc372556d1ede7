"""What the laws of all kinds have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Generator, Tensor

from fedrobust.state import State
from fedrobust.types import Samples
from fedrobust.utils.foreign_text import split_lines

Tested = TypeVar("Tested")
Law = Callable[[Tested, int], None]
SEEDS = range(10)


class LawError(AssertionError):
    """What is tested breaks a law; the message names both, the law in words, and the seed."""


def require(condition: bool | Tensor, text: str) -> None:
    """Raise LawError with this text unless the condition holds."""
    if not condition:
        raise LawError(text)


def check_laws(
    name: str,
    tested: Tested,
    laws: Mapping[str, Law[Tested]],
    seeds: Iterable[int],
    without: Collection[str],
) -> None:
    """Put something through all laws but `without`, with each seed.

    Raises:
        LawError: for the first law that does not hold.
        ValueError: `without` names no law.
    """
    if unknown := sorted(set(without) - set(laws)):
        raise ValueError(f"without={unknown[0]}: is no law; known are {', '.join(laws)}")
    kept = list(seeds)
    for law, holds in laws.items():
        for seed in kept if law not in without else ():
            try:
                holds(tested, seed)
            except LawError as error:
                about = " ".join((holds.__doc__ or "").split())
                raise LawError(
                    f"{name} breaks the law {law} (seed {seed}): {error}. {about}"
                ) from None


def normal(seed: int, *shape: int) -> Tensor:
    """Normal random numbers of a seed."""
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def require_close(one: Tensor, other: Tensor, what: str) -> None:
    """Equal but for rounding in float32."""
    try:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    except AssertionError as error:
        raise LawError(f"{what}: {split_lines(str(error))[0]}") from None


def copied(value: Samples | State) -> list[Tensor]:
    """Copies of its tensors."""
    return [getattr(value, name).clone() for name in type(value).__slots__]


def same(value: Samples | State, tensors: list[Tensor]) -> bool:
    """Whether its tensors are these, bit for bit; NaN equals NaN."""
    own = [getattr(value, name) for name in type(value).__slots__]
    pairs = [
        (a.double(), b.double())
        for a, b in zip(own, tensors, strict=True)
        if a.dtype == b.dtype and a.shape == b.shape
    ]
    return len(pairs) == len(own) and all(
        torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs
    )
