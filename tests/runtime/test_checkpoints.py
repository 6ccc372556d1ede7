"""The checkpoints of a run: all of it to the bit, the last few, never a damaged one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import RunError
from fedrobust.runtime.checkpoints import EXTRA, Checkpoint, Checkpoints, record_text
from fedrobust.state import Layout, State
from fedrobust.types import ClientRecord, Failure, RoundRecord
from fedrobust.utils import files, nested, tensor_files
from tests.helpers import models

LAYOUT = Layout.of(models.classifier())


def record(number: int) -> RoundRecord:
    client = ClientRecord(1, 9, 0.1 + 0.2, {"loss": math.nan}, {"trust": -0.0})
    return RoundRecord(
        number,
        {"accuracy": 100 / 3, "auroc": None, "n": 7},
        (client,),
        (Failure(0, "gone", "Trace\nback ü"),),
        {"train": 1.5},
    )


def checkpoint(number: int, run: str = "run") -> Checkpoint:
    g = torch.Generator().manual_seed(number)
    state = State(
        torch.randn(LAYOUT.num_parameters, generator=g), torch.rand(LAYOUT.num_buffers, generator=g)
    )
    memory = {
        "suspicion": {0: 0.25, 3: 1e-300},
        "momentum": torch.randn(4, generator=g, dtype=torch.float64),
        "inner": {"n": number},
    }
    clients = {
        2: {
            "own": {"kind": "arrays", "items": {"buffers": {"vector": torch.rand(3, generator=g)}}},
            "data": b"\x00\xff",
        }
    }
    return Checkpoint(
        run,
        number,
        state,
        memory,
        clients,
        tuple(record_text(record(r)) for r in range(number + 1)),
    )


def store(folder: Path, every: int = 1, keep: int = 2, experiment: str = "e") -> Checkpoints:
    return Checkpoints(folder / "checkpoints", LAYOUT, experiment, every, keep)


def save(where: Checkpoints, number: int, run: str = "run") -> Path:
    return where.write(run, number, where.snapshot(checkpoint(number, run)))


def names(where: Checkpoints) -> list[str]:
    return sorted(path.name for path in where.folder.iterdir())


def equal(one: Checkpoint, two: Checkpoint) -> bool:
    """To the bit."""
    plain, tensors = zip(
        *(nested.flatten([c.memory, c.clients, c.history, c.run, c.round]) for c in (one, two)),
        strict=True,
    )
    pairs = [
        *zip(*tensors, strict=True),
        (one.state.parameters, two.state.parameters),
        (one.state.buffers, two.state.buffers),
    ]
    return plain[0] == plain[1] and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    where = store(tmp_path)
    save(where, 3)
    found, problems = where.latest("run")
    assert found is not None
    assert equal(found, checkpoint(3))
    assert problems == []
    # repr: a NaN equals nothing
    assert [repr(one) for one in found.records()] == [repr(record(number)) for number in range(4)]
    assert list(found.memory["suspicion"]) == [0, 3]


def test_it_is_a_safetensors_file_with_the_model_under_its_names(tmp_path: Path) -> None:
    where = store(tmp_path)
    tensors = tensor_files.read_sealed(save(where, 1))
    model = {name: tensor for name, tensor in tensors.items() if not name.startswith(EXTRA)}
    named = LAYOUT.named(checkpoint(1).state)
    assert model.keys() == named.keys()
    assert all(torch.equal(model[name], named[name]) for name in named)


def test_a_snapshot_holds_copies_of_what_is_remembered(tmp_path: Path) -> None:
    """It is written during the next round, and a rule may change its momentum in place."""
    where, now = store(tmp_path), checkpoint(1)
    tensors = where.snapshot(now)
    now.memory["momentum"].zero_()
    where.write("run", 1, tensors)
    found, _ = where.latest("run")
    assert found is not None
    assert torch.equal(found.memory["momentum"], checkpoint(1).memory["momentum"])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_few_are_kept_of_each_run(tmp_path: Path, keep: int) -> None:
    where = store(tmp_path, keep=keep)
    for number in range(1, 5):
        save(where, number)
    for number in range(1, 3):
        save(where, number, "clean twin")
    expected = [f"run-{number:06d}.safetensors" for number in range(5 - keep, 5)]
    assert (
        names(where) == expected + [f"twin-{number:06d}.safetensors" for number in (1, 2)][-keep:]
    )
    assert where.latest("clean twin")[0] is not None


def test_rounds_are_ordered_as_numbers_and_other_files_left_alone(tmp_path: Path) -> None:
    where = store(tmp_path, keep=5)
    for number in (2, 10, 9):
        save(where, number)
    for other in ("run-11.txt", "model.safetensors", "run-x.safetensors"):
        (where.folder / other).write_text("mine")
    assert [path.name for path in where.files("run")] == [
        f"run-{number:06d}.safetensors" for number in (10, 9, 2)
    ]
    where.clear()
    assert names(where) == ["model.safetensors", "run-11.txt", "run-x.safetensors"]


@pytest.mark.parametrize(
    ("every", "last", "expected"), [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (7, 5, [5]), (0, 3, [])]
)
def test_every_so_many_rounds_and_at_the_end(
    tmp_path: Path, every: int, last: int, expected: list[int]
) -> None:
    where = store(tmp_path, every=every)
    assert [number for number in range(last + 1) if where.due(number, last)] == expected


def test_nothing_there_is_nothing_found(tmp_path: Path) -> None:
    where = store(tmp_path)
    assert where.latest("run") == (None, [])
    where.clear()
    assert list(tmp_path.iterdir()) == []


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_damage_is_noticed_and_the_one_before_is_taken(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    where = store(tmp_path_factory.mktemp("damage"))
    save(where, 1)
    path = save(where, 2)
    whole = path.read_bytes()
    place, length = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 40))
    path.write_bytes(
        whole[:place]
        + data.draw(st.binary(min_size=length, max_size=length))
        + whole[place + data.draw(st.integers(0, 40)) :]
    )
    found, problems = where.latest("run")
    assert found is not None
    if path.read_bytes() == whole:
        assert (found.round, problems) == (2, [])
    else:
        assert equal(found, checkpoint(1))
        assert problems == ["run-000002.safetensors: damaged or cut off, its hash differs"]


def test_where_none_is_usable_each_is_named(tmp_path: Path) -> None:
    where = store(tmp_path)
    for number in (1, 2):
        save(where, number).write_bytes(b"")
    found, problems = where.latest("run")
    assert found is None
    assert [problem.split(":")[0] for problem in problems] == [
        "run-000002.safetensors",
        "run-000001.safetensors",
    ]


def test_whole_files_of_others_are_not_usable(tmp_path: Path) -> None:
    where = store(tmp_path)
    path = save(where, 1)
    assert store(tmp_path, experiment="another").latest("run")[1] == [
        f"{path.name}: belongs to another configuration or program"
    ]
    path.rename(path.with_name("twin-000001.safetensors"))
    assert where.latest("clean twin")[1] == [
        "twin-000001.safetensors: belongs to another configuration or program"
    ]
    wider = replace(where, layout=Layout.of(models.classifier(num_classes=4, head="linear")))
    assert "belongs to another model" in (save(where, 2) and wider.latest("run")[1][0])
    bare = files.write(
        where.folder / "run-000003.safetensors",
        [b"".join(tensor_files.pieces({"x": torch.zeros(1)}, seal=True))],
    )
    found, problems = where.latest("run")
    assert found is not None
    assert problems == [
        f"{bare.name}: not a checkpoint of this program (KeyError: 'checkpoint/json')"
    ]


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ({"x": {1, 2}}, r"\['memory'\]\['x'\] is of type set"),
        ({"x": torch.zeros(1, dtype=torch.complex64)}, "complex64"),
    ],
)
def test_a_memory_that_no_file_can_hold_ends_in_one_line(
    tmp_path: Path, memory: dict[str, object], words: str
) -> None:
    where = store(tmp_path)
    with pytest.raises(
        RunError, match=rf"server\.checkpoint_every: .*{words}.*, which no checkpoint can hold"
    ) as error:
        where.snapshot(replace(checkpoint(1), memory=memory))
    assert "\n" not in str(error.value)


def test_leftovers_are_swept(tmp_path: Path) -> None:
    where = store(tmp_path)
    save(where, 1)
    (where.folder / ".run-000002.safetensors.77.tmp").write_bytes(b"half")
    where.sweep()
    assert names(where) == ["run-000001.safetensors"]
    where.clear()
    assert not where.folder.exists()
