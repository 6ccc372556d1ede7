"""One simulation from a resolved configuration to a filled output folder; `simulate` is its command
line."""

from __future__ import annotations

import hashlib
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from fedrobust.aggregation.round import Strategy
from fedrobust.data import TRAIN
from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment import build, compose, factories, old_names, settings
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.inference import predict
from fedrobust.reporting.console import (
    Display,
    make_console,
    print_last_line,
    print_line,
    summary_table,
)
from fedrobust.reporting.filenames import CHECKPOINTS, MANIFEST
from fedrobust.reporting.html import write_html
from fedrobust.reporting.manifest import (
    changes,
    conditions,
    note_resumption,
    write_manifest,
)
from fedrobust.reporting.records import Observers, Recorder
from fedrobust.reporting.report import Report
from fedrobust.reporting.results import left_out_files
from fedrobust.reporting.run_log import keep_log, start_logs
from fedrobust.reporting.samples import sample_blocks
from fedrobust.reporting.text import left_out_text
from fedrobust.reporting.trackers.base import NO_TRACKER, TrackedRun, Tracker
from fedrobust.reporting.trackers.observer import TrackerObserver
from fedrobust.reporting.trackers.values import flat_settings, run_title
from fedrobust.runtime import resume
from fedrobust.runtime.checkpoints import Checkpoints
from fedrobust.runtime.engines import Engine
from fedrobust.runtime.engines.base import SimulationGrid
from fedrobust.runtime.engines.site_grid import FederationGrid
from fedrobust.runtime.resume import Resumption
from fedrobust.runtime.server.checkpointing import CheckpointManager
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.runtime.server.run import run_experiment
from fedrobust.utils import devices
from fedrobust.utils.encoding import show_any_text
from fedrobust.utils.files import NO_ROOM
from fedrobust.utils.garbage import end_start
from fedrobust.utils.locking import hold_lock
from fedrobust.utils.notices import log, note
from fedrobust.utils.threads import cores

CLIENT_APP = "fedrobust.clients.app:app"
PASSES = 3.0  # forward, and backward at twice its cost
# floating-point operations a second that a CPU core reaches in a ResNet, in round numbers
CORE_SPEED = 5e10


@contextmanager
def explain_interruption(folder: Path) -> Iterator[None]:
    """A Ctrl-C inside says how the run in this folder can be resumed."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (folder / MANIFEST).exists()
        raise KeyboardInterrupt(
            f"resume with {resume.resume_command(folder)}" if kept else "nothing was written yet"
        ) from None


@dataclass(frozen=True, slots=True)
class Output:
    """What a run's folder holds beside its results. command: what the manifest says was called;
    None: the command line of this process. pictures: whether report.html shows images of the data
    before and after contamination. tracker: what else gets the run's numbers."""

    command: Sequence[str] | None = None
    pictures: bool = True
    tracker: Tracker = NO_TRACKER


USUAL_OUTPUT = Output()


