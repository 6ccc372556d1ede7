"""MLflow, in a database file of this machine or on a tracking server."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from fedrobust.reporting.trackers.base import (
    TrackedRun,
    Tracker,
    Value,
    check_address,
    check_packages,
    chosen_folder,
)
from fedrobust.utils.validation import check_settings

FILE, ARTIFACTS = "mlflow.db", "mlartifacts"
BATCH = 100  # parameters in one request, MLflow's own limit
LONGEST = 6000  # characters of a parameter, likewise
# A server that does not answer may cost seconds, not the many minutes of MLflow's own defaults.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


@check_settings("tracker")
def mlflow(
    path: str | None = None,
    address: str | None = None,
    experiment_name: str = "fedrobust",
    run_name: str | None = None,
) -> Tracker:
    """Settings as parameters, metrics after every round, the result at the end. Needs the extra
    `mlflow`.

    Args:
        path: folder of mlflow.db, a database that several runs may share; null: the run's own.
        address: http(s)://host of a tracking server; null: the database and no network.
        experiment_name: the name under which MLflow lists the run.
        run_name: of the run; null: strategy, contamination and seed.

    Returns:
        The tracker.

    Raises:
        ConfigError: a package is missing, or the address is none.

    Reference:
        https://mlflow.org/docs/latest/tracking
    """
    check_packages("mlflow", "mlflow", *(() if address else ("sqlalchemy", "alembic")))
    check_address(address, "MLflow reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")

    def open_run(tracked: TrackedRun) -> MlflowRun:
        folder = chosen_folder(path, tracked.folder)
        client = _client(address, folder)
        if tracked.identity:
            client.update_run(tracked.identity, status="RUNNING")
            return MlflowRun(client, tracked.identity)
        artifacts = None if address else (folder / ARTIFACTS).resolve().as_uri()
        experiment = client.get_experiment_by_name(experiment_name)
        number = (
            client.create_experiment(experiment_name, artifact_location=artifacts)
            if experiment is None
            else experiment.experiment_id
        )
        created = client.create_run(number, run_name=run_name or tracked.title)
        opened = MlflowRun(client, created.info.run_id)
        opened.log_settings(tracked.settings)
        return opened

    return Tracker("mlflow", open_run)


def _client(address: str | None, folder: Path) -> Any:
    """MLflow's client; it reports no usage to anybody."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if address is None:
        folder.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=address or f"sqlite:///{(folder / FILE).resolve()}")


class MlflowRun:
    """One run in MLflow."""

    def __init__(self, client: Any, identity: str) -> None:
        self._client, self.identity = client, identity

    def log_settings(self, settings: Mapping[str, Value]) -> None:
        """All of them as parameters."""
        from mlflow.entities import Param

        params = (Param(key, str(value)[:LONGEST]) for key, value in settings.items())
        for batch in _batches(params):
            self._client.log_batch(self.identity, params=batch)

    def log_values(self, run: str, number: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = (Metric(key, value, now, number) for key, value in values.items())
        for batch in _batches(metrics):
            self._client.log_batch(self.identity, metrics=batch)

    def log_result(self, values: Mapping[str, float]) -> None:
        self.log_values("run", 0, values)

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self.identity, "FINISHED" if finished else "KILLED")


def _batches(items: Iterator[Any]) -> Iterator[Sequence[Any]]:
    while batch := list(islice(items, BATCH)):
        yield batch
