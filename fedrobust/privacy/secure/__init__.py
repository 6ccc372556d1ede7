"""Secure aggregation: the server learns the sum of the hospitals' clipped updates, and none of them
(Bonawitz et al., CCS 2017).

Four messages a round to each client u (`hospital` answers them, `coordinator` opens the sum):

keys      u draws two X25519 key pairs, one for talking to other clients behind the server's back
and one for masks, and sends both
          public keys.
shares    u gets everybody's public keys, draws the seed b_u, cuts b_u and its private mask key into
Shamir shares, one pair a client,
          and sends each pair sealed for its receiver, with a digest of what it was asked: the
          configuration, the round and the model, whose SHA-256 came with the first message.
masked    u gets the shares sealed for it and the model, makes sure that it is the model which was
          announced and that every other was asked the same, trains, and sends
              y_u = x_u + PRG(b_u) + sum over v > u of PRG(s_uv) - sum over v < u of PRG(s_uv)
              mod 2^64
          over everybody v whose shares arrived; s_uv is what u and v agree on by Diffie and
          Hellman. In the sum over all u the pairs cancel.
unmask    u gets the list of those whose y arrived and sends its shares of b_v for each v on it, and
of the private mask key of each
          v that is not: with `threshold` of them the server takes the masks that are left out of
          the sum.

Semi-honest: the server follows the protocol and wants to know. docs/privacy.md says what one that
does not could do.

Own messages, since Flower's (1.41) SecAgg+ runs in its legacy workflow only. Its helpers are not
used: its mask generator folds a seed into 32 bits for a Mersenne twister, which can be tried out,
and neither they nor pycryptodome's Shamir (secrets of 16 bytes, pure Python in a binary field) are
promised to stay. X25519, HKDF, AES-GCM and AES-CTR come from `cryptography`, a dependency anyway;
only Shamir's scheme is our own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator

Random = Callable[[int], bytes]  # n -> n random bytes
COMMON_BYTES = 32


@dataclass(frozen=True, slots=True)
class Session:
    """One client in one round. task: names the run, the round and the model; threshold: the least
    number of clients whose sum is opened; told: what else all clients must have been told alike."""

    task: str
    round: int
    client: int
    threshold: int
    told: str = ""

    @property
    def common(self) -> bytes:
        """What every client of a round must find the same: a digest of COMMON_BYTES."""
        return hashlib.sha256(f"{self.task}\n{self.told}".encode()).digest()


def seeded_random(generator: Generator) -> Random:
    """Repeatable, so it does not protect against the server, which knows the seed."""
    return lambda number: (
        torch.randint(256, (number,), generator=generator, dtype=torch.uint8).numpy().tobytes()
    )
