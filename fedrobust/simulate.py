"""The main job: `python -m fedrobust.simulate num_clients=10 poisoned=3`, or `... resume=<folder>`
for one that was stopped.

Exit codes: 0 done, 1 the run failed, 2 wrong input, 130 interrupted. Heavy imports wait until the
input is known to be well formed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fedrobust.errors import ConfigError
from fedrobust.experiment.compose import without_hydra_keys
from fedrobust.runtime import resume
from fedrobust.utils.cli import leave
from fedrobust.utils.locking import is_empty


@hydra.main(config_path="pkg://fedrobust.configs", config_name="config", version_base="1.3")
def _job(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        if not is_empty(folder):
            raise ConfigError(
                f"hydra.run.dir={folder}: already holds files; choose another folder, "
                "nothing was written over"
            )
        settings: dict[str, Any] = without_hydra_keys(OmegaConf.to_container(config, resolve=True))
        from fedrobust.runtime.simulation import run_job

        run_job(settings, folder)
    except KeyboardInterrupt:
        _interrupted(folder)
    except Exception as error:  # ends the process here, since Hydra would add lines of its own
        leave(error)
    finally:
        if not any(folder.iterdir()):  # a refused configuration leaves nothing behind
            folder.rmdir()


def _resume(words: list[str]) -> None:
    asked = resume.read_request(words)
    from fedrobust.runtime.simulation import resume_job

    try:
        resume_job(asked)
    except KeyboardInterrupt:
        _interrupted(asked.folder)


def _interrupted(folder: Path) -> NoReturn:
    kept = (folder / resume.MANIFEST).exists()
    print(
        "interrupted: "
        f"{f'go on with {resume.resume_command(folder)}' if kept else 'nothing was written yet'}",
        file=sys.stderr,
    )
    sys.exit(130)


def main() -> None:
    """The command line."""
    # Hydra's own errors reach us as exceptions, and we turn them into one line
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if resume.is_requested(sys.argv[1:]):  # not by Hydra, which would make a new output folder
            _resume(sys.argv[1:])
        else:
            _job()
    except (KeyboardInterrupt, Exception) as error:
        leave(error)


if __name__ == "__main__":
    main()
