"""Pretrained weights: from the hub, or at once from its cache where the hub cannot be reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

PATIENCE_SECONDS = 5.0  # for a connection; the hub's own client tries for a minute


@contextmanager
def prefer_cache_if_offline() -> Iterator[str]:
    """Inside, the hub's client looks into its cache alone if there is no connection to the hub.
    Gives the reason why there is none, or ""."""
    before = constants.HF_HUB_OFFLINE
    reason = "HF_HUB_OFFLINE is set" if before else _unreachable(_first_hop(constants.ENDPOINT))
    constants.HF_HUB_OFFLINE = before or bool(reason)
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = before


def _first_hop(address: str) -> str:
    """The address to which a request for this address connects: its proxy, or itself."""
    return getproxies().get(urlsplit(address).scheme, address)


def _unreachable(address: str) -> str:
    """Why no connection to the host of an address can be made, or ""."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=PATIENCE_SECONDS).close()
    except OSError as error:
        return f"no connection to {parts.hostname}: {error.strerror or error}"
    return ""
