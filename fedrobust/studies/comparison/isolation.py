"""Runs one after the other in one process, each as if the process were new."""

from __future__ import annotations

import gc
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedrobust.runtime.client import handlers
from fedrobust.runtime.engines.malloc import give_back_freed_memory
from fedrobust.utils.garbage import freeze_objects


def _set_environment(wanted: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _set_words(wanted: Sequence[str]) -> None:
    sys.argv[:] = wanted


# what a run, or a library in it, could leave changed: how to read it, and how to set it
GLOBALS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (os.getcwd, os.chdir),
    (lambda: dict(os.environ), _set_environment),
    (lambda: list(sys.argv), _set_words),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.initial_seed, torch.manual_seed),  # of the CPU and of all GPUs
    (np.random.get_state, np.random.set_state),  # libraries draw from it
    (random.getstate, random.setstate),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
)


class NewProcess:
    """The state of this process as it is now, before its first run."""

    def __init__(self) -> None:
        self._values = [read() for read, _ in GLOBALS]
        self._used = False

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within it the process is as it was at first: global random numbers, threads, environment,
        folder, warnings, kept experiments. Afterwards nothing of the run is left but what a run
        cannot change: imported modules, data sets, compiled functions."""
        self._restore()
        reset_peak_memory()
        with warnings.catch_warnings():  # each is shown again, though it was shown to the last run
            try:
                yield
            finally:
                self._restore()
                handlers.forget_runs()
                self._collect()

    def _restore(self) -> None:
        for (_, write), value in zip(GLOBALS, self._values, strict=True):
            write(value)

    def _collect(self) -> None:
        gc.collect()
        if not self._used:
            freeze_objects()  # those of the modules
            self._used = True
        give_back_freed_memory()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def reset_peak_memory() -> None:
    """Let this process's peak memory begin anew, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
