"""A round of secure aggregation between pure functions, with clients lost at given points."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fedrobust.privacy.secure import Random, Session
from fedrobust.privacy.secure import client as hospital
from fedrobust.privacy.secure.server import RevealedSecrets, ServerSession, recover_secrets


@dataclass
class SecureRound:
    """Clients 0 ... N-1 at one table, stage by stage. kept: what each remembers; changed: what the
    server tells single clients of the session that the others are not told."""

    number: int
    threshold: int
    random: Random = os.urandom
    round: int = 1
    kept: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    keys: dict[int, bytes] = field(default_factory=dict)
    letters: dict[int, dict[int, bytes]] = field(default_factory=dict)
    changed: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def session(self, client: int) -> Session:
        session = Session("task", self.round, client, self.threshold)
        return replace(session, **self.changed.get(client, {}))

    def make_keys(self, clients: Collection[int] | None = None) -> None:
        for client in range(self.number) if clients is None else clients:
            self.kept[client], self.keys[client] = hospital.make_keys(
                self.session(client), self.kept.get(client, {}), self.random
            )

    def make_shares(self, clients: Collection[int] | None = None) -> None:
        for client in self.keys if clients is None else clients:
            self.kept[client], self.letters[client] = hospital.make_shares(
                self.session(client), self.kept[client], self.keys, self.random
            )

    def letters_to(self, client: int) -> dict[int, bytes]:
        return {sender: sent[client] for sender, sent in self.letters.items() if sender != client}

    def mask(self, client: int, vector: Tensor) -> Tensor:
        """The masked vector; the given one stays."""
        masked = vector.clone()
        self.kept[client] = hospital.mask(
            self.session(client), self.kept[client], self.letters_to(client), masked
        )
        return masked

    def unmask(self, client: int, survivors: Collection[int]) -> RevealedSecrets:
        self.kept[client], seeds, masks = hospital.reveal_shares(
            self.session(client), self.kept[client], survivors
        )
        return RevealedSecrets(seeds, masks)

    def opened(self, total: Tensor, survivors: Collection[int], tellers: Collection[int]) -> Tensor:
        """The sum without its masks, by the shares of the tellers."""
        told = {client: self.unmask(client, survivors) for client in tellers}
        out = total.clone()
        recover_secrets(
            out,
            ServerSession(
                "task", self.threshold, self.keys, sorted(self.letters), sorted(survivors)
            ),
            told,
        )
        return out


def after_key_exchange(number: int, threshold: int, **more: Any) -> SecureRound:
    """A table at which the keys and shares of all are exchanged."""
    table = SecureRound(number, threshold, **more)
    table.make_keys()
    table.make_shares()
    return table


def whole_numbers(seed: int, number: int, size: int) -> list[Tensor]:
    """Vectors of int64 out of their whole range."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(-(2**63), 2**63 - 1, (size,), generator=g) for _ in range(number)]
