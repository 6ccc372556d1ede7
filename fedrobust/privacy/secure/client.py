"""A client's four answers in a round of secure aggregation (see `fedrobust.privacy.secure`), and
what it keeps between them.

What is kept is plain (words, whole numbers, bytes, lists of numbers) and replaces what was kept
before: the private keys go with the masked update, the shares of others with the last answer. The
server's messages are not trusted: each answer is given once, in its turn, in rounds that only go
up, for no fewer than `threshold` clients, and only where every other client whose letter can be
opened was asked the same; what is refused raises ProtocolError, and nothing has been told then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Never

from torch import Tensor

from fedrobust.errors import RunError
from fedrobust.privacy.secure import COMMON_BYTES, Random, Session, ciphers, secret_sharing
from fedrobust.utils.counting import format_count

KEYS_BYTES = 2 * ciphers.KEY_BYTES  # both public keys of a client: for messages, for masks
# a share of the seed b, and one of the private mask key
SHARES_BYTES = 2 * secret_sharing.SHARE_BYTES
# a letter holds these and what its sender was asked (`Session.common`)
SEALED_BYTES = ciphers.NONCE_BYTES + SHARES_BYTES + COMMON_BYTES + ciphers.TAG_BYTES

ClientSecrets = Mapping[str, Any]


class ProtocolError(RunError):
    """The server asked for what a client must not answer; nothing was told."""

    code = "secure-aggregation"


class UnlikeTasksError(ProtocolError):
    """The server did not ask all clients the same."""

    code = "unlike-tasks"


def make_keys(session: Session, kept: ClientSecrets, random: Random) -> tuple[ClientSecrets, bytes]:
    """The first answer: (what is kept, both public keys). kept: of an earlier round, or nothing."""
    if kept.get("round", 0) >= session.round:
        _refuse(
            session, f"its keys were asked for after those of round {kept['round']} (a replay?)"
        )
    if session.threshold < 2:
        _refuse(session, "a sum of one would be opened")
    (letters, letters_public), (masks, masks_public) = (
        ciphers.key_pair(random),
        ciphers.key_pair(random),
    )
    public = letters_public + masks_public
    now = {
        "round": session.round,
        "common": session.common,
        "stage": "keys",
        "letters": letters,
        "masks": masks,
        "public": public,
    }
    return now, public


def make_shares(
    session: Session, kept: ClientSecrets, keys: Mapping[int, bytes], random: Random
) -> tuple[ClientSecrets, dict[int, bytes]]:
    """The second answer: (what is kept, {other client: its sealed shares}). keys: both public keys
    of every client, its own too."""
    _check_turn(session, kept, "keys")
    _check_keys(session, kept, keys)
    seed = random(secret_sharing.SECRET_BYTES)
    places = [share_index(client) for client in keys]
    seeds, masks = (
        secret_sharing.split(secret, session.threshold, places, random)
        for secret in (seed, kept["masks"])
    )
    letters = {client: seeds[share_index(client)] + masks[share_index(client)] for client in keys}
    own, sealed = letters.pop(session.client), {}
    for client, letter in letters.items():
        key = _agreed(
            session,
            kept["letters"],
            keys[client][: ciphers.KEY_BYTES],
            sealing_purpose(session.client, client),
        )
        sealed[client] = ciphers.seal(key, letter + session.common, random)
    clients = sorted(keys)
    now = {
        **kept,
        "stage": "shares",
        "seed": seed,
        "own": own,
        "clients": clients,
        "keys": b"".join(keys[one] for one in clients),
    }
    return now, sealed


def check_masking(session: Session, kept: ClientSecrets, sealed: Mapping[int, bytes]) -> None:
    """Whether the third answer may be given, before it is trained for. sealed: {other client: the
    shares that it sealed for this one}."""
    _check_turn(session, kept, "shares")
    known = set(kept["clients"])
    if not set(sealed) <= known - {session.client}:
        _refuse(
            session,
            "shares of strangers came: "
            f"{sorted(set(sealed) - known | {session.client} & set(sealed))}",
        )
    _check_enough(session, len(sealed) + 1)
    for client, letter in sealed.items():
        _open(session, kept, client, letter)


def mask(
    session: Session, kept: ClientSecrets, sealed: Mapping[int, bytes], vector: Tensor
) -> ClientSecrets:
    """The third answer: mask the encoded update, in place. sealed: {other client: the shares that
    it sealed for this one}. A message that cannot be opened is missing from the last answer and
    spoils nothing else. Returns what is kept: others' shares, no keys."""
    check_masking(session, kept, sealed)
    ciphers.add_mask(vector, kept["seed"], 1)
    held = {session.client: kept["own"]}
    for client, letter in sealed.items():
        opened = _open(session, kept, client, letter)
        if opened is not None:
            held[client] = opened
        seed = _agreed(
            session,
            kept["masks"],
            _keys_of(kept, client)[ciphers.KEY_BYTES :],
            mask_purpose(session.task, session.client, client),
        )
        ciphers.add_mask(vector, seed, mask_sign(session.client, client))
    alive, holding = sorted({*sealed, session.client}), sorted(held)
    plain = {"round": session.round, "common": session.common, "stage": "masked"}
    return {
        **plain,
        "clients": alive,
        "holding": holding,
        "held": b"".join(held[client] for client in holding),
    }


