"""The gate between the sites and the SuperLink. It lets requests of SuperNodes pass to the
SuperLink, and nothing else.

The SuperLink has one port for all its routes, and asks for no password for starting runs or
registering keys; so it listens on the loopback interface, and this process, with the server's
certificate, listens to the network. `commands` writes its start script; a web server can do the
same (docs/federation.md).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from fedrobust.federation import certificates
from fedrobust.federation.flower_commands import Link

OPEN = re.compile(rb"/v1/fleet/[a-z-]+")  # each of which asks for a registered key
MOST_BYTES = 64 * 2**20  # of one request; Flower sends arrays in pieces of 5 MB
SECONDS = 300.0
# of one connection only
HELD_BACK = {
    b"connection",
    b"content-length",
    b"host",
    b"keep-alive",
    b"te",
    b"transfer-encoding",
    b"upgrade",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gateway:
    """An ASGI application in front of `upstream`, an HTTP client that knows where the SuperLink
    is."""

    def __init__(self, upstream: httpx.AsyncClient) -> None:
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return None
        path = bytes(scope["raw_path"])
        if scope["method"] != "POST" or not OPEN.fullmatch(path) or scope["query_string"]:
            return await _answer(send, 403, b"the gate lets SuperNodes pass only")
        body = await _body(receive)
        if body is None:
            return await _answer(send, 413, b"larger than any message of a SuperNode")
        headers = [
            (name, value) for name, value in scope["headers"] if name.lower() not in HELD_BACK
        ]
        try:
            reply = await self._upstream.post(path.decode("ascii"), content=body, headers=headers)
        except httpx.HTTPError:
            return await _answer(send, 502, b"the SuperLink does not answer")
        kept = [
            (name.lower(), value)
            for name, value in reply.headers.raw
            if name.lower() not in HELD_BACK
        ]
        return await _answer(
            send,
            reply.status_code,
            reply.content,
            [pair for pair in kept if pair[0] != b"content-encoding"],
        )


async def _body(receive: Receive) -> bytes | None:
    """The whole body of a request, or None as soon as it is too large."""
    parts, size, more = [], 0, True
    while more:
        event = await receive()
        parts.append(event.get("body", b""))
        size, more = size + len(parts[-1]), event.get("more_body", False)
        if size > MOST_BYTES:
            return None
    return b"".join(parts)


async def _answer(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    told = [
        *(headers or [(b"content-type", b"text/plain")]),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


def serve(folder: Path, outer: Link, inner: Link, listen: str) -> None:
    """Stand at the gate until the process is ended. folder: holds the server's certificate and key.
    listen: the address to bind."""
    if outer.ca is None or inner.ca is None:
        raise ValueError("a gate without TLS protects nothing")
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
    context = httpx.create_ssl_context(verify=str(inner.ca))
    upstream = httpx.AsyncClient(
        base_url=f"https://{inner.address}", verify=context, timeout=SECONDS, limits=limits
    )
    uvicorn.run(
        Gateway(upstream),
        host=listen,
        port=outer.port,
        lifespan="off",
        access_log=False,
        log_level="warning",
        ssl_certfile=str(folder / certificates.SERVER_CERTIFICATE),
        ssl_keyfile=str(folder / certificates.SERVER_KEY),
    )
