"""What strangers and sites may take of the gate: connections, bytes on their way, time."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, final

MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits of the gate.

    Args:
        connections: open at one time, at least 1.
        strangers: of those the ones that have not shown a registered key yet.
        strangers_per_network: of those the ones from one address (IPv6: one /64).
        connections_per_key: of one site.
        handshake_seconds: for TLS.
        head_seconds: for the headers of a request, also of the first.
        piece_seconds: for the next piece of a body, either way.
        request_seconds: for a whole request and its answer.
        linger_seconds: for which what a refused sender goes on to send is read and thrown away, so
            that it gets the answer.
        question_seconds: between two questions to the SuperLink which keys are registered.
        body_bytes: of one request; Flower sends arrays in pieces of 5 MB.
        flying_bytes: of all requests that are on their way to the SuperLink.
        flying_bytes_per_key: of one site's.
    """

    connections: int = 256
    strangers: int = 64
    strangers_per_network: int = 32
    connections_per_key: int = 16
    handshake_seconds: float = 10.0
    head_seconds: float = 10.0
    piece_seconds: float = 30.0
    request_seconds: float = 300.0
    linger_seconds: float = 30.0
    question_seconds: float = 2.0
    body_bytes: int = 64 * MEGABYTE
    flying_bytes: int = 256 * MEGABYTE
    flying_bytes_per_key: int = 128 * MEGABYTE


@dataclass(eq=False, slots=True)
class Connection:
    """An open connection. network: where it comes from. task: serves it. key: the registered key
    that it has shown, or None."""

    network: str
    task: asyncio.Task[Any]
    key: bytes | None = None


@final
@dataclass(slots=True)
class Connections:
    """Those that are open, oldest first. Where there are too many, the oldest stranger of the
    network with the most strangers gives way: a site that shows its key at once always gets in,
    however many connections others hold."""

    limits: Limits
    open: list[Connection] = field(default_factory=list)
    ended: int = 0  # because there were too many

    def admit(self, fresh: Connection) -> bool:
        """Take it in, and close a stranger where that is needed; False: there is no room."""
        strangers = [one for one in self.open if one.key is None]
        here = [one for one in strangers if one.network == fresh.network]
        if len(here) >= self.limits.strangers_per_network:
            self.close(here[0])
        elif len(strangers) >= self.limits.strangers or len(self.open) >= self.limits.connections:
            if not strangers:
                self.ended += 1
                return False
            ((crowded, _),) = Counter(one.network for one in strangers).most_common(1)
            self.close(next(one for one in strangers if one.network == crowded))
        self.open.append(fresh)
        return True

    def recognise(self, connection: Connection, key: bytes) -> bool:
        """It has shown this key; False: that site has too many connections."""
        own = [one for one in self.open if one.key == key and one is not connection]
        if len(own) >= self.limits.connections_per_key:
            return False
        connection.key = key
        return True

    def close(self, connection: Connection) -> None:
        """End it; it counts no longer."""
        self.forget(connection)
        self.ended += 1
        connection.task.cancel()

    def forget(self, connection: Connection) -> None:
        """It has ended."""
        if connection in self.open:
            self.open.remove(connection)


def network_of(address: str) -> str:
    """The address, or of IPv6 the /64 around it, within which one host can have any number."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped or ipaddress.ip_network((found, 64), strict=False))


@final
class FlyingBytes:
    """Bytes of requests on their way, which others wait for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_key: Counter[bytes] = Counter()
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def hold(self, key: bytes, size: int) -> AsyncIterator[None]:
        """So many bytes of this site, once there is room for them."""
        while not self._fits(key, size):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._by_key[key] += size
        try:
            yield
        finally:
            self._by_key[key] -= size
            if not self._by_key[key]:
                del self._by_key[key]
            waiting, self._waiting = self._waiting, []
            for turn in waiting:
                if not turn.done():  # it was cancelled
                    turn.set_result(None)

    def _fits(self, key: bytes, size: int) -> bool:
        return (
            self._by_key.total() + size <= self._limits.flying_bytes
            and self._by_key[key] + size <= self._limits.flying_bytes_per_key
        )
