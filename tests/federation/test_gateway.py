"""Requests that pass the gate and requests that do not, with a made-up SuperLink behind it."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from fedrobust.federation import gateway
from fedrobust.federation.gateway import Gateway


def through(
    method: str, url: str, upstream: httpx.MockTransport, **keywords: object
) -> httpx.Response:
    async def one() -> httpx.Response:
        async with httpx.AsyncClient(base_url="https://inside", transport=upstream) as inner:
            transport = httpx.ASGITransport(Gateway(inner))
            async with httpx.AsyncClient(transport=transport, base_url="https://outside") as outer:
                return await outer.request(method, url, **keywords)

    return asyncio.run(one())


def echo(request: httpx.Request) -> httpx.Response:
    headers = {
        "x-seen": request.headers.get("x-signature", ""),
        "content-type": "application/protobuf",
        "connection": "close",
    }
    return httpx.Response(
        201, content=request.url.path.encode() + b":" + request.read(), headers=headers
    )


def test_a_node_s_request_passes_whole_and_so_does_its_answer() -> None:
    body = bytes(range(256)) * 1000
    reply = through(
        "POST",
        "/v1/fleet/push-object",
        httpx.MockTransport(echo),
        content=body,
        headers={"x-signature": "signed"},
    )
    assert (reply.status_code, reply.headers["x-seen"], reply.headers["content-type"]) == (
        201,
        "signed",
        "application/protobuf",
    )
    assert reply.content == b"/v1/fleet/push-object:" + body
    assert "connection" not in reply.headers


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
        ("POST", "/v1/fleet/"),
        ("GET", "/v1/fleet/pull-messages"),
        ("GET", "/docs"),
    ],
)
def test_nothing_else_passes(method: str, url: str) -> None:
    def never(request: httpx.Request) -> httpx.Response:
        raise AssertionError(request.url)

    assert through(method, url, httpx.MockTransport(never)).status_code == 403


def test_a_body_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MOST_BYTES", 1000)
    assert (
        through(
            "POST", "/v1/fleet/push-object", httpx.MockTransport(echo), content=bytes(1001)
        ).status_code
        == 413
    )
    assert (
        through(
            "POST", "/v1/fleet/push-object", httpx.MockTransport(echo), content=bytes(1000)
        ).status_code
        == 201
    )


def test_a_superlink_that_is_down() -> None:
    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert through("POST", "/v1/fleet/pull-messages", httpx.MockTransport(down)).status_code == 502
