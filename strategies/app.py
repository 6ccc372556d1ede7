"""The Flower ServerApp: the same loop and report for `flwr run . <federation>`. Not tried on real SuperNodes yet: there a client is
numbered by the rank of its node id, which need not be its partition-id."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrobust import config, experiment
from fedrobust.display import Display
from fedrobust.errors import ConfigError
from fedrobust.records import Observers, Recorder
from strategies.conduct import conduct
from strategies.rounds import make_server

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]  # flwr is untyped here
def main(grid: Grid, context: Context) -> None:
    """Run the configuration named by the run's `overrides` (Hydra words separated by blanks) and write the output folder
    outputs/run-<id> beside the SuperLink. Real sites have no clean twin, and contaminate only where a node itself allows it."""
    config.check_siblings()
    words = str(context.run_config["overrides"]).split()
    settings = config.compose(*words, "evaluation.twin=false")
    study = experiment.from_text(config.to_json(settings))
    nodes = len(list(grid.get_node_ids()))
    if nodes != study.num_clients:
        raise ConfigError(f"num_clients={study.num_clients}: {nodes} nodes are connected; set num_clients={nodes} or connect the others")
    folder = Path("outputs") / f"run-{context.run_id}"
    folder.mkdir(parents=True)
    with Display() as display:
        conduct(make_server(study), grid, folder, Observers([Recorder(folder, study.kinds), display]), "flower")