def run_job(
    config: Mapping[str, Any],
    folder: Path,
    command: Sequence[str] | None = None,
    *,
    pictures: bool = True,
    quiet: bool = False,
) -> Report:
    """Everything of one run in an empty or new folder; the manifest is written before anything is
    trained. command, pictures: see `Output`. quiet: whether the screen gets the last line only.

    Returns the report. Raises FedrobustError and OSError; a new folder is then taken away again, if
    nothing was written.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_folder(folder, quiet=quiet) as console:
            # the quickest of all refusals come first
            found = settings.read_settings(config)
            engine = factories.build_group({"engine": found.engine.written}, "engine")
            output = Output(command, pictures, tracker_of(found))
            return _run(config, found, engine, folder, console, output=output)
    finally:
        if new and not any(folder.iterdir()):
            folder.rmdir()


def resume_job(asked: Resumption, *, pictures: bool = True, quiet: bool = False) -> Report:
    """Go on with the run of a folder after its last usable checkpoint, as it would have gone on by
    itself. pictures: see `Output`. quiet: as in `run_job`. Returns the report.

    Raises ConfigError where the folder is finished or in use, or where the data are not those of
    the run.
    """
    with exclusive_folder(asked.folder, quiet=quiet) as console:
        # again: the previous holder of the lock may have finished it
        manifest = resume.read_manifest(asked.folder)
        before, engine = read_resumed(asked, manifest)
        opener = factories.build_group({"engine": engine}, "engine")
        config = manifest["config"]
        output = Output(pictures=pictures, tracker=tracker_of(before))
        return _run(config, before, opener, asked.folder, console, manifest=manifest, output=output)


def read_resumed(
    asked: Resumption, manifest: Mapping[str, Any]
) -> tuple[settings.Settings, dict[str, Any]]:
    """The settings of a run that is taken up again, and those of the engine on which it goes on.

    Raises:
        ConfigError: this version cannot read the settings, or the engine cannot be.
    """
    config = old_names.rename_config(manifest["config"])
    try:
        before = settings.read_settings(config)
    except ConfigError as error:
        raise ConfigError(
            f"{resume.KEY}{asked.folder}: written by another version of the "
            f"program ({error}); start it anew"
        ) from error
    engine = _engine_of(asked, before.engine.written)
    if (engine.get("gpus_per_worker") == 0) != (before.engine.get("gpus_per_worker") == 0):
        raise ConfigError(
            "engine.gpus_per_worker: 0 or not decides whether clients compute on "
            "a GPU; leave it as the run had it"
        )
    return before, engine


def tracker_of(found: settings.Settings) -> Tracker:
    """The tracker of these settings. Raises ConfigError where its package is missing."""
    tracker = factories.build_group({"tracker": found.tracker.written}, "tracker")
    assert isinstance(tracker, Tracker)
    return tracker


def _engine_of(asked: Resumption, written: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's settings for a run that is taken up again: those of its manifest (`written`)
    with the words of the command line. Raises ConfigError where the manifest alone names a cluster:
    who joins one runs its programs and hands it the data, and the folder may be somebody else's."""
    engine = compose.change_engine(written, asked.engine_words)
    address = engine.get("address")
    given = any(word.startswith("engine.address=") for word in asked.engine_words)
    if address not in (None, "local") and not given:
        raise ConfigError(
            f"engine.address={address}: stands in {asked.folder / MANIFEST} alone, and no address "
            f"is taken from there; add engine.address={address} to join that cluster again, or "
            "engine=inline"
        )
    return engine


@contextmanager
def exclusive_folder(folder: Path, command: str = "", *, quiet: bool = False) -> Iterator[Console]:
    """The screen of the only process in the folder; quiet: one that shows nothing. A folder that
    cannot be written to ends the run in one line, which names the command that resumes it (empty:
    that of a simulation)."""
    show_any_text()
    console = make_console(quiet=quiet)
    try:
        with keep_log(f"output folder {folder}"), hold_lock(folder) as held:
            if not held:
                print_line(
                    console,
                    f"{folder}: this file system has no locks; see to it that no "
                    "second process resumes this run",
                )
            yield console
    except OSError as error:
        if error.errno not in NO_ROOM or (
            error.filename is not None and not Path(error.filename).is_relative_to(folder)
        ):
            raise
        go_on = f"once it can, resume with {command or resume.resume_command(folder)}"
        remedy = go_on if (folder / MANIFEST).exists() else "choose another hydra.run.dir"
        raise RunError(f"{folder}: cannot be written to ({error.strerror}); {remedy}") from error


def _run(
    config: Mapping[str, Any],
    found: settings.Settings,
    engine: Engine,
    folder: Path,
    console: Console,
    *,
    manifest: Mapping[str, Any] | None = None,
    output: Output,
) -> Report:
    """found: the settings in the configuration; manifest: of the run that is taken up again."""
    end_start()
    server = build_checked(config, found, folder, manifest)
    opened = engine.open(
        CLIENT_APP,
        server.experiment.num_clients,
        {"simulation": True},
        partial(work_seconds, server),
    )
    return run_into_folder(server, opened, folder, console, manifest, output=output)


