"""Start scripts, systemd units and compose files, for the server and for a site; text only, nothing
is started here."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedrobust.errors import ConfigError
from fedrobust.federation import flower_commands
from fedrobust.federation.flower_commands import Link, Scalar

EVERYWHERE = "0.0.0.0"


def write_server(folder: Path, link: Link) -> list[Path]:
    """Write into the server's folder, which holds its certificate and key: start scripts and
    systemd units of the SuperLink, which listens on the loopback interface, and of its gate, which
    listens to the network; a compose file of both; operator/config.toml."""
    programs = {
        "superlink": flower_commands.superlink(link.inner, folder),
        "gate": flower_commands.gateway(link, link.inner, folder, EVERYWHERE),
    }
    written = [
        path for name, command in programs.items() for path in _start_files(folder, name, command)
    ]
    operator = _write(folder / "operator" / "config.toml", flower_commands.connection(link.inner))
    return [*written, _write(folder / "compose.yaml", _compose(folder, programs)), operator]


def write_site(folder: Path, link: Link, node: Mapping[str, Scalar], port: int) -> list[Path]:
    """Write into a site's folder, which holds its key and ca.crt: start script, systemd unit and
    compose file of its SuperNode."""
    command = flower_commands.supernode(link, folder, node, port)
    mounts = [str(node["data-root"])] if "data-root" in node else []
    compose = _compose(folder, {"supernode": command}, mounts)
    return [*_start_files(folder, "supernode", command), _write(folder / "compose.yaml", compose)]


def _start_files(folder: Path, name: str, command: Sequence[str]) -> list[Path]:
    beside = Path(sys.executable).parent
    settings = {
        **flower_commands.QUIET,
        "FLWR_HOME": str(folder / "home"),
        "PATH": f"{beside}:/usr/local/bin:/usr/bin:/bin",
    }
    lines = [
        "#!/bin/sh",
        *(f"export {key}={shlex.quote(value)}" for key, value in settings.items()),
    ]
    lines += [
        f"cd {shlex.quote(str(folder))} || exit 1",
        f"exec {shlex.join([str(beside / command[0]), *command[1:]])}",
        "",
    ]
    script = _write(folder / f"{name}.sh", "\n".join(lines))
    script.chmod(0o755)
    return [
        script,
        _write(folder / f"{name}.service", _unit(script, f"fedrobust federation: {name}")),
    ]


def _unit(script: Path, title: str) -> str:
    program = str(script).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f"""[Unit]
Description={title}
Wants=network-online.target
After=network-online.target

[Service]
ExecStart="{program}"
Restart=on-failure
RestartSec=10
# set User= to an account that owns this folder and may read the images
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


def _compose(
    folder: Path, programs: Mapping[str, Sequence[str]], mounts: Sequence[str] = ()
) -> str:
    """One service a program, of an image that holds fedrobust; the files lie where they lie here,
    the network is the host's."""
    environment = {
        **flower_commands.QUIET,
        "FLWR_HOME": str(folder / "home"),
        "FEDROBUST_CACHE": str(folder / "cache"),
    }
    common = {
        "image": "fedrobust:latest",
        "environment": environment,
        "user": f"{os.getuid()}:{os.getgid()}",
        "network_mode": "host",
        "restart": "on-failure",
        "volumes": [f"{folder}:{folder}", *(f"{mount}:{mount}:ro" for mount in mounts)],
        "working_dir": str(folder),
    }
    services = {name: {**common, "command": list(command)} for name, command in programs.items()}
    # JSON is YAML; Compose would put in what $NAME holds
    return json.dumps({"services": services}, indent=2).replace("$", "$$") + "\n"


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise ConfigError(
            f"{path}: exists already and was left alone; move it away to have it written anew"
        )
    path.write_text(text, encoding="utf-8")
    return path
