"""Which SuperNode a request comes from, by its headers alone: Flower (1.41) signs the time of a
request with the node's key, so the gate knows it before the first byte of the body."""

from __future__ import annotations

import asyncio
import re
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

KEY, SIGNATURE, TIME = b"flwr-public-key", b"flwr-signature", b"flwr-timestamp"
PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/=\s]{1,2000}-----END PUBLIC KEY-----")
# what Flower's SuperLink takes: seconds that a request may be older or newer than now
OLDEST, NEWEST = 305.0, 5.0

Headers = Iterable[tuple[bytes, bytes]]


class UnknownKeyError(Exception):
    """A key that is not registered at the SuperLink."""


@final
class NodeKeys:
    """The registered keys. A key that is not known is refused only after the SuperLink was asked
    for the list anew, so that a node may come as soon as it is registered; whoever sends unknown
    keys makes it be asked once in `pause` seconds.

    A check before the SuperLink's own, which stays: a key that was unregistered since is refused
    there.

    Args:
        ask: gives anything that holds all registered keys in PEM, such as the SuperLink's list of
            nodes.
        pause: seconds between two questions.
    """

    def __init__(self, ask: Callable[[], Awaitable[bytes]], pause: float) -> None:
        self._ask, self._pause = ask, pause
        self._known: dict[bytes, ec.EllipticCurvePublicKey] = {}
        self._asked = -pause
        self._lock = asyncio.Lock()

    async def identify(self, headers: Headers) -> bytes | None:
        """The registered key with which these headers are signed, or None. Raises UnknownKeyError
        for another key, and what `ask` raises."""
        given = {name.lower(): value for name, value in headers}
        try:
            key = _decode(given[KEY]).strip()
            signature, signed_at = _decode(given[SIGNATURE]), given[TIME]
            age = (datetime.now(UTC) - datetime.fromisoformat(signed_at.decode())).total_seconds()
        except (KeyError, ValueError, TypeError, OverflowError):
            return None
        if not (-NEWEST < age < OLDEST) or not PEM.fullmatch(key):
            return None
        if key not in self._known:
            await self._refresh(time.monotonic())
        if key not in self._known:
            raise UnknownKeyError
        return key if _is_signed(self._known[key], signed_at, signature) else None

    async def _refresh(self, since: float) -> None:
        """Ask again, unless that was done since."""
        async with self._lock:
            if self._asked >= since:
                return
            await asyncio.sleep(max(0.0, self._asked + self._pause - time.monotonic()))
            asked = time.monotonic()
            found = PEM.findall(await self._ask())
            self._asked = asked
            self._known = {key: loaded for key in found if (loaded := _load(key)) is not None}


def _decode(value: bytes) -> bytes:
    return b64decode(value, validate=True)


def _load(key: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        loaded = load_pem_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return loaded if isinstance(loaded, ec.EllipticCurvePublicKey) else None


def _is_signed(key: ec.EllipticCurvePublicKey, text: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
