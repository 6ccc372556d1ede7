"""The server's part in secure aggregation: take the masks that are left out of a sum of masked
updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedrobust.errors import RunError
from fedrobust.privacy.secure import ciphers, secret_sharing
from fedrobust.privacy.secure.client import mask_purpose, mask_sign, share_index
from fedrobust.utils.counting import format_count


@dataclass(frozen=True, slots=True)
class RevealedSecrets:
    """A client's last answer: its shares of the seeds of those whose updates arrived, and of the
    private mask keys of the others."""

    seeds: Mapping[int, bytes]
    masks: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class ServerSession:
    """The server's state of a round. keys: both public keys of all clients with shares; shared:
    those who sent shares, whom all others masked with; survivors: those of them whose masked
    updates are in the sum, ascending."""

    task: str
    threshold: int
    keys: Mapping[int, bytes]
    shared: Sequence[int]
    survivors: Sequence[int]


def recover_secrets(
    total: Tensor, session: ServerSession, answers: Mapping[int, RevealedSecrets]
) -> None:
    """Turn the sum of the survivors' masked updates into that of their updates, in place. answers:
    by client, at least `threshold`.

    Raises RunError where shares are missing, or do not give the key whose public half all clients
    used.
    """
    for client in session.survivors:
        ciphers.add_mask(
            total,
            _secret(
                session,
                client,
                {one: a.seeds[client] for one, a in answers.items() if client in a.seeds},
            ),
            -1,
        )
    for lost in sorted(set(session.shared) - set(session.survivors)):
        private = _secret(
            session, lost, {one: a.masks[lost] for one, a in answers.items() if lost in a.masks}
        )
        if ciphers.public_key(private) != session.keys[lost][ciphers.KEY_BYTES :]:
            raise RunError(
                f"secure aggregation: the shares of client {lost}'s mask key do not "
                "give it: some hospital sent a wrong one"
            )
        for client in session.survivors:
            seed = ciphers.agree(
                private,
                session.keys[client][ciphers.KEY_BYTES :],
                mask_purpose(session.task, client, lost),
            )
            ciphers.add_mask(total, seed, -mask_sign(client, lost))


def _secret(session: ServerSession, client: int, shares: Mapping[int, bytes]) -> bytes:
    """Out of the first `threshold` shares, by the number of their holder."""
    if len(shares) < session.threshold:
        raise RunError(
            f"secure aggregation: {len(shares)} of "
            f"{format_count(session.threshold, 'share')} of client {client}'s secret came"
        )
    chosen = sorted(shares)[: session.threshold]
    try:
        return secret_sharing.combine({share_index(holder): shares[holder] for holder in chosen})
    except ValueError as error:
        raise RunError(
            f"secure aggregation: the shares of client {client}'s secret do not give one: {error}"
        ) from error
