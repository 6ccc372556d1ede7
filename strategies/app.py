"""The Flower ServerApp: the same loop, folder and report as `fedrobust.simulate`, over the sites of
`flwr run . <federation>`.

An entry point like the command lines: nothing imports it. docs/federation.md says how sites are
numbered and what a node must know.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrobust.errors import ConfigError
from fedrobust.experiment import build
from fedrobust.experiment.own_choices import check_plugins, named_by_words
from fedrobust.federation.flower_commands import unpack_words
from fedrobust.federation.server_run import assemble, compose_for_sites, federation_resume_command
from fedrobust.reporting.console import print_line
from fedrobust.reporting.filenames import MANIFEST
from fedrobust.runtime import resume
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.runtime.simulation import Output, exclusive_folder, run_into_folder, tracker_of
from fedrobust.utils.locking import is_empty
from fedrobust.utils.validation import NonNegative, check

app = ServerApp()
WIDTH = 110  # columns of the tables that Flower hands on as text


@app.main()  # type: ignore[untyped-decorator]  # flwr is untyped here
def main(grid: Grid, context: Context) -> None:
    """Run the configuration named by `overrides` (Hydra words) on the connected sites, or continue
    with the run of the folder `resume`; the output folder lies beside the SuperLink."""
    run = {key: str(value) for key, value in context.run_config.items()}
    names = tuple(run["sites"].split())
    folder = Path(run["resume"] or run["folder"] or f"outputs/run-{context.run_id}")
    manifest = resume.read_manifest(folder) if run["resume"] else None
    if manifest is not None:
        named = named_by_words(unpack_words(run["overrides"]))
        check_plugins(manifest["config"], named, folder / MANIFEST)
    settings = (
        compose_for_sites(run["overrides"], names) if manifest is None else manifest["config"]
    )
    experiment = build.build_experiment(settings)
    output = Output(tracker=tracker_of(experiment.settings))
    if manifest is None:
        _make(folder)
    elif manifest["data"].get("digest") != experiment.dataset.digest:
        raise ConfigError(
            f"resume={folder}: the server's data are no longer those of the run "
            "(their digest differs)"
        )
    with exclusive_folder(folder, federation_resume_command(folder)) as console:
        console.width = WIDTH
        sites, experiment = assemble(
            grid, experiment, names, _seconds(run["wait"]), lambda text: print_line(console, text)
        )
        run_into_folder(
            build_server_context(experiment),
            nullcontext(sites),
            folder,
            console,
            manifest,
            output=output,
        )


def _seconds(text: str) -> float:
    try:
        return check("wait", float(text), NonNegative)
    except ValueError as error:
        raise ConfigError(f"wait={text}: must be a number of seconds") from error


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not is_empty(folder):
        raise ConfigError(
            f"folder={folder}: already holds files; choose another one, nothing was written over"
        )
