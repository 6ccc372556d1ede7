"""The gate between the sites and the SuperLink. It lets requests of SuperNodes with a registered
key pass to the SuperLink, and nothing else.

The SuperLink has one port for all its routes, and asks for no password for starting runs or
registering keys; so it listens on the loopback interface, and this process, with the server's
certificate, listens to the network. `commands` writes its start script.

The headers of a request decide, before a byte of its body is read; a body that passes is handed on
piece by piece, so that memory does not depend on what others send. All that they may take is in
`gate_limits.Limits`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import final

import h11
import httpx

from fedrobust.errors import RunError
from fedrobust.federation import certificates
from fedrobust.federation.flower_commands import Link
from fedrobust.federation.gate_limits import (
    Connection,
    Connections,
    FlyingBytes,
    Limits,
    network_of,
)
from fedrobust.federation.node_keys import NodeKeys, UnknownKeyError

OPEN = re.compile(rb"/v1/fleet/[a-z-]+")  # each of which asks for a registered key
NODES = "/v1/control/list-nodes"  # of the SuperLink, which answers it on the loopback interface
PROTOBUF = "application/protobuf"
CHUNK = 1 << 16  # bytes that are read at once
IDLE_SECONDS = 2.0  # of a refused sender that sends nothing more
TELL_SECONDS = 60.0  # between two lines about it
PAUSE = 0.1  # seconds, where the system has no room for a connection
# of one connection only
HELD_BACK = {
    b"connection",
    b"expect",
    b"host",
    b"keep-alive",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
CLOSE = (b"connection", b"close")

Headers = Sequence[tuple[bytes, bytes]]


class RefusedError(Exception):
    """A request that does not pass: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@final
class Exchange:
    """HTTP/1.1 on one connection: requests and answers one after the other, piece by piece."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits
    ) -> None:
        self._reader, self._writer, self._limits = reader, writer, limits
        self._http = h11.Connection(h11.SERVER)

    async def next_request(self) -> h11.Request | None:
        """The headers of the next request; None: there is none."""
        if self._http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._http.start_next_cycle()
        if self._http.our_state is not h11.IDLE:
            return None
        async with asyncio.timeout(self._limits.head_seconds):
            event = await self._event()
        return event if isinstance(event, h11.Request) else None

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the request, no larger than allowed. Raises RefusedError, TimeoutError."""
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        size = 0
        while True:
            async with asyncio.timeout(self._limits.piece_seconds):
                event = await self._event()
            if not isinstance(event, h11.Data):
                return
            size += len(event.data)
            if size > self._limits.body_bytes:
                raise RefusedError(413, "larger than any message of a SuperNode")
            yield bytes(event.data)

    async def answer(self, status: int, headers: Headers, body: AsyncIterator[bytes]) -> None:
        await self._send(h11.Response(status_code=status, headers=list(headers)))
        async for piece in body:
            await self._send(h11.Data(data=piece))
        await self._send(h11.EndOfMessage())

    async def refuse(self, status: int, reason: str) -> None:
        """Answer and end the connection. What the sender goes on to send is read and thrown away
        for a while, since it might not read the answer before."""
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return  # the answer of another has begun
        text = reason.encode()
        headers = [
            (b"date", formatdate(usegmt=True).encode()),  # `check` compares clocks by it
            (b"content-type", b"text/plain"),
            (b"content-length", b"%d" % len(text)),
            CLOSE,
        ]
        await self._send(h11.Response(status_code=status, headers=headers))
        await self._send(h11.Data(data=text))
        await self._send(h11.EndOfMessage())
        if self._has_all():
            return
        async with asyncio.timeout(self._limits.linger_seconds):
            while True:
                async with asyncio.timeout(IDLE_SECONDS):
                    if not await self._reader.read(CHUNK):
                        return

    def _has_all(self) -> bool:
        """Whether the whole request has arrived already."""
        with contextlib.suppress(h11.RemoteProtocolError):
            while isinstance(event := self._http.next_event(), h11.Data | h11.EndOfMessage):
                if isinstance(event, h11.EndOfMessage):
                    return True
        return False

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(CHUNK))
        return event

    async def _send(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")
        async with asyncio.timeout(self._limits.piece_seconds):
            await self._writer.drain()


@final
class Gateway:
    """Between connections from the network and `upstream`, an HTTP client that knows where the
    SuperLink is."""

    def __init__(self, upstream: httpx.AsyncClient, limits: Limits | None = None) -> None:
        self._upstream, self._limits = upstream, limits or Limits()
        self._keys = NodeKeys(self._list_keys, self._limits.question_seconds)
        self._connections = Connections(self._limits)
        self._flying = FlyingBytes(self._limits)
        self._told, self._silent_until = 0, 0.0

    async def serve(self, listening: socket.socket, context: ssl.SSLContext | None) -> None:
        """Take connections until cancelled, which ends them. listening: not blocking. context: None
        only in tests."""
        try:
            await self._accept(listening, context)
        finally:
            tasks = [one.task for one in self._connections.open]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except OSError:  # no file descriptor is free, or the sender has gone
                await asyncio.sleep(PAUSE)
                continue
            task = loop.create_task(self._attend(accepted, context))
            connection = Connection(network_of(str(peer[0])), task)
            task.add_done_callback(partial(self._end, connection, accepted))
            if not self._connections.admit(connection):
                task.cancel()
            self._tell()

    def _end(self, connection: Connection, accepted: socket.socket, _: asyncio.Task[None]) -> None:
        self._connections.forget(connection)
        accepted.close()

    def _tell(self) -> None:
        """Say now and then that connections were ended because there were too many."""
        if self._connections.ended > self._told and time.monotonic() >= self._silent_until:
            self._told, self._silent_until = (
                self._connections.ended,
                time.monotonic() + TELL_SECONDS,
            )
            print(f"gate: too many connections; ended so far: {self._told}", flush=True)

    async def _attend(self, accepted: socket.socket, context: ssl.SSLContext | None) -> None:
        """One connection, from TLS to its end. Whatever the other side does ends this connection
        only."""
        gone = (OSError, TimeoutError, h11.ProtocolError, httpx.HTTPError, EOFError)
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=CHUNK)
        protocol = asyncio.StreamReaderProtocol(reader)
        with contextlib.suppress(*gone):
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self._limits.handshake_seconds if context else None,
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                await self._converse(Exchange(reader, writer, self._limits))
                writer.close()
                async with asyncio.timeout(self._limits.head_seconds):
                    await writer.wait_closed()
            finally:
                transport.abort()

    async def _converse(self, exchange: Exchange) -> None:
        while True:
            try:
                request = await exchange.next_request()
                if request is None:
                    return None
                async with asyncio.timeout(self._limits.request_seconds):
                    await self._pass_on(request, exchange)
            except RefusedError as refused:
                return await exchange.refuse(refused.status, str(refused))
            except h11.RemoteProtocolError:
                return await exchange.refuse(400, "no HTTP/1.1")
            except httpx.HTTPError:
                return await exchange.refuse(502, "the SuperLink does not answer")

    async def _pass_on(self, request: h11.Request, exchange: Exchange) -> None:
        """A request to the SuperLink, and its answer back. Raises RefusedError."""
        size = _declared_size(request)
        if request.method != b"POST" or not OPEN.fullmatch(request.target):
            raise RefusedError(403, "the gate lets SuperNodes pass only")
        try:
            key = await self._keys.identify(request.headers)
        except UnknownKeyError:
            # after a 401 a SuperNode (Flower 1.41) ends as if nothing had happened
            raise RefusedError(404, "this key is not registered") from None
        if key is None:
            raise RefusedError(401, "no registered key signed this request just now")
        if size is not None and size > self._limits.body_bytes:
            raise RefusedError(413, "larger than any message of a SuperNode")
        self._recognise(key)
        async with self._flying.hold(key, self._limits.body_bytes if size is None else size):
            message = self._upstream.build_request(
                "POST",
                request.target.decode("ascii"),
                content=exchange.body(),
                headers=_without_connection(request.headers.raw_items()),
            )
            reply = await self._upstream.send(message, stream=True)
        try:
            headers = _without_connection(reply.headers.raw)
            await exchange.answer(reply.status_code, headers, reply.aiter_raw(CHUNK))
        finally:
            await reply.aclose()

    def _recognise(self, key: bytes) -> None:
        task = asyncio.current_task()
        own = next((one for one in self._connections.open if one.task is task), None)
        if own is None or not self._connections.recognise(own, key):
            raise RefusedError(503, "this site has too many connections")

    async def _list_keys(self) -> bytes:
        headers = {"content-type": PROTOBUF, "accept": PROTOBUF}
        reply = await self._upstream.post(NODES, content=b"", headers=headers)
        reply.raise_for_status()
        return reply.content


