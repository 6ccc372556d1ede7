"""Randomness by name: every random choice has its own generator, so no choice can disturb
another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator that depends on nothing but `seed` and the words of its purpose.

    The state is the first 8 bytes of SHA-256 over the words, each with its type, so ("a", 1) and
    ("a", "1") differ.
    """
    text = "\x1f".join([str(int(seed)), *(f"{type(word).__name__}:{word}" for word in purpose)])
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


@contextmanager
def isolated(source: torch.Generator, device: torch.device | None = None) -> Iterator[None]:
    """Context for library code that draws from torch's global generators (weight initialisation,
    dropout): inside they are seeded from `source`, afterwards restored."""
    seed = int(torch.randint(2**62, (1,), generator=source).item())
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
