"""Records of each round, written while it happens: rounds.jsonl and clients.csv, and their
readers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedrobust.types import TWIN, ClientRecord, Failure, Observer, RoundRecord
from fedrobust.utils import files
from fedrobust.utils.foreign_text import split_lines

ROUND_FILES = {"run": "rounds.jsonl", TWIN: "twin_rounds.jsonl"}
CLIENTS = "clients.csv"


@dataclass(frozen=True, slots=True)
class Observers:
    """Several observers as one; each event reaches them in their order."""

    observers: Sequence[Observer]

    def run_started(self, run: str, rounds: int, num_clients: int) -> None:
        for one in self.observers:
            one.run_started(run, rounds, num_clients)

    def round_started(self, run: str, number: int) -> None:
        for one in self.observers:
            one.round_started(run, number)

    def client_done(self, run: str, stage: str, client: int, failed: bool) -> None:
        for one in self.observers:
            one.client_done(run, stage, client, failed)

    def stage(self, run: str, text: str) -> None:
        for one in self.observers:
            one.stage(run, text)

    def round_finished(self, run: str, record: RoundRecord) -> None:
        for one in self.observers:
            one.round_finished(run, record)

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None:
        for one in self.observers:
            one.rounds_restored(run, records)


class Recorder:
    """An Observer that writes every finished round at once, so that a crash loses no finished
    round.

    folder: the output folder. kinds: the kind of each client ("clean", "noisy", "poisoned"), by
    client number; the clean twin's rows carry the same kinds, although no client is contaminated
    there, so that a client can be compared with itself. rounds.jsonl and twin_rounds.jsonl hold one
    JSON object a line: run, round, metrics, clients, failures, seconds, extras, and stopped, the
    reason, where a run ended before its last round; values that are not finite become null.
    clients.csv has the columns run, round, client, sites (joined by " + "; only where clients stand
    for sites), kind, num_examples, weight, then what the clients reported, then what the rule said
    of them with "server_" in front.

    sites: names of the sites that each client stands for, by client number; empty: none does.

    rounds: what was written, by run ("run" and "clean twin"), oldest first; empty of a run that did
    not start.
    """

    def __init__(
        self, folder: Path, kinds: Sequence[str], sites: Sequence[Sequence[str]] = ()
    ) -> None:
        self._folder = folder
        self._kinds = tuple(kinds)
        self._sites = tuple(" + ".join(names) for names in sites)
        self.rounds: dict[str, list[RoundRecord]] = {name: [] for name in ROUND_FILES}
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []

    def run_started(self, run: str, rounds: int, num_clients: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / ROUND_FILES[run]).write_text("", encoding="utf-8")
        self.rounds[run] = []

    def round_started(self, run: str, number: int) -> None:
        """Nothing to write yet."""

    def client_done(self, run: str, stage: str, client: int, failed: bool) -> None:
        """Nothing to write yet."""

    def stage(self, run: str, text: str) -> None:
        """Nothing to write."""

    def round_finished(self, run: str, record: RoundRecord) -> None:
        line = json.dumps(round_line(run, record), ensure_ascii=False, allow_nan=False)
        files.append(self._folder / ROUND_FILES[run], line + "\n")
        self._append(client_rows(run, record, self._kinds, self._sites))
        self.rounds[run].append(record)

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None:
        """The files are written anew up to here: lines that a killed process wrote after its last
        checkpoint is done again."""
        for record in records:
            self.round_finished(run, record)

    def _append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows at the end; a column never seen before means that the whole file is written
        again."""
        if not rows:
            return
        self._rows += rows
        fresh = [
            name
            for name in dict.fromkeys(key for row in rows for key in row)
            if name not in self._columns
        ]
        self._columns += fresh
        path = self._folder / CLIENTS
        if fresh:
            text = table_text([dict(zip(self._columns, self._columns, strict=True))], self._columns)
            files.write(path, [(text + table_text(self._rows, self._columns)).encode()])
        else:
            files.append(path, table_text(rows, self._columns))


def table_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV, as pandas writes them (which takes half a second to import).

    Args:
        rows: of a table; a value that is missing, None or NaN is an empty field.
        columns: their order. In a column of numbers a fraction or an empty field makes floats of
            all of them.
    """
    out = io.StringIO()
    values = {name: _column([row.get(name) for row in rows]) for name in columns}
    csv.writer(out, lineterminator="\n").writerows(zip(*values.values(), strict=True))
    return out.getvalue()


def _column(values: Sequence[Any]) -> list[Any]:
    """The values of a column as they are written; None: an empty field."""
    found = [None if isinstance(one, float) and math.isnan(one) else one for one in values]
    kinds = {type(one) for one in found if one is not None}
    if kinds == {int, float} or (kinds == {int} and None in found):
        return [None if one is None else float(one) for one in found]
    return found


def round_line(run: str, record: RoundRecord) -> dict[str, Any]:
    """A round as one JSON object."""
    fields = asdict(record)
    if not record.stopped:
        del fields["stopped"]
    line: dict[str, Any] = _finite({"run": run, "round": fields.pop("number"), **fields})
    return line


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def client_rows(
    run: str, record: RoundRecord, kinds: Sequence[str], sites: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One row a client that replied. kinds, sites: by client number; no sites: no such column."""
    return [
        {
            "run": run,
            "round": record.number,
            "client": client.client,
            **({"sites": sites[client.client]} if sites else {}),
            "kind": kinds[client.client],
            "num_examples": client.num_examples,
            "weight": client.weight,
            **client.metrics,
            **{f"server_{name}": value for name, value in client.extras.items()},
        }
        for client in record.clients
    ]


def record_from(item: dict[str, Any]) -> RoundRecord:
    """The inverse of `dataclasses.asdict` on a RoundRecord."""
    clients = tuple(ClientRecord(**client) for client in item["clients"])
    failures = tuple(Failure(**failure) for failure in item["failures"])
    return RoundRecord(**{**item, "clients": clients, "failures": failures})


def read_rounds(folder: Path, run: str = "run") -> list[RoundRecord]:
    """The rounds of one run's file, oldest first; empty where there is no such file (no twin was
    asked for). A value that was not finite comes back as None."""
    path = folder / ROUND_FILES[run]
    if not path.exists():
        return []
    return [_parse_line(line) for line in split_lines(path.read_text(encoding="utf-8"))]


def _parse_line(line: str) -> RoundRecord:
    """The inverse of `round_line`."""
    item = json.loads(line)
    del item["run"]
    return record_from({"number": item.pop("round"), **item})
