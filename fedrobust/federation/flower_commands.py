"""The commands that start the processes of a federation, as lists of words: for scripts, for
systemd, for the local demo alike."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrobust.errors import ConfigError
from fedrobust.federation import certificates
from fedrobust.utils.names import shown_name

Scalar = str | int | float | bool
# What Flower would otherwise send home or fetch by itself; hospitals' firewalls would only make it
# wait.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
HOST = "127.0.0.1"
CONNECTION = "federation"  # the name of the server in the configuration of the command flwr
PORT = 8000
PACKED = "base64:"  # begins words that Flower could not pass on as they are


@dataclass(frozen=True, slots=True)
class Link:
    """Address of the SuperLink: host and port as the others reach it. ca: the authority's
    certificate; None: no TLS, no keys."""

    host: str
    port: int
    ca: Path | None

    @property
    def inner(self) -> Link:
        """Address of the SuperLink itself behind its gate: on the loopback interface of its
        machine, with the same certificate."""
        return Link("localhost", PORT, self.ca)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def superlink(link: Link, folder: Path) -> list[str]:
    """The server's process, on the loopback interface. folder: holds its certificate and key and
    gets its database."""
    words = [
        "flower-superlink",
        "--disable-runtime-dependency-installation",
        "--host",
        HOST,
        "--port",
        str(link.port),
    ]
    words += ["--database", str(folder / "state.db")]
    if link.ca is None:
        return [*words, "--insecure"]
    files = {
        "--ssl-ca-certfile": link.ca,
        "--ssl-certfile": folder / certificates.SERVER_CERTIFICATE,
        "--ssl-keyfile": folder / certificates.SERVER_KEY,
    }
    return [
        *words,
        "--enable-supernode-auth",
        *(str(word) for pair in files.items() for word in pair),
    ]


def gateway(outer: Link, inner: Link, folder: Path, listen: str) -> list[str]:
    """The process between the network and the SuperLink. listen: the address to bind."""
    words = [
        "python",
        "-m",
        "fedrobust.federation",
        "gate",
        str(folder),
        "--superlink",
        outer.address,
        "--listen",
        listen,
    ]
    return [*words, "--inner", inner.address]


def supernode(link: Link, folder: Path, node: Mapping[str, Scalar], port: int) -> list[str]:
    """A site's process. folder: holds its key. node: its node config. port: free at the site, for
    its own helpers only."""
    words = [
        "flower-supernode",
        "--superlink",
        link.address,
        "--host",
        HOST,
        "--port",
        str(port),
        "--node-config",
        node_config(node),
    ]
    if link.ca is None:
        return [*words, "--insecure"]
    return [
        *words,
        "--root-certificates",
        str(link.ca),
        "--auth-supernode-private-key",
        str(folder / certificates.SITE_KEY),
    ]


def node_config(node: Mapping[str, Scalar]) -> str:
    """Settings as Flower reads them: key=value separated by blanks, texts in quotes. Raises
    ConfigError for what it cannot read."""
    return " ".join(f"{key}={_value(key, value)}" for key, value in node.items())


def _value(key: str, value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    plain = '"' not in value and "\\" not in value
    if not value.isprintable() or ("'" in value and not plain):
        raise ConfigError(
            f"{key}={shown_name(value)}: control characters, and ' together with \" or a "
            "backslash, cannot be passed on to Flower; rename it"
        )
    return f'"{value}"' if plain else f"'{value}'"


def pack_words(words: Sequence[str]) -> str:
    """Hydra words as one text that Flower passes on: separated by blanks, or in base64 where one
    holds a blank, a quote or a backslash."""
    plain = " ".join(words)
    if not re.search(r"""['"\\]""", plain) and plain.split() == list(words):
        return plain
    return PACKED + base64.urlsafe_b64encode(json.dumps(list(words)).encode()).decode()


def unpack_words(text: str) -> list[str]:
    """The words of `pack_words`, or those that somebody typed as for a shell. Raises
    ConfigError."""
    try:
        if text.startswith(PACKED):
            return [str(word) for word in json.loads(base64.urlsafe_b64decode(text[len(PACKED) :]))]
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(
            f"overrides={text}: cannot be read ({error}); each quote needs its second one"
        ) from error


def connection(link: Link) -> str:
    """The text of config.toml in FLWR_HOME, by which the command flwr finds the server."""
    lines = [
        "[superlink]",
        f'default = "{CONNECTION}"',
        "",
        f"[superlink.{CONNECTION}]",
        f"address = {json.dumps(link.address)}",
    ]
    return "\n".join(
        [
            *lines,
            "insecure = true"
            if link.ca is None
            else f"root-certificates = {json.dumps(str(link.ca))}",
            "",
        ]
    )