def _declared_size(request: h11.Request) -> int | None:
    """Bytes of the body by its header (h11 has checked that it is one number); None: it comes in
    chunks. Raises RefusedError for both at once, of which servers differ in what they believe."""
    names = {name for name, _ in request.headers}
    if {b"content-length", b"transfer-encoding"} <= names:
        raise RefusedError(400, "a length and chunks")
    if b"transfer-encoding" in names:
        return None
    return next((int(value) for name, value in request.headers if name == b"content-length"), 0)


def _without_connection(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in HELD_BACK]


def serve(folder: Path, outer: Link, inner: Link, listen: str) -> None:
    """Stand at the gate until the process is ended. folder: holds the server's certificate and key.
    listen: the address to bind. Raises RunError where it cannot."""
    if outer.ca is None or inner.ca is None:
        raise ValueError("a gate without TLS protects nothing")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(
        folder / certificates.SERVER_CERTIFICATE, folder / certificates.SERVER_KEY
    )
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    try:
        listening = socket.create_server((listen, outer.port), family=family, backlog=128)
    except OSError as error:
        raise RunError(
            f"listen={listen}: port {outer.port} cannot be bound ({error.strerror}); end what "
            "listens there, or choose another address or port"
        ) from error
    with listening, contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        listening.setblocking(False)
        asyncio.run(_until_ended(_stand(listening, context, inner)))


async def _stand(listening: socket.socket, context: ssl.SSLContext, inner: Link) -> None:
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
    trusted = httpx.create_ssl_context(verify=str(inner.ca))
    async with httpx.AsyncClient(
        base_url=f"https://{inner.address}",
        verify=trusted,
        timeout=Limits().request_seconds,
        limits=limits,
        trust_env=False,
    ) as upstream:
        await Gateway(upstream).serve(listening, context)


async def _until_ended(standing: Awaitable[None]) -> None:
    """Until the process is asked to end (SIGTERM)."""
    task = asyncio.ensure_future(standing)
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task
