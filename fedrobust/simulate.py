"""The main job: `python -m fedrobust.simulate num_clients=10 poisoned=3`, or `... resume=<folder>`
for one that was stopped; `--help` shows all settings, `strategy=krum --help` those of one choice.

Exit codes: 0 done, 1 the run failed, 2 wrong input, 130 interrupted. Heavy imports wait until the
input is known to be well formed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment import settings_help
from fedrobust.experiment.compose import check_command_line, explained, plain_config
from fedrobust.experiment.old_names import rename_words
from fedrobust.experiment.overrides import settings_among
from fedrobust.reporting.filenames import MANIFEST
from fedrobust.runtime import resume
from fedrobust.utils.cli import run_command
from fedrobust.utils.locking import is_empty


@hydra.main(config_path="pkg://fedrobust.configs", config_name="config", version_base="1.3")
def _job(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    code = run_command(lambda: _run(config, folder))
    if not any(folder.iterdir()):  # a refused configuration leaves nothing behind
        folder.rmdir()
    if code:  # ends the process here, since Hydra would add lines of its own
        sys.exit(code)


def _run(config: DictConfig, folder: Path) -> None:
    if not is_empty(folder):
        raise ConfigError(
            f"hydra.run.dir={folder}: already holds files; choose another folder, "
            "nothing was written over"
        )
    words = list(settings_among(sys.argv[1:]))
    with explained(words):
        settings = plain_config(OmegaConf.to_container(config, resolve=True), words)
    from fedrobust.runtime.simulation import run_job

    with _explain_interruption(folder):
        run_job(settings, folder)


def _resume(words: list[str]) -> None:
    asked = resume.read_request(words)
    from fedrobust.runtime.simulation import resume_job

    with _explain_interruption(asked.folder):
        resume_job(asked)


def _start(words: list[str]) -> None:
    sys.argv[1:] = check_command_line(words)
    with explained(list(settings_among(sys.argv[1:]))):
        try:
            _job()
        except OSError as error:  # Hydra's own: the run's errors end within the job
            if error.errno is None:  # of some refusals Hydra makes OSErrors
                raise
            raise RunError(
                f"hydra.run.dir={error.filename}: cannot be made ({error.strerror}); choose "
                "another folder"
            ) from error


@contextmanager
def _explain_interruption(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        kept = (folder / MANIFEST).exists()
        raise KeyboardInterrupt(
            f"resume with {resume.resume_command(folder)}" if kept else "nothing was written yet"
        ) from None


def main() -> None:
    """The command line."""
    words = sys.argv[1:]
    if code := run_command(_command(words)):
        sys.exit(code)


def _command(words: list[str]) -> Callable[[], object]:
    if settings_help.is_help_requested(words):
        return lambda: print(settings_help.describe(rename_words(words)))
    # not by Hydra, which would make a new output folder
    return (
        (lambda: _resume(words)) if resume.is_resume_requested(words) else (lambda: _start(words))
    )


if __name__ == "__main__":
    main()
