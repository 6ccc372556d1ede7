"""The main job: `python -m fedrobust.simulate num_clients=10 poisoned=3`, or `... resume=<folder>`
for one that was stopped; `--help` shows all settings, `strategy=krum --help` those of one choice.
`--multirun strategy=krum,median` runs a job for every value, each in its own folder. `dry_run=true`
checks everything and says what would run; `quiet=true` prints errors and the last line only.

Exit codes: 0 done, 1 the run failed (or one of a sweep), 2 wrong input, 130 interrupted. Hydra is
imported when there is a configuration to compose, and torch when that is known to be well formed.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment import settings_help
from fedrobust.experiment.compose import (
    check_command_line,
    compose,
    expand_sweep,
    explained,
    plain_config,
    run_folder,
    sweep_folder,
    with_plugins,
)
from fedrobust.experiment.old_names import rename_words
from fedrobust.experiment.overrides import settings_among
from fedrobust.experiment.run_options import RunOptions, split_options
from fedrobust.runtime import resume
from fedrobust.utils.cli import explain, run_command
from fedrobust.utils.counting import format_count
from fedrobust.utils.locking import is_empty
from fedrobust.utils.machine import version_line

SWEEP = {"--multirun", "-m"}
SHOWN_BY_HYDRA = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc"}
SWEEPERS = ("hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")
JOB_FOLDER = "${hydra.sweep.dir}/${hydra.sweep.subdir}"


class _PastHydra(BaseException):
    """Carries a job's error past Hydra, which would add lines of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _compose_and_run(*, quiet: bool) -> Path | None:
    """The job of the words in `sys.argv`: Hydra composes its configuration and makes its folder,
    which is returned; None where Hydra only showed something."""
    import hydra

    folders: list[Path] = []

    def job(config: Any) -> None:
        folders.append(_job(config, quiet=quiet))

    with_hydra = hydra.main(
        config_path="pkg://fedrobust.configs", config_name="config", version_base="1.3"
    )
    with_hydra(job)()
    return folders[0] if folders else None


def _job(config: Any, *, quiet: bool) -> Path:
    """The folder of the finished job; config: Hydra's."""
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        _run(config, folder, quiet=quiet)
    except Exception as error:
        raise _PastHydra(error) from error
    finally:
        if not any(folder.iterdir()):  # a refused configuration leaves nothing behind
            folder.rmdir()
    return folder


def _run(config: Any, folder: Path, *, quiet: bool) -> None:
    from omegaconf import OmegaConf

    _check_folder(folder)
    words = list(settings_among(sys.argv[1:]))
    with explained(words):
        settings = plain_config(OmegaConf.to_container(config, resolve=True), words)
    from fedrobust.runtime.simulation import explain_interruption, run_job

    with explain_interruption(folder):
        run_job(settings, folder, quiet=quiet)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not is_empty(folder):
        raise ConfigError(
            f"hydra.run.dir={folder}: already holds files; choose another folder, "
            "nothing was written over"
        )


def _resume(words: list[str], options: RunOptions) -> None:
    asked = resume.read_request(words)
    if options.dry_run:
        _dry_resumption(asked)
        return
    from fedrobust.runtime.simulation import explain_interruption, resume_job

    with explain_interruption(asked.folder):
        resume_job(asked, quiet=options.quiet)


def _act(words: list[str]) -> None:
    options, words = split_options(words)
    # not by Hydra, which would make a new output folder
    if resume.is_resume_requested(words):
        _resume(words, options)
    else:
        _start(words, options)


def _start(words: list[str], options: RunOptions) -> None:
    words = check_command_line(words)
    if set(words) & SWEEP and not set(words) & SHOWN_BY_HYDRA:
        _sweep([word for word in words if word not in SWEEP], options)
    else:
        _start_job(words, options)


def _dry_run(words: Sequence[str]) -> None:
    """Check everything of a job and say what it would do; its folder is not made."""
    settings = list(settings_among(words))
    if others := [word for word in words if word not in settings]:
        raise ConfigError(
            f"dry_run=true: cannot be given beside {others[0]}; leave one of them out"
        )
    folder = run_folder(settings)
    _check_folder(folder)
    config = compose(*settings)
    from fedrobust.runtime.dry_run import plan_lines, plan_run

    print("dry run: nothing is trained to the end or written", flush=True)
    print(*plan_lines(plan_run(config)), f"folder: {folder}", sep="\n", flush=True)


