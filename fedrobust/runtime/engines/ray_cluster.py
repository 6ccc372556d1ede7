"""Ray itself: what the machine can give, starting it quietly, and the process in which clients
live."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import secrets
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import ray
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services

from fedrobust.errors import ConfigError
from fedrobust.runtime.engines.client_runner import Answer, ClientRunner
from fedrobust.runtime.engines.resources import check_cpus
from fedrobust.utils.counting import format_count
from fedrobust.utils.notices import note
from fedrobust.utils.threads import threads_of_children

# of Ray 2.52 and later; None: this Ray has no tokens
TOKENS: Any = getattr(ray._raylet, "AuthenticationTokenLoader", None)
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # of a Unix socket's path, at most
PATIENCE_SECONDS = 10.0  # what workers that have just ended held comes back after a moment


@dataclass(frozen=True, slots=True)
class Workers:
    """Number of worker processes and the resources of each: `cpus` and `gpus` are what Ray counts
    (0.25: four share one GPU)."""

    number: int
    cpus: float
    gpus: float
    threads: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """The Ray that workers live in. address: None or "local" starts one of our own, "auto" or
    "host:port" joins one; cores: of this machine, for one of our own."""

    address: str | None = None
    cores: int = 1


@final
class Worker:
    """A long-lived process in which any client can answer; the app's caches stay in it."""

    def __init__(
        self,
        client_app: str,
        num_clients: int,
        node_config: Mapping[str, Any],
        threads: int,
        path: Sequence[str],
        *,
        crash_file: str,
    ) -> None:
        # another machine of a cluster does not have the server's folder
        with contextlib.suppress(OSError):
            # open as long as the process lives
            self._crash_file = open(crash_file, "w", encoding="utf-8")  # noqa: SIM115
            faulthandler.enable(self._crash_file)
        # The driver may run from a folder that is not installed; what it can import, its workers
        # can.
        sys.path.extend(folder for folder in path if folder not in sys.path)
        torch.set_num_threads(threads)
        self._clients = ClientRunner(client_app, num_clients, node_config)

    def ready(self) -> int:
        return os.getpid()

    def answer(
        self, message: Message, state: RecordDict | None, names: Sequence[str], *arrays: ArrayRecord
    ) -> Answer:
        """The client's answer to a message whose arrays came separately, as views into Ray's shared
        memory."""
        message.content.update(zip(names, arrays, strict=True))
        return self._clients.run(message, state)


def connect(cluster: Cluster, workers: Workers) -> bool:
    """Join the Ray, or start one here; True if it was started here and is ours to stop.

    What is missing is found out before anything starts: Ray itself would wait for ever.
    """
    if ray.is_initialized():
        _check_free(workers, "is free in the Ray that is running already")
        return False
    address = cluster.address
    if address is None or address == "local":
        check_socket_path()
        _check(
            workers, {"CPU": cluster.cores, "GPU": torch.cuda.device_count()}, "is on this machine"
        )
        with threads_of_children(workers.threads):
            _start_here(cluster.cores, math.ceil(workers.number * workers.gpus))
        return True
    try:
        found = _locate(address)
        _probe(found)
        _init(address=found)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise ConfigError(f"engine.address={address}: no Ray answers there ({reason})") from error
    try:
        _check_free(workers, "is free in the cluster")
    except ConfigError:
        disconnect()
        raise
    return True


def disconnect() -> None:
    """Stop the Ray that was started here, or leave the one that was joined."""
    ray.shutdown()
    _forget_token()


# Ray's workers are nice (15) by default, and starve beside anything else on the machine. And Ray
# frees unused memory once a second: at once is better, since memory used again costs a
# fifth of memory touched for the first time.
SYSTEM = {"worker_niceness": 0, "free_objects_period_milliseconds": 0}
LOOPBACK = "127.0.0.1"
LOCAL: Mapping[str, Any] = {
    "include_dashboard": False,
    "_node_ip_address": LOOPBACK,
    "_system_config": SYSTEM,
}
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_OURS: set[str] = set()  # variables of the environment that this process has set for its Ray


