from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrobust.reporting.records import Observers, Recorder, read_rounds, record_from, table_text
from fedrobust.types import ClientRecord, Failure, Observer, RoundRecord


def record(number: int, *clients: ClientRecord, failures: tuple[Failure, ...] = ()) -> RoundRecord:
    return RoundRecord(
        number,
        {"accuracy": 50.0, "auroc": None},
        clients,
        failures,
        {"train": 1.5},
        {"threshold": math.inf},
    )


def started(folder: Path) -> Recorder:
    recorder: Observer = Recorder(folder, ("clean", "poisoned"))
    recorder.run_started("run", 2, 2)
    assert isinstance(recorder, Recorder)
    return recorder


def test_every_round_is_on_disk_at_once(tmp_path: Path) -> None:
    recorder = started(tmp_path)
    for number in range(3):
        recorder.round_finished("run", record(number))
        assert [one.number for one in read_rounds(tmp_path)] == list(range(number + 1))
        assert [one.number for one in recorder.rounds["run"]] == list(range(number + 1))


def test_the_table_names_the_sites_of_clients_that_stand_for_sites(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ("clean", "poisoned"), (("oslo",), ("lyon", "graz")))
    recorder.run_started("run", 1, 2)
    recorder.round_finished(
        "run", record(1, ClientRecord(0, 30, 0.5, {}), ClientRecord(1, 20, 0.5, {}))
    )
    lines = (tmp_path / "clients.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("run,round,client,sites,kind,")
    assert lines[1].startswith("run,1,0,oslo,clean,")
    assert lines[2].startswith("run,1,1,lyon + graz,poisoned,")


def test_a_line_holds_all_of_a_round_and_no_nan(tmp_path: Path) -> None:
    recorder = started(tmp_path)
    client = ClientRecord(1, 30, 0.25, {"loss": math.nan}, {"trust": 0.5})
    recorder.round_finished(
        "run", record(1, client, failures=(Failure(0, "no reply", "Traceback\nline"),))
    )
    assert json.loads((tmp_path / "rounds.jsonl").read_text(encoding="utf-8")) == {
        "run": "run",
        "round": 1,
        "metrics": {"accuracy": 50.0, "auroc": None},
        "clients": [
            {
                "client": 1,
                "num_examples": 30,
                "weight": 0.25,
                "metrics": {"loss": None},
                "extras": {"trust": 0.5},
            }
        ],
        "failures": [
            {"client": 0, "reason": "no reply", "traceback": "Traceback\nline", "counts": True}
        ],
        "seconds": {"train": 1.5},
        "extras": {"threshold": None},
    }


def test_a_row_for_every_client_and_round_of_both_runs(tmp_path: Path) -> None:
    recorder = started(tmp_path)
    recorder.run_started("clean twin", 2, 2)
    for run in ("run", "clean twin"):
        for number in (1, 2):
            recorder.round_finished(
                run,
                record(
                    number, *(ClientRecord(c, 10 + c, 0.5, {"loss": 1.0 / number}) for c in (0, 1))
                ),
            )
    table = pd.read_csv(tmp_path / "clients.csv")
    assert list(table.columns) == [
        "run",
        "round",
        "client",
        "kind",
        "num_examples",
        "weight",
        "loss",
    ]
    assert len(table) == 8
    assert set(table[table.client == 1].kind) == {"poisoned"}
    assert table.groupby("run").size().to_dict() == {"run": 4, "clean twin": 4}
    lines = (tmp_path / "twin_rounds.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["clean twin", "clean twin"]
    for run, records in recorder.rounds.items():
        written = [replace(one, extras={"threshold": None}) for one in records]
        assert read_rounds(tmp_path, run) == written


WHOLE = st.integers(-(2**53), 2**53)
FIELDS = st.one_of(
    st.lists(one, min_size=3, max_size=3)
    for one in (
        WHOLE,
        st.none() | WHOLE,
        st.floats(),
        st.none() | st.floats() | WHOLE,
        st.booleans(),
        st.none() | st.booleans(),
        st.text(st.characters(codec="utf-8", exclude_characters="\r")),
    )
)


@given(st.dictionaries(st.sampled_from("abcde"), FIELDS, min_size=1), st.data())
def test_a_table_is_written_as_pandas_writes_it(
    columns: dict[str, list[Any]], data: st.DataObject
) -> None:
    rows = [{name: values[place] for name, values in columns.items()} for place in range(3)]
    del rows[1][data.draw(st.sampled_from(sorted(columns)))]  # one client did not report it
    names = sorted(columns)
    expected = pd.DataFrame(rows, columns=names).to_csv(
        header=False, index=False, lineterminator="\n"
    )
    assert table_text(rows, names) == expected


def test_columns_that_appear_later_are_added(tmp_path: Path) -> None:
    recorder = started(tmp_path)
    recorder.round_finished("run", record(1, ClientRecord(0, 10, 1.0, {"loss": 2.0})))
    recorder.round_finished(
        "run", record(2, ClientRecord(0, 10, 1.0, {"loss": 1.0}, {"loss": 7.0}))
    )
    recorder.round_finished("run", record(3, ClientRecord(0, 10, 1.0, {})))
    table = pd.read_csv(tmp_path / "clients.csv")
    assert table["round"].tolist() == [1, 2, 3]
    assert table["loss"].fillna(-1).tolist() == [2.0, 1.0, -1.0]
    assert table["server_loss"].fillna(-1).tolist() == [-1.0, 7.0, -1.0]


def test_starting_again_in_a_folder_begins_anew(tmp_path: Path) -> None:
    for _ in range(2):
        recorder = started(tmp_path)
        recorder.round_finished("run", record(1, ClientRecord(0, 10, 1.0, {})))
    assert len(read_rounds(tmp_path)) == 1
    assert len(pd.read_csv(tmp_path / "clients.csv")) == 1


def test_a_record_survives_the_way_over_a_dictionary_which_stays_as_it_was() -> None:
    full = record(
        2,
        ClientRecord(0, 12, 0.5, {"loss": 1.5}, {"trust": 0.25}),
        failures=(Failure(1, "gone", "Traceback\n"),),
    )
    item = asdict(full)
    assert record_from(item) == full
    assert record_from(item) == full


@pytest.mark.parametrize("torn", ["", '{"run": "run", "rou', '{"run": "run", "round": 7}\n{"run'])
def test_restored_rounds_replace_whatever_a_killed_process_wrote(tmp_path: Path, torn: str) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    rounds = [
        record(
            number,
            ClientRecord(0, 10, 1.0, {"loss": 1.0 / number}, {"late": 1.0} if number == 3 else {}),
        )
        for number in (1, 2, 3)
    ]
    whole, first = started(undisturbed), started(killed)
    for one in rounds:
        whole.round_finished("run", one)
        first.round_finished("run", one)
    for name in ("rounds.jsonl", "clients.csv"):
        with (killed / name).open("a") as file:
            file.write(torn)
    second = started(killed)
    second.rounds_restored("run", rounds[:2])
    second.round_finished("run", rounds[2])
    for name in ("rounds.jsonl", "clients.csv"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.parametrize("name", ["rounds.jsonl", "clients.csv"])
def test_a_full_disk_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recorder = started(tmp_path)
    recorder.round_finished("run", record(1, ClientRecord(0, 10, 1.0, {"loss": 1.0})))
    before, room = (tmp_path / name).read_bytes(), full_disk(monkeypatch, tmp_path / name)
    with pytest.raises(OSError, match="No space left") as error:
        recorder.round_finished("run", record(2, ClientRecord(0, 10, 1.0, {"loss": 0.5})))
    assert (room, error.value.filename) == (5, str(tmp_path / name))
    monkeypatch.undo()
    assert (tmp_path / name).read_bytes() == before


def full_disk(monkeypatch: pytest.MonkeyPatch, target: Path, room: int = 5) -> int:
    """Files opened from now on under this name take so many bytes and then no more."""
    plain = Path.open

    def opened(path: Path, *words: Any, **keywords: Any) -> Any:
        file = plain(path, *words, **keywords)
        return Full(file, room) if path == target else file

    monkeypatch.setattr(Path, "open", opened)
    return room


class Full:
    """A file on an almost full disk."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: self.room])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_file_no_rounds_and_unknown_runs_are_refused(tmp_path: Path) -> None:
    assert read_rounds(tmp_path, "clean twin") == []
    with pytest.raises(KeyError):
        started(tmp_path).run_started("other", 1, 1)


def test_observers_pass_every_event_on_in_order() -> None:
    seen: list[tuple[object, ...]] = []

    class Spy:
        def __init__(self, name: str) -> None:
            self.name = name

        def run_started(self, run: str, rounds: int, num_clients: int) -> None:
            seen.append((self.name, "run_started", run, rounds, num_clients))

        def round_started(self, run: str, number: int) -> None:
            seen.append((self.name, "round_started", run, number))

        def client_done(self, run: str, stage: str, client: int, failed: bool) -> None:
            seen.append((self.name, "client_done", run, stage, client, failed))

        def stage(self, run: str, text: str) -> None:
            seen.append((self.name, "stage", run, text))

        def round_finished(self, run: str, record: RoundRecord) -> None:
            seen.append((self.name, "round_finished", run, record.number))

        def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None:
            seen.append((self.name, "rounds_restored", run, len(records)))

    both: Observer = Observers([Spy("a"), Spy("b")])
    both.run_started("run", 2, 3)
    both.round_started("run", 1)
    both.client_done("run", "train", 4, True)
    both.stage("run", "now")
    both.round_finished("run", record(1))
    both.rounds_restored("run", [record(1)])
    events = [
        ("run_started", "run", 2, 3),
        ("round_started", "run", 1),
        ("client_done", "run", "train", 4, True),
        ("stage", "run", "now"),
        ("round_finished", "run", 1),
        ("rounds_restored", "run", 1),
    ]
    assert seen == [(name, *event) for event in events for name in ("a", "b")]
