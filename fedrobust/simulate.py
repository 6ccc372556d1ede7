"""The main job: `python -m fedrobust.simulate num_clients=10 poisoned=3`.

Exit codes: 0 done, 1 the run failed, 2 wrong input, 130 interrupted. Heavy imports wait until the input is known to be well formed.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from fedrobust.cli import explain
from fedrobust.config import check_siblings, plain
from fedrobust.errors import ConfigError


@hydra.main(config_path="pkg://configs", config_name="config", version_base="1.3")
def _job(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        if any(folder.iterdir()):
            raise ConfigError(f"hydra.run.dir={folder}: already holds files; choose another folder, nothing was written over")
        settings: dict[str, Any] = plain(OmegaConf.to_container(config, resolve=True))
        from fedrobust.job import run_job

        run_job(settings, folder)
    except Exception as error:  # ends the process here, since Hydra would add lines of its own
        _leave(error)
    finally:
        if not any(folder.iterdir()):  # a refused configuration leaves nothing behind
            folder.rmdir()


def _leave(error: Exception) -> NoReturn:
    line, code = explain(error)
    if line is None:
        traceback.print_exception(error)
    else:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """The command line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own errors reach us as exceptions, and we turn them into one line
    try:
        check_siblings()
        _job()
    except KeyboardInterrupt:
        print("interrupted: the output folder holds the rounds that were finished", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        _leave(error)


if __name__ == "__main__":
    main()