def _start_here(cores: int, gpus: int) -> None:
    """A Ray that only this machine reaches, and on it only whoever knows the token of this run:
    whoever reaches a Ray can have it run any program."""
    _draw_token()
    try:
        with _on_loopback():
            _init(address="local", num_cpus=cores, num_gpus=gpus, **LOCAL)
    except BaseException:
        disconnect()
        raise
    if ray.util.get_node_ip_address() != LOOPBACK:
        note("this version of Ray listens beyond 127.0.0.1; keep its ports closed")


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Where Ray may have clusters it takes the machine's address in the network in the place of
    127.0.0.1; then all its servers listen on every interface."""
    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _draw_token() -> None:
    """A new token for a Ray of our own, where this Ray has tokens and nobody has chosen a mode.
    Workers get it with the environment."""
    if TOKENS is None or MODE in os.environ:
        return
    for name, value in ((MODE, "token"), (TOKEN, secrets.token_hex(32))):
        if name not in os.environ:
            os.environ[name] = value
            _OURS.add(name)
    _read_environment()


def _forget_token() -> None:
    """A cluster that is joined later has another token, or none."""
    if not _OURS:
        return
    for name in _OURS:
        os.environ.pop(name, None)
    _OURS.clear()
    _read_environment()


def _read_environment() -> None:
    """Ray reads the variables RAY_AUTH_* when it is imported; here it reads them again."""
    TOKENS.instance().reset_cache()
    config: Any = ray._raylet
    config.Config.initialize("")


def check_socket_path() -> None:
    """The system limits the path of a socket, and Ray's lie deep in its temporary folder: refused
    before Ray starts its processes."""
    folder = get_default_ray_temp_dir()
    # the session's name holds the time to the microsecond and the process id
    session = f"session_0000-00-00_00-00-00_000000_{os.getpid()}"
    excess = len(os.fsencode(f"{folder}/{session}/sockets/plasma_store")) - SOCKET_BYTES
    if excess > 0:
        name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
        raise ConfigError(
            f"{name}={os.environ.get(name, folder)}: {format_count(excess, 'byte')} too long for "
            "the sockets of Ray; set RAY_TMPDIR to a shorter folder, e.g. RAY_TMPDIR=/tmp, or use "
            "engine=inline"
        )


def _init(**settings: Any) -> None:
    # Hospitals' machines send no statistics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        # Ray announces that workers without GPUs will see all GPUs one day; today they see none,
        # which is wanted.
        warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    # Of a worker's death Ray still prints a paragraph between our lines; what it means for a client
    # is in the reply or logged here.
    ray._private.worker._worker_logs_enabled = False


def _locate(address: str) -> str:
    """The host:port of a cluster; "auto" is the one that Ray itself would take: $RAY_ADDRESS, else
    the last that was started here.

    Raises ConnectionError where there is none.
    """
    return str(services.canonicalize_bootstrap_address(address)) if address == "auto" else address


def _probe(address: str) -> None:
    """Ray tries for minutes to reach a host that does not answer, such as a cluster that has ended;
    a plain connection knows at once."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"{address}: {error.strerror or error}") from error


def _check_free(workers: Workers, where: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return _check(workers, ray.available_resources(), where)
        except ConfigError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _check(workers: Workers, available: Mapping[str, float], where: str) -> None:
    cpus, gpus = available.get("CPU", 0), available.get("GPU", 0)
    check_cpus(workers.number, workers.cpus, cpus, where)
    # Ray packs fractions into whole GPUs: with 0.4 each, two fit into one.
    room = (
        gpus * int(1 / workers.gpus + 1e-9)
        if 0 < workers.gpus < 1
        else gpus // max(workers.gpus, 1)
    )
    if workers.gpus > 0 and workers.number > room:
        raise ConfigError(
            f"engine.gpus_per_worker={workers.gpus:g}: {workers.number} x {workers.gpus:g} "
            f"GPUs wanted, {gpus:g} {where}; try engine.gpus_per_worker={gpus / workers.number:g}"
        )
