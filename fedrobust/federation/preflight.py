"""Is this node ready? Every check gives one line; none of them changes anything, and no image
leaves the machine."""

from __future__ import annotations

import platform
import shutil
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPSConnection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fedrobust.data import SPLITS, Dataset, cache
from fedrobust.data.partition import class_table
from fedrobust.errors import FedrobustError
from fedrobust.experiment import factories
from fedrobust.federation.flower_commands import Link, Scalar
from fedrobust.runtime.client.own_weights import WEIGHTS, describe_own_weights
from fedrobust.runtime.client.site_config import (
    CLASSES,
    join_classes,
    listed_classes,
    node_plugins,
    own_data,
)
from fedrobust.utils import devices
from fedrobust.utils.counting import format_count
from fedrobust.utils.plugins import PLUGINS

FLOWER = ("1.41.", "1.42.")  # the versions that pyproject.toml allows
# by how much clocks may differ: Flower takes no request that is signed 5 s in the future
CLOCK_SECONDS = 4.0
ROOM = 2 * 2**30  # bytes: models, apps and decoded images
PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check. ok: None for information only."""

    what: str
    ok: bool | None
    text: str

    def __str__(self) -> str:
        return f"{ {True: 'ok  ', False: 'FAIL', None: 'note'}[self.ok] } {self.what}: {self.text}"


def run_checks(
    link: Link | None, node: Mapping[str, Scalar], classes: Sequence[str], size: int
) -> Iterator[CheckResult]:
    """All checks of a node. link: where the server is (None: not asked). classes, size: those of
    the planned run; no classes: any."""
    yield from versions()
    yield CheckResult("device", None, devices.device_name(devices.resolve("auto")))
    yield from disk_space()
    yield from data(node, classes, size)
    yield from weights(node)
    if link is not None:
        yield from connection(link)


def versions() -> Iterator[CheckResult]:
    """Python and the packages that a run needs."""
    yield CheckResult("python", None, platform.python_version())
    for name in ("flwr", "torch", "fedrobust"):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield CheckResult(name, False, "is not installed; pip install fedrobust")
            continue
        right = name != "flwr" or found.startswith(FLOWER)
        yield CheckResult(
            name, right, found if right else f"{found}; needed is {' or '.join(FLOWER)}x"
        )


def disk_space() -> Iterator[CheckResult]:
    """Free space where decoded images are kept."""
    folder = cache.folder()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    yield CheckResult(
        "disk",
        free >= ROOM,
        f"{free / 2**30:.1f} GB free for {folder}; {ROOM / 2**30:.0f} are needed",
    )


def data(node: Mapping[str, Scalar], classes: Sequence[str], size: int) -> Iterator[CheckResult]:
    """Every image of the node's data is read once; its classes and splits are counted."""
    try:
        wanted = tuple(classes) or listed_classes(node)
        settings = own_data(node, size=size, classes=wanted)
        group = {"data": settings, PLUGINS: node_plugins(node)}
        dataset = factories.build_group(group, "data").load()
    except FedrobustError as error:
        yield CheckResult("data", False, str(error))
        return
    known = wanted in ((), dataset.class_names)
    names, run = ", ".join(dataset.class_names), join_classes(wanted)
    quote = "'" if '"' in run else '"'
    listed = f"{CLASSES}={quote}{run}{quote}"
    text = f"{names}; the run has others: {listed}, where the labels are a part of these"
    yield CheckResult("labels", known, names if known else text)
    found = f"{format_count(len(dataset), 'image')} readable{_left_out(dataset)}"
    yield CheckResult("data", True, "; ".join((found, *dataset.notes)))
    for split, word in enumerate(SPLITS):
        counts = class_table(dataset, [torch.arange(len(dataset))], split)[0].tolist()
        text = ", ".join(
            f"{name} {count}" for name, count in zip(dataset.class_names, counts, strict=True)
        )
        yield CheckResult(word, sum(counts) > 0, text)


def weights(node: Mapping[str, Scalar]) -> Iterator[CheckResult]:
    """The node's own copy of pretrained weights, where its configuration names one."""
    if WEIGHTS in node:
        try:
            yield CheckResult(WEIGHTS, True, describe_own_weights(node))
        except FedrobustError as error:
            yield CheckResult(WEIGHTS, False, str(error))


def _left_out(dataset: Dataset) -> str:
    if not dataset.skipped:
        return ""
    name, reason = next(iter(dataset.skipped.items()))
    files = format_count(len(dataset.skipped), "file")
    return f", {files} left out, the first is {name} ({reason})"


def connection(link: Link) -> Iterator[CheckResult]:
    """The server's name, its certificate and its clock."""
    try:
        with socket.create_connection((link.host, link.port), timeout=PATIENCE):
            yield CheckResult("connection", True, f"{link.address} answers")
    except OSError as error:
        yield CheckResult(
            "connection",
            False,
            f"{link.address} cannot be reached ({error}); is the server up, and the "
            "port open in both firewalls?",
        )
        return
    if link.ca is None:
        yield CheckResult(
            "TLS",
            False,
            "no certificate of the authority was given (--root-certificates), so "
            "nothing is encrypted or verified",
        )
        return
    try:
        told = _date(link, link.ca)
    except ssl.SSLError as error:
        yield CheckResult(
            "TLS",
            False,
            f"the certificate is not accepted ({error.reason or error}); is {link.ca} "
            "the consortium's?",
        )
    except OSError as error:
        yield CheckResult("TLS", False, f"no answer over TLS ({error})")
    else:
        yield CheckResult("TLS", True, f"certificate verified for {link.host}")
        if told is None:
            yield CheckResult("clock", None, "the server does not tell the time")
        else:
            gap = abs(told - time.time())
            yield CheckResult(
                "clock",
                gap <= CLOCK_SECONDS,
                f"differs from the server's by {gap:.0f} s, at most "
                f"{CLOCK_SECONDS:.0f} s may be; NTP keeps it right",
            )


def _date(link: Link, ca: Path) -> float | None:
    """The server's time in seconds, as its HTTP answers give it."""
    web = HTTPSConnection(
        link.host, link.port, timeout=PATIENCE, context=ssl.create_default_context(cafile=str(ca))
    )
    try:
        web.request("GET", "/")
        date = web.getresponse().getheader("Date")
        return None if date is None else parsedate_to_datetime(date).timestamp()
    finally:
        web.close()
