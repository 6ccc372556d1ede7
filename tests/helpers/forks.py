"""Python programs as forks of a process that has loaded the large libraries already: a program that
does little starts in a tenth of the time, and is the same program with its own modules. Nodes that
wait for messages look twice a second instead of every three seconds.

`fork_programs` puts commands of the programs' names first in PATH. Each hands its words, folder,
environment and standard streams to the server, `python -m tests.helpers.forks SOCKET`, and ends as
its fork does; where it is killed, its fork is.
"""

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

from tests.helpers.processes import wait_until

# Not fedrobust, which the programs take from Flower's bundle. Nothing of Flower reads FLWR_HOME
# when it is loaded.
LIBRARIES = (
    *("numpy", "scipy.stats", "sklearn.metrics", "pandas", "PIL.Image", "torch", "torchvision"),
    *("timm", "pydantic", "flwr.clientapp", "flwr.serverapp"),
    *("flwr.cli.app", "flwr.supernode.cli", "flwr.superlink.cli"),
)
FLOWER = ("flwr", "flwr-clientapp", "flwr-serverapp")
SERVER = "FEDROBUST_FORKS"
STREAMS = 3
LONGEST_PAUSE = 0.5
COMMAND = f"""#!{sys.executable} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ[{SERVER!r}])
    task = [sys.argv, os.getcwd(), dict(os.environ)]
    streams = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", range({STREAMS})))
    text = json.dumps(task).encode()
    server.sendmsg([len(text).to_bytes(8, "big")], [streams])
    server.sendall(text)
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""


@contextlib.contextmanager
def fork_programs(environment, names=FLOWER):
    """While it lasts, programs with this environment (a dictionary, which is changed) find the
    named ones as forks."""
    with tempfile.TemporaryDirectory(prefix="forks-") as folder:  # short, as a socket's path is
        path = Path(folder, "socket")
        for name in names:
            command = Path(folder, name)
            command.write_text(COMMAND)
            command.chmod(0o755)
        environment |= {SERVER: str(path), "PATH": f"{folder}{os.pathsep}{environment['PATH']}"}
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(path)],
            cwd=Path(__file__).parents[2],
            env=environment,
            start_new_session=True,
        )
        try:
            wait_until(path.exists)
            yield
        finally:
            server.kill()
            server.wait()


def serve(path):
    """Fork at every connection; returns in the fork only, with its connection."""
    for name in LIBRARIES:
        import_module(name)
    hurry_nodes()
    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".new")
    server.listen(64)
    Path(path + ".new").rename(path)
    while True:
        connection, _ = server.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # forks that have ended
                pass
        if os.fork() == 0:
            server.close()
            return connection
        connection.close()


def hurry_nodes():
    """The time module as Flower's nodes see it has shorter pauses."""
    node = import_module("flwr.supernode.start_client_internal")

    def sleep(seconds):
        time.sleep(min(seconds, LONGEST_PAUSE))

    node.time = SimpleNamespace(**{**vars(time), "sleep": sleep})


def become(connection):
    """Words, folder, environment and streams of the command at the other end of the connection; its
    program's function."""
    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(STREAMS * 4))
    streams = array.array("i", ancillary[0][2])
    text, left = b"", int.from_bytes(size, "big")
    while len(text) < left:
        text += connection.recv(left - len(text))
    sys.argv, folder, environment = json.loads(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = str(Path(sys.executable).parent)  # as of a program that was started itself
    (entry,) = entry_points(group="console_scripts", name=Path(sys.argv[0]).name)
    return entry.load()


def die_with(connection):
    """Where the command at the other end of the connection was killed."""
    if not connection.recv(1):
        os.kill(os.getpid(), signal.SIGKILL)


def main():
    connection = serve(sys.argv[1])
    code = 1
    try:
        program = become(connection)
        threading.Thread(target=die_with, args=[connection], daemon=True).start()
        code = program() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    finally:
        with contextlib.suppress(OSError):  # whoever started it may have ended
            connection.sendall(bytes([code & 255]))
    sys.exit(code)


if __name__ == "__main__":
    main()
