"""A whole federation on this machine, over loopback, with TLS and node authentication: for the demo
and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, final

from fedrobust.federation import certificates, flower_commands
from fedrobust.federation.flower_commands import CONNECTION, HOST, Link, Scalar
from fedrobust.federation.operator import ROOT, Operator
from fedrobust.federation.processes import Processes, free_ports, wait_for_port

START_SECONDS = 120.0  # for a SuperLink on a busy machine; 3-5 s on a free one


@final
class LocalFederation:
    """One SuperLink, its gate and a SuperNode per site, all below `folder`; nothing of it is left
    when the `with` ends.

    sites: the node config of each by name. secure: TLS and registered keys. threads: of torch in
    every process. The server's output folders lie below `server`; `operator` starts runs.
    """

    def __init__(
        self,
        folder: Path,
        sites: Mapping[str, Mapping[str, Scalar]],
        *,
        secure: bool = True,
        threads: int = 1,
    ) -> None:
        self.folder, self.sites, self._secure = folder.absolute(), dict(sites), secure
        self.server = self.folder / "server"
        quick = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2", "OMP_NUM_THREADS": str(threads)}
        self.processes = Processes(self.folder / "logs", {**flower_commands.QUIET, **quick})
        self.operator = Operator(self.processes, self.folder / "operator")
        port, gate, *self._ports = free_ports(2 + len(self.sites))
        ca = self.server / certificates.CA_CERTIFICATE if secure else None
        self.inner = Link(HOST, port, ca)
        self.link = Link(HOST, gate, ca) if secure else self.inner

    def __enter__(self) -> Self:
        self.processes.__enter__()
        try:
            self._prepare()
            self.start_superlink()
            if self._secure:
                self.start_gateway()
            for name in self.sites:
                self.register(name)
                self.start_site(name)
        except BaseException:
            self.processes.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.processes.close()

    def start_superlink(self) -> None:
        """Start the server and wait until it listens."""
        self.processes.start(
            "superlink",
            flower_commands.superlink(self.inner, self.server),
            self.server,
            FLWR_HOME=str(self.server / "home"),
        )
        wait_for_port(HOST, self.inner.port, self.processes, "superlink", START_SECONDS)

    def start_gateway(self) -> None:
        """Start what the sites connect to."""
        self.processes.start(
            "gate", flower_commands.gateway(self.link, self.inner, self.server, HOST), ROOT
        )
        wait_for_port(HOST, self.link.port, self.processes, "gate", START_SECONDS)

    def register(self, name: str) -> None:
        """Tell the server the site's public key."""
        if self._secure:
            public = self.folder / name / certificates.SITE_PUBLIC
            self.operator.flwr("supernode", "register", str(public), CONNECTION, "--name", name)

    def start_site(self, name: str, **node: Scalar) -> None:
        """Start a site's node; more settings for its config may be given."""
        folder = self.folder / name
        port = self._ports[list(self.sites).index(name)]
        command = flower_commands.supernode(self.link, folder, {**self.sites[name], **node}, port)
        self.processes.start(name, command, folder, FLWR_HOME=str(folder / "home"))

    def _prepare(self) -> None:
        self.operator.home.mkdir(parents=True)
        (self.operator.home / "config.toml").write_text(
            flower_commands.connection(self.inner), encoding="utf-8"
        )
        if self._secure:
            certificates.make_certificate_authority(self.server)
            certificates.make_server_certificate(self.server, self.server, ["localhost", HOST])
            for name in self.sites:
                certificates.make_site_certificate(self.folder / name, name)
