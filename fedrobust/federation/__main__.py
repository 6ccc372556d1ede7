"""`python -m fedrobust.federation <command>`: everything around a federation of real sites but
Flower's own processes.

Exit codes: 0 done, 1 the run or a check failed, 2 wrong input, 130 interrupted. docs/federation.md
is the runbook.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment.run_options import split_quiet
from fedrobust.federation import certificates, flower_commands, start_scripts
from fedrobust.federation.flower_commands import Link, Scalar
from fedrobust.utils.cli import called_as, run_command
from fedrobust.utils.counting import format_count
from fedrobust.utils.machine import version_line

A_DAY = 86400.0


def _keys(asked: argparse.Namespace) -> None:
    folder: Path = asked.folder.absolute()
    if asked.site:
        certificates.make_site_certificate(folder, asked.site)
        print(
            f"{folder / certificates.SITE_KEY}: secret, stays at the site\n"
            f"{folder / certificates.SITE_PUBLIC}: send it to the server's administrator"
        )
        return
    if not (folder / certificates.CA_CERTIFICATE).exists():
        certificates.make_certificate_authority(folder)
    certificates.make_server_certificate(
        folder,
        folder,
        [*asked.host, *(host for host in ("localhost", "127.0.0.1") if host not in asked.host)],
    )
    print(
        f"{folder / certificates.CA_CERTIFICATE}: send it to every "
        f"site\n{folder}/*.key: secret, stay here"
    )


def _commands(asked: argparse.Namespace) -> None:
    folder = asked.folder.absolute()
    link = _link(asked.superlink, folder / certificates.CA_CERTIFICATE)
    written = (
        start_scripts.write_site(folder, link, _node(asked.words), asked.port)
        if asked.words
        else start_scripts.write_server(folder, link)
    )
    print("\n".join(str(path) for path in written))


def _gateway(asked: argparse.Namespace) -> None:
    from fedrobust.federation.gateway import serve

    folder = asked.folder.absolute()
    ca = folder / certificates.CA_CERTIFICATE
    serve(folder, _link(asked.superlink, ca), _link(asked.inner, ca), asked.listen)


def _check(asked: argparse.Namespace) -> None:
    from fedrobust.federation.preflight import run_checks
    from fedrobust.runtime.client.site_config import split_classes

    link = None if asked.superlink is None else _link(asked.superlink, asked.root_certificates)
    failed = 0
    for finding in run_checks(link, _node(asked.words), split_classes(asked.classes), asked.size):
        wrong = finding.ok is False
        if wrong or not asked.quiet:
            print(finding, flush=True)
        failed += wrong
    if failed:
        raise RunError(f"{format_count(failed, 'check')} failed")
    if asked.quiet:
        print("no check failed")


def _demo(asked: argparse.Namespace) -> None:
    from fedrobust.federation.demo import demo

    data = [word for word in asked.words if word.startswith(("data=", "data."))]
    settings = [word for word in asked.words if word not in data]
    place = demo(asked.folder, settings, data, asked.seconds, quiet=asked.quiet)
    print(f"report: {place / 'report.html'}")


def _run(asked: argparse.Namespace) -> None:
    from fedrobust.federation.operator import Operator
    from fedrobust.federation.processes import Processes

    settings: dict[str, Scalar] = {
        key: value for key in ("sites", "folder", "resume") if (value := getattr(asked, key, ""))
    }
    home = (asked.home or Path.home() / ".flwr").absolute()
    with Processes(home / "logs", flower_commands.QUIET) as processes:
        operator = Operator(processes, home, asked.connection)
        run = (
            asked.run
            if asked.command == "follow"
            else operator.submit(asked.words, wait=asked.wait, **settings)
        )
        if not asked.quiet:
            print(
                f"run {run}; it continues when this command is stopped; show it with: follow {run}",
                flush=True,
            )
        operator.follow(run, asked.seconds, quiet=asked.quiet)
    print(f"run {run}: finished:completed")


def _link(address: str, ca: Path | None) -> Link:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"superlink={address}: must be host:port, as the sites reach the server")
    return Link(host, int(port), None if ca is None else ca.absolute())


def _node(words: Sequence[str]) -> dict[str, Scalar]:
    """key=value words as a node config: whole numbers and true/false as such, everything else as
    text."""
    node: dict[str, Scalar] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"{word}: must be key=value, e.g. data-root=/data/derm")
        node[key] = {"true": True, "false": False}.get(
            text, int(text) if text.isdecimal() else text
        )
    return node


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        help="name or address under which the sites reach the server; repeatable",
    )
    parser.add_argument("--site", default="", help="the site's name: make its key pair instead")


def _add_commands(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the folder that holds its keys and ca.crt")
    _add_superlink(parser)
    parser.add_argument(
        "--port",
        type=int,
        default=9094,
        help="of a site: a free local port for its own helper processes",
    )
    _add_words(
        parser,
        "of a site: its node config, e.g. site=rosendahl data-root=/data data-format=image_folder",
    )


def _add_gateway(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the server's folder")
    _add_superlink(parser)
    parser.add_argument(
        "--inner", default=f"localhost:{flower_commands.PORT}", help="where the SuperLink listens"
    )
    parser.add_argument("--listen", default=start_scripts.EVERYWHERE, help="the address to bind")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--superlink", help="host:port; left out: the connection is not checked")
    parser.add_argument("--root-certificates", type=Path, help="ca.crt of the consortium")
    parser.add_argument(
        "--classes",
        default="",
        help="the classes of the planned run in their order, separated by commas, or a JSON list",
    )
    parser.add_argument(
        "--size", type=int, default=64, help="side of the images in pixels in the planned run"
    )
    _add_words(
        parser, "the node config, e.g. site=rosendahl data-root=/data data-format=image_folder"
    )


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a new folder for everything")
    _add_seconds(parser, A_DAY, "give up after so many seconds")
    _add_words(
        parser,
        "Hydra words, e.g. data=ham10000 data.root=/data/ham10000 model=resnet50 rounds=1",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_following(parser)
    parser.add_argument(
        "--wait", type=int, default=120, help="seconds to wait for the sites to connect"
    )
    parser.add_argument(
        "--sites",
        default="",
        help="names of the sites that take part, separated by blanks; their order is their number",
    )
    parser.add_argument("--folder", default="", help="the output folder on the server")
    parser.add_argument(
        "--resume", default="", help="the output folder of an interrupted run: resume it"
    )
    _add_words(
        parser, "Hydra words, e.g. num_clients=3 data=npz data.path=/srv/reference.npz rounds=10"
    )


def _add_follow(parser: argparse.ArgumentParser) -> None:
    _add_following(parser)
    parser.add_argument("run")


def _add_following(parser: argparse.ArgumentParser) -> None:
    named = os.environ.get("FLWR_HOME")
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(named) if named else None,
        help="the folder of flwr's config.toml (FLWR_HOME, else ~/.flwr)",
    )
    parser.add_argument(
        "--connection", default=flower_commands.CONNECTION, help="the server's name in there"
    )
    _add_seconds(parser, 30 * A_DAY, "give up following after so many seconds")


def _add_superlink(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--superlink", required=True, help="host:port under which the sites reach the server"
    )


def _add_seconds(parser: argparse.ArgumentParser, default: float, text: str) -> None:
    parser.add_argument("--seconds", type=float, default=default, help=text)


def _add_words(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("words", nargs="*", help=text)


class _Command(NamedTuple):
    """A subcommand: what it does, its arguments, and its line of help."""

    do: Callable[[argparse.Namespace], None]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    text: str


COMMANDS = {
    "keys": _Command(
        _keys,
        _add_keys,
        "make the server's certificate (and the consortium's authority), or a site's key pair",
    ),
    "commands": _Command(
        _commands,
        _add_commands,
        "write start script, systemd unit and compose file of the server, or of a site",
    ),
    "gate": _Command(
        _gateway,
        _add_gateway,
        "stand between the network and the SuperLink: only requests of SuperNodes pass",
    ),
    "check": _Command(
        _check,
        _add_check,
        "is this node ready? data, labels, versions, device, disk, connection, clock",
    ),
    "demo": _Command(
        _demo,
        _add_demo,
        "three hospitals on this machine, with TLS and registered keys, from nothing to the report",
    ),
    "run": _Command(
        _run,
        _add_run,
        "start a run and follow it to its end; exit code 0 only if it was completed",
    ),
    "follow": _Command(
        _run, _add_follow, "follow a run to its end; exit code 0 only if it was completed"
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=called_as("federation"),
        description="Helpers for a federation of real sites. quiet=true: errors and the last line "
        "only.",
    )
    parser.add_argument("--version", action="version", version=version_line())
    added = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        one = added.add_parser(name, help=command.text, description=command.text)
        one.set_defaults(do=command.do)
        command.add_arguments(one)
    return parser


def parse_command_line(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; key=value words may stand before, between and after options."""
    parser = _parser()
    asked, rest = parser.parse_known_args(words)
    if any(word.startswith("-") for word in rest) or (rest and "words" not in asked):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        asked.words = [*asked.words, *rest]
    return asked


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""

    def action() -> None:
        quiet, others = split_quiet(sys.argv[1:] if words is None else words)
        asked = parse_command_line(others)
        asked.quiet = quiet
        asked.do(asked)

    return run_command(action)


if __name__ == "__main__":
    sys.exit(main())