def _keys_of(kept: ClientSecrets, client: int) -> bytes:
    """Both public keys of another client."""
    place = kept["clients"].index(client)
    keys: bytes = kept["keys"][KEYS_BYTES * place : KEYS_BYTES * (place + 1)]
    return keys


def _open(session: Session, kept: ClientSecrets, client: int, letter: bytes) -> bytes | None:
    """The shares in another client's letter; None where it cannot be opened. Refuses all where its
    sender was asked something else: one model for each client would tell the server of each."""
    public = _keys_of(kept, client)[: ciphers.KEY_BYTES]
    purpose = sealing_purpose(client, session.client)
    opened = ciphers.unseal(_agreed(session, kept["letters"], public, purpose), letter)
    if opened is None:
        return None
    if opened[SHARES_BYTES:] != session.common:
        raise UnlikeTasksError(
            f"secure aggregation, round {session.round}: the server asked client {client} and "
            f"client {session.client} for updates of different models or configurations; nothing "
            "is sent"
        )
    return opened[:SHARES_BYTES]


def reveal_shares(
    session: Session, kept: ClientSecrets, survivors: Collection[int]
) -> tuple[ClientSecrets, dict[int, bytes], dict[int, bytes]]:
    """The last answer: (what is kept, {survivor: share of its seed}, {lost client: share of its
    private mask key}). survivors: all whose masked updates reached the server, this client's among
    them; both kinds of one client are never revealed."""
    _check_turn(session, kept, "masked")
    alive = set(survivors)
    if session.client not in alive or not alive <= set(kept["clients"]):
        _refuse(
            session,
            "the list of those whose updates arrived leaves this client out, or names strangers",
        )
    _check_enough(session, len(alive))
    letters = {
        client: kept["held"][SHARES_BYTES * at : SHARES_BYTES * (at + 1)]
        for at, client in enumerate(kept["holding"])
    }
    seeds = {
        client: letter[: secret_sharing.SHARE_BYTES]
        for client, letter in letters.items()
        if client in alive
    }
    masks = {
        client: letter[secret_sharing.SHARE_BYTES :]
        for client, letter in letters.items()
        if client not in alive
    }
    return {"round": session.round, "common": session.common, "stage": "over"}, seeds, masks


def share_index(client: int) -> int:
    """Point at which a client's shares are taken: never 0, where the secret is."""
    return client + 1


def mask_sign(client: int, other: int) -> int:
    """Sign of a mask: one of its two clients adds it, the other subtracts it."""
    return 1 if client < other else -1


def sealing_purpose(sender: int, receiver: int) -> str:
    """Purpose of the key that seals sender's message to receiver: each direction has its own. The
    key pairs are the round's; the message itself names its task."""
    return f"fedrobust secure aggregation, letter, {sender}, {receiver}"


def mask_purpose(task: str, one: int, other: int) -> str:
    """Purpose of the seed of two clients' common mask, equal for both."""
    return f"fedrobust secure aggregation, mask, {task}, {min(one, other)}, {max(one, other)}"


def _check_turn(session: Session, kept: ClientSecrets, stage: str) -> None:
    if (kept.get("round"), kept.get("common")) != (session.round, session.common):
        _refuse(
            session,
            "a message of another round, run or model than the one whose keys were made (a "
            "replay?)",
        )
    if kept["stage"] != stage:
        _refuse(
            session,
            f"a message out of turn (last answered: {kept['stage']}); each is answered once",
        )


def _check_keys(session: Session, kept: ClientSecrets, keys: Mapping[int, bytes]) -> None:
    if keys.get(session.client) != kept["public"]:
        _refuse(session, "this client's own public keys came back changed")
    halves = {
        half
        for both in keys.values()
        for half in (both[: ciphers.KEY_BYTES], both[ciphers.KEY_BYTES :])
    }
    if len(halves) != 2 * len(keys):
        _refuse(session, "one public key stands there twice")
    _check_enough(session, len(keys))
    if 2 * session.threshold <= len(keys):
        _refuse(
            session,
            f"{session.threshold} of {format_count(len(keys), 'share')} would open a secret; "
            "it must take more than half",
        )


def _check_enough(session: Session, clients: int) -> None:
    if clients < session.threshold:
        _refuse(
            session,
            f"{format_count(clients, 'client is', 'clients are')} left, and no sum of fewer than "
            f"{session.threshold} is helped to be opened",
        )


def _agreed(session: Session, private: bytes, public: bytes, purpose: str) -> bytes:
    try:
        return ciphers.agree(private, public, purpose)
    except ValueError:
        _refuse(session, "a public key that leaves no secret")


def _refuse(session: Session, why: str) -> Never:
    raise ProtocolError(
        f"secure aggregation, round {session.round}: client {session.client} refuses: {why}"
    )
