"""The checkpoints of a run: after a round, all that the next round needs; the last few are kept,
damaged ones are passed over.

A checkpoint is one sealed safetensors file (`tensorfile`): the global model's tensors under their
names, as in model.safetensors, and beside them, with `EXTRA` in front, the tensors that the rule
and the clients remember, and as bytes the records of the rounds so far and one JSON text with all
the rest. Nothing random is in it: every draw comes from the seed, its purpose and the round.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from fedrobust.errors import DataError, RunError
from fedrobust.learning.model_files import gather_vector
from fedrobust.reporting.records import record_from
from fedrobust.runtime.messages.arrays import find_fault
from fedrobust.runtime.messages.client_state import from_plain
from fedrobust.state import Layout, State
from fedrobust.types import TWIN, RoundRecord
from fedrobust.utils import files as atomic
from fedrobust.utils import nested, tensor_files
from fedrobust.utils.foreign_text import escape_text

PREFIXES = {"run": "run", TWIN: "twin"}
VERSION = 1
EXTRA = "checkpoint/"
_RECORD = TypeAdapter(RoundRecord)
TEXT, HISTORY = f"{EXTRA}json", f"{EXTRA}history"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run after server round `round`: the global model, what the rule remembers (any nested value
    of `trees`), what each client remembers (likewise, by client number), the records of rounds
    0 ... `round`, each as a text of `record_text`, and the global model of the best round, where
    that is wanted and not this one."""

    run: str
    round: int
    state: State
    memory: Mapping[str, Any]
    clients: Mapping[int, Any]
    history: tuple[str, ...]
    best: State | None = None

    def records(self) -> list[RoundRecord]:
        """The records of the rounds so far."""
        return [record_from(json.loads(text)) for text in self.history]


def record_text(record: RoundRecord) -> str:
    """A record as one line of JSON that loses nothing, NaN included. (A round is made text once,
    however many checkpoints follow.)"""
    return json.dumps(asdict(record))