def _dry_resumption(asked: resume.Resumption) -> None:
    """Check everything of a run that would be taken up again and say what is left of it; nothing in
    its folder changes."""
    from fedrobust.runtime.dry_run import plan_lines, plan_resumption

    plan, problems = plan_resumption(asked)
    print("dry run: nothing is trained to the end or written", flush=True)
    print(*(f"checkpoint {problem}" for problem in problems), sep="\n", end="\n" * bool(problems))
    rounds = plan.server.experiment.settings.rounds
    print(f"resumes after round {plan.done} of {rounds}", *plan_lines(plan), sep="\n")
    print(f"folder: {asked.folder}", flush=True)


def _start_job(words: Sequence[str], options: RunOptions) -> Path | None:
    """One job, by Hydra, as if these words were typed; its folder, None where nothing was run."""
    if options.dry_run:
        _dry_run(words)
        return None
    sys.argv[1:] = words
    try:
        typed = list(settings_among(words))
        with explained(typed), with_plugins(typed):
            return _compose_and_run(quiet=options.quiet)
    except _PastHydra as past:
        raise past.error from past.error.__cause__
    except OSError as error:  # Hydra's own: the run's errors come past it
        if error.errno is None:  # of some refusals Hydra makes OSErrors
            raise
        raise RunError(
            f"hydra.run.dir={error.filename}: cannot be made ({error.strerror}); choose "
            "another folder"
        ) from error


def _sweep(words: Sequence[str], options: RunOptions) -> None:
    """All jobs of a sweep, one after the other; one that fails keeps none from running.

    Raises:
        ConfigError: where nothing can start, or where all that failed were wrong input.
        RunError: where a run failed.
        KeyboardInterrupt: with the number of jobs that did not run.
    """
    typed = list(settings_among(words))
    for word in typed:
        if word.startswith("hydra.run.dir="):
            raise ConfigError(f"{word}: is for one run; for a sweep write hydra.sweep.dir=...")
        if word.startswith(SWEEPERS):
            raise ConfigError(
                f"{word}: a sweep runs its jobs here, one after the other; leave it out"
            )
    switches = [word for word in words if word not in typed]
    jobs = expand_sweep(typed)
    shared = [word for word in typed if all(word in job for job in jobs)]
    folder = sweep_folder(shared)
    failures: dict[str, tuple[str, int]] = {}
    finished: dict[int, tuple[str, Path | None]] = {}  # what differs, and the folder
    for number, job in enumerate(jobs):
        changed = " ".join(word for word in job if word not in shared)
        title = f"job {number + 1} of {len(jobs)}{changed and f' ({changed})'}"
        if not options.quiet:
            print(title, flush=True)
        own = [word for word in job if not word.startswith("hydra.sweep.dir=")]
        place = [folder, f"hydra.job.num={number}", f"hydra.run.dir={JOB_FOLDER}"]
        try:
            made, failed = _outcome(partial(_start_job, [*switches, *own, *place], options))
        except KeyboardInterrupt as stopped:
            left = format_count(len(jobs) - number - 1, "job")
            raise KeyboardInterrupt(f"{stopped}; {left} after it did not run") from None
        finished[number] = (changed, made)
        if failed is not None:
            failures[title] = failed
            print(f"failed: {failed[0]}", flush=True)
    if not options.quiet and any(made for _, made in finished.values()):
        from fedrobust.studies.sweep_summary import SweepJob, print_sweep

        print_sweep({number: SweepJob(*one) for number, one in finished.items()})
    _check_sweep(failures, len(jobs))


def _outcome(action: Callable[[], Path | None]) -> tuple[Path | None, tuple[str, int] | None]:
    """What an action gives, and (line, exit code) of its error, if it has one; a defect of ours
    shows its traceback."""
    try:
        return action(), None
    except Exception as error:
        line, code = explain(error)
        if line is None:
            traceback.print_exception(error)
        return None, (line or f"{type(error).__name__}: {error}", code)


def _check_sweep(failures: Mapping[str, tuple[str, int]], jobs: int) -> None:
    """Raises as `_sweep` for a sweep with failures: {job: (line, exit code)}."""
    if not failures:
        return
    codes = {code for _, code in failures.values()}
    for title, (line, _) in failures.items():
        print(f"{title}: {line}", file=sys.stderr)
    text = f"{len(failures)} of {format_count(jobs, 'job')} failed, listed above"
    raise ConfigError(text) if codes == {2} else RunError(text)


def main() -> None:
    """The command line."""
    words = sys.argv[1:]
    if code := run_command(_command(words)):
        sys.exit(code)


def _command(words: list[str]) -> Callable[[], object]:
    if "--version" in words:
        return lambda: print(version_line())
    if settings_help.is_help_requested(words):
        return lambda: print(settings_help.describe(rename_words(words)))
    return lambda: _act(words)


if __name__ == "__main__":
    main()
