"""The main job: `python -m fedrobust.simulate num_clients=10 poisoned=3`, or `... resume=<folder>`
for one that was stopped; `--help` shows all settings, `strategy=krum --help` those of one choice.
`--multirun strategy=krum,median` runs a job for every value, each in its own folder.

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
    expand_sweep,
    explained,
    plain_config,
    sweep_folder,
    with_plugins,
)
from fedrobust.experiment.old_names import rename_words
from fedrobust.experiment.overrides import settings_among
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


def _compose_and_run() -> None:
    """The job of the words in `sys.argv`: Hydra composes its configuration and makes its folder."""
    import hydra

    with_hydra = hydra.main(
        config_path="pkg://fedrobust.configs", config_name="config", version_base="1.3"
    )
    with_hydra(_job)()


def _job(config: Any) -> None:
    """config: Hydra's."""
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        _run(config, folder)
    except Exception as error:
        raise _PastHydra(error) from error
    finally:
        if not any(folder.iterdir()):  # a refused configuration leaves nothing behind
            folder.rmdir()


def _run(config: Any, folder: Path) -> None:
    from omegaconf import OmegaConf

    if not is_empty(folder):
        raise ConfigError(
            f"hydra.run.dir={folder}: already holds files; choose another folder, "
            "nothing was written over"
        )
    words = list(settings_among(sys.argv[1:]))
    with explained(words):
        settings = plain_config(OmegaConf.to_container(config, resolve=True), words)
    from fedrobust.runtime.simulation import explain_interruption, run_job

    with explain_interruption(folder):
        run_job(settings, folder)


def _resume(words: list[str]) -> None:
    asked = resume.read_request(words)
    from fedrobust.runtime.simulation import explain_interruption, resume_job

    with explain_interruption(asked.folder):
        resume_job(asked)


def _start(words: list[str]) -> None:
    words = check_command_line(words)
    if set(words) & SWEEP and not set(words) & SHOWN_BY_HYDRA:
        _sweep([word for word in words if word not in SWEEP])
    else:
        _start_job(words)


def _start_job(words: Sequence[str]) -> None:
    """One job, by Hydra, as if these words were typed."""
    sys.argv[1:] = words
    try:
        typed = list(settings_among(words))
        with explained(typed), with_plugins(typed):
            _compose_and_run()
    except _PastHydra as past:
        raise past.error from past.error.__cause__
    except OSError as error:  # Hydra's own: the run's errors come past it
        if error.errno is None:  # of some refusals Hydra makes OSErrors
            raise
        raise RunError(
            f"hydra.run.dir={error.filename}: cannot be made ({error.strerror}); choose "
            "another folder"
        ) from error


def _sweep(words: Sequence[str]) -> None:
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
    options = [word for word in words if word not in typed]
    jobs = expand_sweep(typed)
    shared = [word for word in typed if all(word in job for job in jobs)]
    folder = sweep_folder(shared)
    failures: dict[str, tuple[str, int]] = {}
    for number, job in enumerate(jobs):
        changed = " ".join(word for word in job if word not in shared)
        title = f"job {number + 1} of {len(jobs)}{changed and f' ({changed})'}"
        print(title, flush=True)
        own = [word for word in job if not word.startswith("hydra.sweep.dir=")]
        place = [folder, f"hydra.job.num={number}", f"hydra.run.dir={JOB_FOLDER}"]
        try:
            failed = _failure(partial(_start_job, [*options, *own, *place]))
        except KeyboardInterrupt as stopped:
            left = format_count(len(jobs) - number - 1, "job")
            raise KeyboardInterrupt(f"{stopped}; {left} after it did not run") from None
        if failed is not None:
            failures[title] = failed
            print(f"failed: {failed[0]}", flush=True)
    _check_sweep(failures, len(jobs))


def _failure(action: Callable[[], object]) -> tuple[str, int] | None:
    """(line, exit code) of an action's error, if it has one; a defect of ours shows its
    traceback."""
    try:
        action()
    except Exception as error:
        line, code = explain(error)
        if line is None:
            traceback.print_exception(error)
        return line or f"{type(error).__name__}: {error}", code
    return None


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
    # not by Hydra, which would make a new output folder
    return (
        (lambda: _resume(words)) if resume.is_resume_requested(words) else (lambda: _start(words))
    )


if __name__ == "__main__":
    main()