@final
@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in `folder`, which is made with the first of them.

    layout: of the model. experiment: a digest of the run's configuration; a checkpoint of another
    one is not usable. every: rounds between two checkpoints (0: none are written); the last round
    always has one. keep: how many are kept of the run and of its twin.
    """

    folder: Path
    layout: Layout
    experiment: str
    every: int = 1
    keep: int = 2

    def due(self, number: int, last: int) -> bool:
        """Whether there shall be a checkpoint after this round of so many."""
        return self.every > 0 and number > 0 and (number % self.every == 0 or number == last)

    def files(self, run: str) -> list[Path]:
        """Those of one run, newest first."""
        pattern = re.compile(rf"{PREFIXES[run]}-(\d+)\.safetensors")
        found = [
            (int(match[1]), path)
            for path in self.folder.glob("*")
            if (match := pattern.fullmatch(path.name))
        ]
        return [path for _, path in sorted(found, reverse=True)]

    def write(self, run: str, number: int, tensors: Mapping[str, Tensor]) -> Path:
        """Write the snapshot of a run after round `number`, and take away those of that run that
        are no longer needed. Raises OSError."""
        path = self.folder / f"{PREFIXES[run]}-{number:06d}.safetensors"
        atomic.write(
            path, tensor_files.pieces(tensors, {"run": run, "round": str(number)}, seal=True)
        )
        for old in [one for one in self.files(run) if one.name <= path.name][self.keep :]:
            old.unlink()
        return path

    def latest(
        self, run: str, take: Callable[[Checkpoint], None] = lambda _: None
    ) -> tuple[Checkpoint | None, list[str]]:
        """The newest usable one, or None, and for every newer one a line that says why it cannot be
        used.

        Args:
            run: "run" or "clean twin".
            take: what is done with the checkpoint, or nothing; one that it refuses with a
                ValueError is not usable either.
        """
        problems: list[str] = []
        for path in self.files(run):
            try:
                found = self._load(run, path)
                take(found)
            except DataError as error:
                problems.append(str(error))
            except ValueError as error:
                problems.append(_not_ours(path, error))
            else:
                return found, problems
        return None, problems

    def sweep(self) -> None:
        """Take away what a killed process was writing. Only for the one process that works in the
        folder."""
        for path in atomic.leftovers(self.folder):
            path.unlink()

    def clear(self) -> None:
        """Take away all of them, and the folder if nothing else lies there."""
        self.sweep()
        for path in (path for run in PREFIXES for path in self.files(run)):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def snapshot(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """All of it as tensors. Those of the memories are copies, so that nothing can change them
        before they are written; the state's are not.

        Raises RunError where the rule or a client remembers what no file can hold.
        """
        rest = {
            "version": VERSION,
            "experiment": self.experiment,
            "run": checkpoint.run,
            "round": checkpoint.round,
            "memory": checkpoint.memory,
            "clients": checkpoint.clients,
            "best": _plain_state(checkpoint.best),
        }
        try:
            plain, tensors = nested.flatten(rest)
            extra = {
                f"{EXTRA}{number}": tensor.cpu().clone() for number, tensor in enumerate(tensors)
            }
            tensor_files.check_tensors(extra)
        except TypeError as error:
            raise RunError(
                f"server.checkpoint_every: {error}, which no checkpoint can hold; use "
                "0, or tensors, numbers, words"
            ) from error
        texts = {
            TEXT: _as_tensor(json.dumps(plain)),
            HISTORY: _as_tensor("\n".join(checkpoint.history)),
        }
        return {**self.layout.named(checkpoint.state), **extra, **texts}

    def _load(self, run: str, path: Path) -> Checkpoint:
        """Raises DataError where the file is damaged, of another run, or holds anything that a run
        could not go on with."""
        tensors = tensor_files.read_sealed(path)
        try:
            plain, history = (
                json.loads(_as_text(tensors.pop(TEXT))),
                tuple(_as_text(tensors.pop(HISTORY)).split("\n")),
            )
            if (
                plain["version"] != VERSION
                or plain["experiment"] != self.experiment
                or plain["run"] != run
            ):
                raise DataError(f"{path.name}: belongs to another configuration or program")
            extra = [tensors.pop(name) for name in _numbered(tensors)]
            rest = nested.unflatten(plain, extra)
            found = Checkpoint(
                run,
                rest["round"],
                self._state(tensors, path),
                rest["memory"],
                rest["clients"],
                history,
                self._best(rest.get("best")),
            )
            _check_types(found, path)
        except tensor_files.UNREADABLE as error:
            raise DataError(_not_ours(path, error)) from error
        return found

    def _best(self, found: Any) -> State | None:
        """The best model, all usable numbers; None where the checkpoint has none."""
        if found is None:
            return None
        sizes = {"parameters": self.layout.num_parameters, "buffers": self.layout.num_buffers}
        if not isinstance(found, Mapping) or found.keys() != sizes.keys():
            raise TypeError("the best model is not that of this run")
        for name, size in sizes.items():
            one = found[name]
            if not isinstance(one, Tensor) or one.shape != (size,) or one.dtype != torch.float32:
                raise TypeError(f"{name} of the best model are not those of this run")
            if fault := find_fault(one):
                raise ValueError(f"{name} of the best model hold {fault}")
        return State(found["parameters"], found["buffers"])

    def _state(self, tensors: Mapping[str, Tensor], path: Path) -> State:
        """The global model's tensors: those of the layout, no other ones, all usable numbers."""
        state = State(
            gather_vector(tensors, self.layout.parameters, path),
            gather_vector(tensors, self.layout.buffers, path),
        )
        known = {name for name, _ in (*self.layout.parameters, *self.layout.buffers)}
        if strange := sorted(tensors.keys() - known):
            raise ValueError(f"tensor {strange[0]} belongs to no model of this run")
        for name in known:
            if tensors[name].dtype != torch.float32:
                raise TypeError(f"tensor {name} is of type {tensors[name].dtype}")
            if fault := find_fault(tensors[name]):
                raise ValueError(f"tensor {name} holds {fault}")
        return state


def _check_types(found: Checkpoint, path: Path) -> None:
    """Raises one of UNREADABLE unless everything is of the type and in the order that `snapshot`
    writes."""
    if type(found.round) is not int or f"-{found.round:06d}." not in path.name:
        raise ValueError(f"round {found.round!r} under another name")
    if not isinstance(found.memory, Mapping) or not all(type(key) is str for key in found.memory):
        raise TypeError("what the rule remembers has no names")
    if not all(type(client) is int for client in found.clients):
        raise TypeError("what the clients remember has no numbers")
    from_plain(found.clients)
    for text in found.history:
        _check_record(text)
    if [record.number for record in found.records()] != list(range(found.round + 1)):
        raise ValueError("the records are not those of all rounds")


def _check_record(text: str) -> None:
    try:
        _RECORD.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"record of a round: {place}: {first['msg']}") from error


def _not_ours(path: Path, error: BaseException) -> str:
    reason = escape_text(f"{type(error).__name__}: {error}")
    return f"{path.name}: not a checkpoint of this program ({reason})"


def _plain_state(state: State | None) -> dict[str, Tensor] | None:
    return None if state is None else {"parameters": state.parameters, "buffers": state.buffers}


def _as_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _as_text(tensor: Tensor) -> str:
    return tensor.numpy().tobytes().decode()


def _numbered(names: Iterable[str]) -> list[str]:
    """The names of the extra tensors in the order of their numbers."""
    return sorted(
        (name for name in names if name.startswith(EXTRA)),
        key=lambda name: int(name.removeprefix(EXTRA)),
    )
