"""Requests that pass the gate and requests that do not, over real sockets, with a made-up SuperLink
behind it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedrobust.federation.gate_limits import (
    Connection,
    Connections,
    FlyingBytes,
    Limits,
    network_of,
)
from fedrobust.federation.gateway import NODES, Gateway
from fedrobust.federation.node_keys import NodeKeys, UnknownKeyError

PUSH = "/v1/fleet/push-object"
SECOND = timedelta(seconds=1)


@dataclass
class Site:
    """A SuperNode's key, and the headers that Flower makes with it."""

    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )

    @property
    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def headers(self, shift: timedelta = 0 * SECOND) -> dict[str, str]:
        moment = (datetime.now(UTC) + shift).isoformat()
        signature = self.key.sign(moment.encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "flwr-public-key": b64encode(self.pem).decode(),
            "flwr-timestamp": moment,
            "flwr-signature": b64encode(signature).decode(),
        }

    def head(self, size: int | str, path: str = PUSH) -> bytes:
        """The first lines of a request as they travel."""
        lines = [f"POST {path} HTTP/1.1", "Host: gate", f"Content-Length: {size}"]
        lines += [f"{name}: {value}" for name, value in self.headers().items()]
        return "\r\n".join([*lines, "", ""]).encode()


Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]


@dataclass
class SuperLink:
    """What stands behind the gate: it lists the registered nodes, and answers with what it got."""

    registered: list[Site]
    requests: list[httpx.Request] = field(default_factory=list)
    questions: int = 0
    handler: Handler | None = None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == NODES:
            self.questions += 1
            listed = b"".join(b"\x0a\xb2" + site.pem + b"\x12\x04name" for site in self.registered)
            return httpx.Response(200, content=listed)
        self.requests.append(request)
        if self.handler is not None:
            return await self.handler(request)
        body = await request.aread()
        headers = {
            "x-seen": request.headers.get("x-said", ""),
            "content-type": "application/protobuf",
            "connection": "close",
        }
        whole = request.url.path.encode() + b":" + body
        headers["content-length"] = str(len(whole))
        return httpx.Response(201, content=in_pieces(whole), headers=headers)


async def in_pieces(whole: bytes) -> AsyncIterator[bytes]:
    """As it comes over a network."""
    for start in range(0, len(whole), 1 << 16):
        yield whole[start : start + (1 << 16)]


@dataclass
class Standing:
    """A gate on a port of its own."""

    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def post(self, path: str, *, method: str = "POST", **keywords: object) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            return await client.request(method, path, **keywords)  # type: ignore[arg-type]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def ask(self, raw: bytes) -> bytes:
        """The first line of the answer to these bytes; empty where there is none."""
        reader, writer = await self.connect()
        writer.write(raw)
        return (await reader.readline()).strip()


