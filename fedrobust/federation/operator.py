"""The administrator's side of a run: start it, follow it, learn how it really ended (`flwr run`
ends with 0 even if it failed)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrobust.errors import ConfigError, RunError
from fedrobust.federation.flower_commands import CONNECTION, Scalar, node_config, pack_words
from fedrobust.federation.processes import Processes

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 120.0
POLL_SECONDS = 3.0
# between two looks at a run whose log is shown and ends with it: each look is a process that works
# for seconds
LOOK_SECONDS = 30.0
LOG_SECONDS = 10.0  # for the rest of a log after the run's end
COMPLETED = "finished:completed"


@dataclass(frozen=True)
class Operator:
    """The command flwr. processes: the runner of programs; home: the folder of its config.toml;
    connection: a name in there."""

    processes: Processes
    home: Path
    connection: str = CONNECTION

    def flwr(self, *words: str) -> str:
        """Output of `flwr <words>`. Raises RunError where it fails, ConfigError where there is no
        such home."""
        if not self.home.is_dir():
            raise ConfigError(
                f"home={self.home}: no such folder; give the one with flwr's "
                "config.toml (--home or FLWR_HOME)"
            )
        return self.processes.run(
            ["flwr", *words], self.home, COMMAND_SECONDS, FLWR_HOME=str(self.home)
        )

    def submit(self, overrides: Sequence[str], **settings: Scalar) -> str:
        """Start a run of this checkout's app with these Hydra words and run-config settings; its
        number."""
        if not (ROOT / "pyproject.toml").exists():
            raise ConfigError(
                f"{ROOT}: no checkout of fedrobust; Flower needs its pyproject.toml to pack the app"
            )
        config = node_config({"overrides": pack_words(overrides), **settings})
        return str(
            _json(
                self.flwr(
                    "run", str(ROOT), self.connection, "--run-config", config, "--format", "json"
                )
            )["run-id"]
        )

    def state(self, run: str) -> dict[str, Any]:
        """Flower's record of a run: its status and status-details, among others."""
        found: dict[str, Any] = _json(
            self.flwr("list", self.connection, "--run-id", run, "--format", "json")
        )["runs"][0]
        return found

    def wait(self, run: str, seconds: float, log: str = "") -> dict[str, Any]:
        """The state of a run when it has ended; log: a process that ends with it. Raises RunError
        when it has not after so many seconds."""
        deadline = time.monotonic() + seconds
        while not str((state := self.state(run))["status"]).startswith("finished"):
            left = deadline - time.monotonic()
            if left <= 0:
                raise RunError(f"run {run} is still {state['status']} after {seconds:g} s")
            if log:
                self.processes.wait(log, min(LOOK_SECONDS, left))
            time.sleep(POLL_SECONDS)
        return state

    def follow(self, run: str, seconds: float, *, quiet: bool = False) -> None:
        """Show what the run says while it lasts; quiet: write it into a log instead. Raises
        RunError where it does not end well, with what Flower knows of it."""
        self.state(run)  # an unknown run ends here, in one line
        words, log = ["flwr", "log", run, self.connection, "--stream"], f"log-{run}"
        self.processes.start(log, words, self.home, show=not quiet, FLWR_HOME=str(self.home))
        state = self.wait(run, seconds, log)
        self.processes.wait(log, LOG_SECONDS)
        if state["status"] != COMPLETED:
            raise RunError(
                f"run {run} {state['status']}: "
                f"{state['status-details'] or 'see the log of the SuperLink'}"
            )


def _json(said: str) -> dict[str, Any]:
    """The JSON object in flwr's output, whatever text stands before and after it."""
    start, end = said.find("{"), said.rfind("}")
    try:
        found: dict[str, Any] = json.loads(said[start : end + 1])
    except ValueError as error:
        raise RunError(f"flwr: unexpected answer: {said.strip()[:200]}") from error
    if not found.get("success", True):
        raise RunError(f"flwr: {' '.join(str(found.get('error-message') or said[:200]).split())}")
    return found
