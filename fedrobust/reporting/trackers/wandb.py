"""Weights & Biases, offline unless an address is given."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from typing import Any

from fedrobust.reporting.trackers.base import (
    TrackedRun,
    Tracker,
    check_address,
    check_packages,
    chosen_folder,
)
from fedrobust.reporting.trackers.values import TWIN_PREFIX
from fedrobust.types import TWIN
from fedrobust.utils.validation import check_settings

STEPS = {"run": "round", TWIN: f"{TWIN_PREFIX}round"}
FAMILIES = ("validation/*", "seconds/*", "clients/*", "rule/*", "privacy/*")  # of the run's metrics
# The run only: nothing of the machine, its user, its programs or its screen.
QUIET: Mapping[str, Any] = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
# A server that does not answer may cost seconds, not days.
PATIENCE: Mapping[str, Any] = {
    "init_timeout": 30.0,
    "login_timeout": 30.0,
    "x_graphql_retry_max": 3,
    "x_graphql_timeout_seconds": 20.0,
    "x_file_stream_retry_max": 3,
    "x_file_stream_timeout_seconds": 20.0,
    "x_file_transfer_retry_max": 3,
    "x_file_transfer_timeout_seconds": 20.0,
}


@check_settings("tracker")
def wandb(
    path: str | None = None,
    address: str | None = None,
    project: str = "fedrobust",
    run_name: str | None = None,
) -> Tracker:
    """Settings, metrics after every round, the result as the summary. Needs the extra `wandb`.

    Offline, `wandb sync <folder>/wandb/offline-run-*` sends the runs later.

    Args:
        path: folder in which wandb/ is made; null: the run's own.
        address: of a server, e.g. https://api.wandb.ai, for which W&B knows a key (`wandb login`);
            null: offline, no network.
        project: the name under which W&B lists the run.
        run_name: of the run; null: strategy, contamination and seed.

    Returns:
        The tracker.

    Raises:
        ConfigError: wandb is not installed, or the address is none.

    Reference:
        https://docs.wandb.ai/guides/track
    """
    check_packages("wandb", "wandb")
    check_address(address, "W&B reads WANDB_API_KEY, or log in with `wandb login`")

    def open_run(tracked: TrackedRun) -> WandbRun:
        folder = chosen_folder(path, tracked.folder)
        fresh = not (folder / "wandb").exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            begun = _begin(tracked, str(folder), address, project, run_name)
            return WandbRun(begun, tracked.entries)
        except Exception:
            if fresh:  # nothing of a run that is refused stays
                shutil.rmtree(folder / "wandb", ignore_errors=True)
            raise

    return Tracker("wandb", open_run)


def _begin(
    tracked: TrackedRun, folder: str, address: str | None, project: str, run_name: str | None
) -> Any:
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb as library

    where = {"mode": "online", "base_url": address} if address else {"mode": "offline"}
    settings = library.Settings(root_dir=folder, **QUIET, **PATIENCE, **where)
    begun = library.init(
        project=project,
        name=run_name or tracked.title,
        id=tracked.identity or secrets.token_hex(4),
        resume="allow",
        config=dict(tracked.settings),
        settings=settings,
    )
    # both runs count their rounds from 0, and W&B's own steps only grow
    for family in FAMILIES:
        begun.define_metric(family, step_metric=STEPS["run"])
    begun.define_metric(f"{TWIN_PREFIX}*", step_metric=STEPS[TWIN])
    return begun


class WandbRun:
    """One run in W&B. step: number of its next entry, which must grow over all processes."""

    def __init__(self, begun: Any, step: int) -> None:
        self._begun, self._step = begun, step
        self.identity = str(begun.id)

    def log_values(self, run: str, number: int, values: Mapping[str, float]) -> None:
        self._begun.log({**values, STEPS[run]: number}, step=self._step, commit=True)
        self._step += 1

    def log_result(self, values: Mapping[str, float]) -> None:
        self._begun.summary.update(dict(values))

    def close(self, finished: bool) -> None:
        self._begun.finish(exit_code=0 if finished else 1)