class Transport(httpx.AsyncBaseTransport):
    """Hands requests to a handler, which reads their bodies or does not."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._handler(request)


@contextlib.asynccontextmanager
async def standing(superlink: Handler, limits: Limits | None = None) -> AsyncIterator[Standing]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        async with httpx.AsyncClient(
            base_url="https://inside", transport=Transport(superlink)
        ) as upstream:
            serving = asyncio.create_task(Gateway(upstream, limits).serve(listening, None))
            gate = Standing(listening.getsockname()[1])
            try:
                yield gate
            finally:
                serving.cancel()
                for writer in gate.writers:
                    writer.transport.abort()
                await asyncio.gather(serving, return_exceptions=True)


SITE = Site()


def through(
    path: str, superlink: SuperLink, limits: Limits | None = None, **keywords: object
) -> httpx.Response:
    """The answer to one request that SITE signed."""

    async def one() -> httpx.Response:
        async with standing(superlink, limits) as gate:
            given = {**SITE.headers(), **keywords.pop("headers", {})}  # type: ignore[dict-item]
            return await gate.post(path, headers=given, **keywords)

    return asyncio.run(one())


def test_a_node_s_request_passes_whole_and_so_does_its_answer() -> None:
    body, superlink = bytes(range(256)) * 1000, SuperLink([SITE])
    reply = through(PUSH, superlink, content=body, headers={"x-said": "hello"})
    assert reply.status_code == 201
    assert reply.headers["x-seen"] == "hello"
    assert reply.headers["content-type"] == "application/protobuf"
    assert reply.content == PUSH.encode() + b":" + body
    assert "connection" not in reply.headers
    assert superlink.requests[0].headers["content-length"] == str(len(body))


def test_pieces_without_a_length_pass_too() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield bytes([number]) * 1000

    reply = through(PUSH, SuperLink([SITE]), content=pieces())
    assert reply.content.endswith(b"\x00" * 1000 + b"\x01" * 1000 + b"\x02" * 1000)


def test_a_connection_serves_one_request_after_the_other() -> None:
    async def twice() -> list[int]:
        async with standing(SuperLink([SITE])) as gate:
            reader, writer = await gate.connect()
            found = []
            for _ in range(2):
                writer.write(SITE.head(3) + b"abc")
                found.append(int((await reader.readuntil(b"\r\n\r\n")).split()[1]))
                await reader.readexactly(len(PUSH) + 4)
            return found

    assert asyncio.run(twice()) == [201, 201]


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/control/register-node"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/fleet/../control/start-run"),
        ("POST", "/v1/fleet/%2e%2e/control/start-run"),
        ("POST", "/v1/fleet/x/../../control/start-run"),
        ("POST", "//v1/fleet/pull-messages"),
        ("POST", "/v1/fleet/pull-messages?x=1"),
        ("POST", "/V1/FLEET/pull-messages"),
        ("POST", "http://localhost/v1/control/list-runs"),
        ("POST", "/v1/fleet/pull-messages;/../../control"),
        ("POST", "/v1/fleet/"),
        ("GET", "/v1/fleet/pull-messages"),
        ("GET", "/docs"),
    ],
)
def test_nothing_else_passes(method: str, url: str) -> None:
    superlink = SuperLink([SITE])

    async def ask() -> bytes:
        async with standing(superlink) as gate:
            return await gate.ask(SITE.head(0, url).replace(b"POST", method.encode(), 1))

    assert asyncio.run(ask()) == b"HTTP/1.1 403"
    assert superlink.requests == []


def test_a_refusal_tells_the_time_to_the_check_of_a_site() -> None:
    async def ask() -> httpx.Response:
        async with standing(SuperLink([SITE])) as gate:
            return await gate.post("/", method="GET")

    refused = asyncio.run(ask())
    assert refused.status_code == 403
    told = parsedate_to_datetime(refused.headers["date"])
    assert abs(told - datetime.now(UTC)) < 60 * SECOND


def test_what_two_servers_would_read_differently_is_refused() -> None:
    superlink = SuperLink([SITE])
    both = SITE.head(60).replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    hidden = b"0\r\n\r\nPOST /v1/control/list-runs HTTP/1.1\r\nHost: x\r\n\r\n"

    async def ask() -> list[bytes]:
        async with standing(superlink) as gate:
            return [await gate.ask(both + hidden), await gate.ask(b"\x16\x03\x01 what\r\n\r\n")]

    assert asyncio.run(ask()) == [b"HTTP/1.1 400"] * 2
    assert superlink.requests == []


def test_the_headers_decide_before_a_byte_of_the_body_is_read() -> None:
    """60 MB are announced and none is sent: the answer comes at once."""
    superlink = SuperLink([SITE])
    late, stranger = Site(), Site()
    wrong = {
        "no key": b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        "unknown key": stranger.head(60 << 20),
        "old": late.head(60 << 20).replace(*stamps(late, -400 * SECOND)),
        "of tomorrow": late.head(60 << 20).replace(*stamps(late, 60 * SECOND)),
        "key of another": SITE.head(60 << 20).replace(b64encode(SITE.pem), b64encode(stranger.pem)),
        "no base64": SITE.head(60 << 20).replace(b64encode(SITE.pem), b"***"),
    }

    async def ask() -> list[bytes]:
        async with standing(superlink, Limits(question_seconds=0)) as gate:
            return [await gate.ask(raw) for raw in wrong.values()]

    statuses = [
        b"HTTP/1.1 404" if "key of" in name or "unknown" in name else b"HTTP/1.1 401"
        for name in wrong
    ]
    assert asyncio.run(ask()) == statuses
    assert superlink.requests == []


def stamps(site: Site, shift: timedelta) -> tuple[bytes, bytes]:
    """(what stands for now in a site's headers, that of another time); to be replaced."""
    return b"flwr-timestamp: ", b"flwr-timestamp: " + site.headers(shift)[
        "flwr-timestamp"
    ].encode() + b"\r\nx-before: "


@pytest.mark.parametrize(("shift", "passes"), [(0, True), (-300, True), (-306, False), (6, False)])
def test_a_signature_is_good_for_as_long_as_flower_takes_it(shift: int, passes: bool) -> None:
    async def ask() -> bytes:
        return SITE.pem

    headers = SITE.headers(shift * SECOND)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    found = asyncio.run(NodeKeys(ask, 0).identify(raw))
    assert found == (SITE.pem.strip() if passes else None)


def test_a_signature_of_other_words_is_none() -> None:
    async def ask() -> bytes:
        return SITE.pem

    headers = SITE.headers() | {"flwr-signature": SITE.headers(SECOND)["flwr-signature"]}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert asyncio.run(NodeKeys(ask, 0).identify(raw)) is None


def test_a_node_passes_as_soon_as_it_is_registered() -> None:
    superlink, fresh = SuperLink([SITE]), Site()

    async def ask() -> list[int]:
        found = []
        async with standing(superlink, Limits(question_seconds=0.01)) as gate:
            found.append((await gate.post(PUSH, headers=SITE.headers())).status_code)
            superlink.registered.append(fresh)
            found.append((await gate.post(PUSH, headers=fresh.headers())).status_code)
        return found

    assert asyncio.run(ask()) == [201, 201]


def test_unknown_keys_do_not_make_the_superlink_be_asked_each_time() -> None:
    asked = []

    async def ask() -> bytes:
        asked.append(1)
        return SITE.pem

    async def many() -> list[bytes | BaseException | None]:
        keys = NodeKeys(ask, pause=0.05)
        raw = [
            [(name.encode(), value.encode()) for name, value in Site().headers().items()]
            for _ in range(20)
        ]
        return list(await asyncio.gather(*map(keys.identify, raw), return_exceptions=True))

    assert [type(one) for one in asyncio.run(many())] == [UnknownKeyError] * 20
    assert len(asked) <= 2


def test_a_body_without_end_is_cut_off() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(1001)

    small = Limits(body_bytes=1000)
    assert through(PUSH, SuperLink([SITE]), small, content=bytes(1001)).status_code == 413
    assert through(PUSH, SuperLink([SITE]), small, content=pieces()).status_code == 413
    assert through(PUSH, SuperLink([SITE]), small, content=bytes(1000)).status_code == 201


def test_a_superlink_that_is_down() -> None:
    async def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async def ask() -> int:
        async with standing(down) as gate:
            return (await gate.post(PUSH, headers=SITE.headers())).status_code

    assert asyncio.run(ask()) == 502
    superlink = SuperLink([SITE], handler=down)
    assert through(PUSH, superlink, content=b"x").status_code == 502


def test_silent_and_slow_connections_end() -> None:
    """Before the first byte, within the headers, and within the body of a site."""
    limits = Limits(head_seconds=0.05, piece_seconds=0.05)
    beginnings = [b"", b"POST /v1/fl", SITE.head(1000) + b"only this"]

    async def ask() -> list[bytes]:
        async with standing(SuperLink([SITE]), limits) as gate:
            connected = [await gate.connect() for _ in beginnings]
            for raw, (_, writer) in zip(beginnings, connected, strict=True):
                writer.write(raw)
            return list(await asyncio.gather(*(reader.read() for reader, _ in connected)))

    assert asyncio.run(ask()) == [b""] * 3


def test_a_site_gets_in_however_many_silent_connections_there_are() -> None:
    limits = Limits(strangers=8, strangers_per_network=6, connections=12)

    async def ask() -> tuple[int, int]:
        async with standing(SuperLink([SITE]), limits) as gate:
            silent = [await gate.connect() for _ in range(30)]
            status = (await gate.post(PUSH, headers=SITE.headers())).status_code
            ended = 0
            for reader, _ in silent:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        ended += await reader.read() == b""
            return status, ended

    status, ended = asyncio.run(ask())
    assert status == 201
    assert ended >= 24


def test_a_site_gets_in_while_strangers_upload_without_end() -> None:
    """16 strangers whose bodies of 60 MB never end, and memory stays what it was."""
    limits = Limits(strangers=20, strangers_per_network=20)
    head = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 62914570\r\n\r\n"

    async def upload(gate: Standing) -> None:
        _, writer = await gate.connect()
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(head)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(piece)
                await writer.drain()

    piece = bytes(1 << 18)

    async def ask() -> tuple[list[int], int]:
        async with standing(SuperLink([SITE]), limits) as gate:
            strangers = [asyncio.create_task(upload(gate)) for _ in range(16)]
            await asyncio.sleep(0.05)
            statuses = []
            for _ in range(3):
                reply = await gate.post(PUSH, headers=SITE.headers(), content=bytes(1 << 20))
                statuses.append(reply.status_code)
            for one in strangers:
                one.cancel()
            await asyncio.gather(*strangers, return_exceptions=True)
            return statuses, tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        statuses, peak = asyncio.run(ask())
    finally:
        tracemalloc.stop()
    assert statuses == [201] * 3
    assert peak < 48 << 20


def test_uploads_that_nobody_fetches_stay_where_they_come_from() -> None:
    """A SuperLink that reads nothing: the gate takes a few pieces of each upload, not all of it."""
    reading = asyncio.Event()

    async def never(request: httpx.Request) -> httpx.Response:
        await reading.wait()
        return httpx.Response(200)

    async def upload(gate: Standing, raw: bytes) -> None:
        _, writer = await gate.connect()
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(raw)
        for _ in range(32):
            writer.write(piece)
            await writer.drain()

    piece = bytes(1 << 19)

    async def ask() -> int:
        async with standing(SuperLink([SITE], handler=never)) as gate:
            sent = [asyncio.create_task(upload(gate, SITE.head(32 << 19))) for _ in range(8)]
            await asyncio.wait(sent, timeout=0.5)
            assert not any(one.done() for one in sent)
            return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        assert asyncio.run(ask()) < 24 << 20  # of 128 MB; the senders' own buffers are in it
    finally:
        tracemalloc.stop()


def test_what_a_refused_sender_goes_on_to_send_is_thrown_away() -> None:
    """So that it gets the answer; not for ever."""
    limits = Limits(linger_seconds=0.2)

    async def ask() -> tuple[bytes, bool]:
        async with standing(SuperLink([SITE]), limits) as gate:
            reader, writer = await gate.connect()
            writer.write(Site().head(60 << 20) + bytes(4 << 20))
            await writer.drain()
            line = await reader.readline()
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(bytes(1 << 16))
                    await writer.drain()
                    await asyncio.sleep(0)
            return line.strip(), True

    assert asyncio.run(ask()) == (b"HTTP/1.1 404", True)


# --- limits ---


class Task:
    """In place of the task that serves a connection."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def connection(network: str) -> Connection:
    return Connection(network, Task())  # type: ignore[arg-type]


def test_the_oldest_stranger_of_the_most_crowded_network_gives_way() -> None:
    known = Connections(Limits(connections=8, strangers=4, strangers_per_network=3))
    site, *crowd = connection("s"), *(connection("a") for _ in range(3))
    assert all(known.admit(one) for one in (site, *crowd))
    assert known.recognise(site, b"key")
    other, another = connection("b"), connection("b")
    assert known.admit(other)
    assert [one.task.cancelled for one in crowd] == [False] * 3  # type: ignore[attr-defined]
    assert known.admit(another)
    assert [one.task.cancelled for one in crowd] == [True, False, False]  # type: ignore[attr-defined]
    assert (site in known.open, other in known.open, known.ended) == (True, True, 1)


def test_sites_are_never_closed_for_strangers_and_have_a_limit_of_their_own() -> None:
    known = Connections(Limits(connections=3, connections_per_key=2))
    own = [connection("s") for _ in range(3)]
    assert all(known.admit(one) for one in own)
    assert [known.recognise(one, b"key") for one in own] == [True, True, False]
    assert known.recognise(own[2], b"another")
    assert not known.admit(connection("x"))
    known.forget(own[0])
    assert known.admit(connection("x"))


def test_bytes_on_their_way_are_waited_for_and_given_back() -> None:
    async def order() -> list[str]:
        flying = FlyingBytes(Limits(flying_bytes=10, flying_bytes_per_key=6))
        done: list[str] = []

        async def send(name: str, key: bytes, size: int, until: asyncio.Event) -> None:
            async with flying.hold(key, size):
                done.append(name)
                await until.wait()

        first, others = asyncio.Event(), asyncio.Event()
        others.set()
        tasks = [
            asyncio.create_task(send("a", b"a", 6, first)),
            asyncio.create_task(send("a again", b"a", 1, others)),
            asyncio.create_task(send("b", b"b", 4, first)),
            asyncio.create_task(send("c", b"c", 5, others)),
        ]
        await asyncio.sleep(0)
        assert done == ["a", "b"]
        tasks[3].cancel()
        first.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with flying.hold(b"c", 6), flying.hold(b"a", 4):
            done.append("all given back")
        return done

    assert asyncio.run(order()) == ["a", "b", "a again", "all given back"]


def test_one_host_of_ipv6_is_one_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2") == "2001:db8::/64"
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("fe80::1%eth0") == "fe80::/64"