def build_checked(
    config: Mapping[str, Any],
    found: settings.Settings,
    folder: Path | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> ServerContext:
    """Everything of a run on this machine, built.

    Args:
        config: of the run.
        found: the settings in it.
        folder: of a run that is taken up again.
        manifest: of that run.

    Raises:
        ConfigError: two settings do not go together, or data or frozen weights are not those of
            the run that is taken up again.
        DataError: the data cannot be read.
    """
    experiment = build.build_experiment(config, found)
    if manifest is not None and manifest["data"].get("digest") != experiment.dataset.digest:
        raise ConfigError(
            f"{resume.KEY}{folder}: the data are no longer those of the run (their "
            "digest differs); start a new run with them"
        )
    check_simulated(experiment)
    server = build_server_context(experiment)
    if manifest is not None and _frozen_then(manifest) != server.frozen_sha256:
        raise ConfigError(
            f"{resume.KEY}{folder}: what is frozen of the model is no longer that of the run (its "
            "digest differs); start a new run with it"
        )
    return server


def check_simulated(experiment: Experiment) -> None:
    """Raises ConfigError where the images lie at real sites."""
    if experiment.remote:
        raise ConfigError(
            "partition=remote: is for real sites (docs/federation.md); here choose "
            "another one, e.g. partition=by_site"
        )


def _frozen_then(manifest: Mapping[str, Any]) -> str:
    """Digest of what was frozen when the run began; an older manifest has none."""
    return str(manifest.get("model", {}).get("frozen_sha256", ""))


def run_into_folder(
    server: ServerContext,
    opened: AbstractContextManager[SimulationGrid | FederationGrid],
    folder: Path,
    console: Console,
    manifest: Mapping[str, Any] | None,
    *,
    output: Output = USUAL_OUTPUT,
) -> Report:
    """Everything of one run over a Grid, in its folder. manifest: of the run that is taken up
    again. Returns the report."""
    experiment = server.experiment
    recorder = Recorder(folder, experiment.roles, experiment.all_sites())
    tracked = TrackerObserver(
        output.tracker,
        TrackedRun(folder, run_title(experiment), flat_settings(experiment.config)),
        lambda text: print_line(console, text),
        resumed=manifest is not None,
    )
    with opened as grid, tracked, Display(console) as display:
        # Nothing is written before everything that can be refused has been built.
        words = sys.argv if output.command is None else output.command
        exact, written = _write_manifest(folder, server, grid, console, manifest, words=words)
        start_logs(folder)
        log(logging.INFO, f"command: {shlex.join(map(str, written['command_line']))}")
        log(logging.INFO, f"engine: {grid.description}; device: {written['device']}")
        if left_out := left_out_text(left_out_files(experiment.dataset.skipped)):
            display.stage("run", left_out)
        for note in experiment.dataset.notes:
            print_line(console, f"data: {note}")
        for one in experiment.model.weights():
            print_line(console, f"model: the weights of {one['model']} are from {one['source']}")
        if experiment.remote and experiment.model.freeze != "none" and experiment.model.weights():
            print_line(console, "model: every site needs its own copy of them (model-weights)")
        checkpoints = checkpoints_in(folder, server)
        checkpoints.sweep()
        if manifest is not None and not checkpoints.files("run"):
            print_line(console, "run: there is no checkpoint, it starts over from round 0")
        with CheckpointManager(
            checkpoints, grid, lambda text: print_line(console, text), exact
        ) as checkpointing:
            report, _ = run_experiment(
                server,
                grid,
                folder,
                Observers([recorder, display, tracked]),
                grid.description,
                checkpointing=checkpointing,
            )
        tracked.finish(report)
    uses = extra_data(experiment)
    samples = sample_blocks(experiment) if output.pictures else []
    write_html(folder, report, written, recorder.rounds, uses=uses, samples=samples)
    checkpoints.clear()
    show_result(console, report, uses, folder)
    return report


def show_result(console: Console, report: Report, uses: Mapping[str, int], folder: Path) -> None:
    """The final screen. One that cannot be written to, as on a full disk, does not make a finished
    run a failed one."""
    page = folder / "report.html"
    try:
        console.print(summary_table(report, uses))
        print_last_line(console, f"report: {page}")
    except (OSError, UnicodeError) as error:
        note(f"the screen cannot be written to ({error}); report: {page}")


def _write_manifest(
    folder: Path,
    server: ServerContext,
    grid: SimulationGrid | FederationGrid,
    console: Console,
    earlier: Mapping[str, Any] | None,
    *,
    words: Sequence[str],
) -> tuple[bool, dict[str, Any]]:
    """Write the manifest, or note in that of an earlier process that the run is resumed. words:
    what was called. Returns whether all conditions are unchanged, and the manifest."""
    experiment = server.experiment
    computes = devices.device_name(devices.resolve(experiment.settings.device))
    if earlier is None:
        facts: dict[str, Any] = {
            "seed": experiment.seed,
            "facts": {"data": data_facts(experiment), "model": model_facts(server)},
            "device": computes,
            "client_threads": grid.threads,
        }
        return True, write_manifest(folder, experiment.config, **facts, command_line=words)
    changed = changes(earlier, conditions(computes, grid.threads, experiment.settings.plugins))
    if changed:
        bits = (
            "the result need not be bit-equal to that of an undisturbed run; stop "
            "and restore them if it must be"
        )
        print_line(
            console, f"conditions have changed since the run began ({'; '.join(changed)}): {bits}"
        )
    exact = not changed and not any(one["changed"] for one in earlier.get("resumed", []))
    return exact, note_resumption(folder, earlier, grid.description, changed)


def checkpoints_in(folder: Path, server: ServerContext) -> Checkpoints:
    """Those of the run in this folder."""
    experiment = server.experiment
    kept, digest = experiment.settings.server, hashlib.sha256(experiment.text.encode()).hexdigest()
    return Checkpoints(
        folder / CHECKPOINTS,
        server.layout,
        digest,
        kept.checkpoint_every,
        kept.keep_checkpoints,
    )


def work_seconds(server: ServerContext) -> float:
    """An estimate of all clients' training of the run and its twin in one process, by which
    `engine=auto` decides.

    Counted, not timed: a choice that hung on the machine's mood would change the threads per client
    and with them the last bits, and equal seeds must give equal results. Settings that are no plain
    epochs count as one epoch.
    """
    from torch.utils.flop_counter import FlopCounterMode

    experiment = server.experiment
    with FlopCounterMode(display=False) as counter:
        predict(server.model, server.inputs.example())
    images = sum(len(experiment.rows(client, TRAIN)) for client in range(experiment.num_clients))
    epochs, rounds = (
        float(experiment.settings.client.get("epochs", 1)),
        float(experiment.settings.rounds),
    )
    runs = 2 if experiment.evaluation.twin else 1
    return (
        PASSES
        * float(counter.get_total_flops())
        * images
        * epochs
        * rounds
        * runs
        / (CORE_SPEED * cores())
    )


def data_facts(experiment: Experiment) -> dict[str, Any]:
    """Facts of the data for the manifest."""
    dataset = experiment.dataset
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "classes": list(dataset.class_names),
        "image_size": int(dataset.images.shape[-1]),
        "splits": [int((dataset.splits == split).sum()) for split in range(3)],
        "root": len(experiment.root),
        "proxy": len(experiment.proxy),
        "skipped": dict(dataset.skipped),
        "notes": list(dataset.notes),
    }


def model_facts(server: ServerContext) -> dict[str, Any]:
    """Facts of the model for the manifest."""
    weights = list(server.experiment.model.weights())
    return {"weights": weights, "frozen_sha256": server.frozen_sha256}


def extra_data(experiment: Experiment) -> dict[str, int]:
    """The server's extra images that this run really used, and how many."""
    sizes = {"root": len(experiment.root), "proxy": len(experiment.proxy)}
    return used_images(experiment.strategy, experiment.settings.server.batchnorm, sizes)


def used_images(strategy: Strategy, batchnorm: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """Of the server's extra images (sizes: how many by name) those that a run uses, and how many.
    batchnorm: the setting of that name."""
    used = set(strategy.uses) | ({"proxy"} if batchnorm == "recalibrate" else set())
    return {name: size for name, size in sizes.items() if name in used and size}
