"""The checkpoints of a run: all of it to the bit, the last few, never a damaged one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import RunError
from fedrobust.runtime.checkpoints import (
    EXTRA,
    HISTORY,
    TEXT,
    Checkpoint,
    Checkpoints,
    record_text,
)
from fedrobust.runtime.server.checkpointing import CheckpointManager
from fedrobust.state import Layout, State
from fedrobust.types import ClientRecord, Failure, RoundRecord
from fedrobust.utils import files, nested, tensor_files
from tests.helpers import models
from tests.helpers.federations import FakeGrid

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
            "data": {"kind": "config", "items": {"data": b"\x00\xff", "n": 3}},
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


def test_the_best_model_comes_back_and_only_a_usable_one(tmp_path: Path) -> None:
    where, best = store(tmp_path), checkpoint(7).state
    for number in (1, 2):
        where.write("run", number, where.snapshot(replace(checkpoint(number), best=best)))
    found, _ = where.latest("run")
    assert found is not None
    assert found.best is not None
    assert torch.equal(found.best.parameters, best.parameters)
    assert torch.equal(found.best.buffers, best.buffers)
    for wrong, reason in (
        (State(best.parameters[1:], best.buffers), "parameters of the best model are not"),
        (State(best.parameters, best.buffers.double()), "buffers of the best model are not"),
        (State(best.parameters * math.nan, best.buffers), "hold values that are not finite"),
    ):
        where.write("run", 2, where.snapshot(replace(checkpoint(2), best=wrong)))
        found, (problem,) = where.latest("run")
        assert found is not None
        assert found.round == 1
        assert reason in problem


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
@settings(max_examples=25)
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
        (problem,) = problems
        assert problem.startswith("run-000002.safetensors: damaged or cut off, its h")


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


# --- whole files, sealed anew, of which something is not what it should be ---

Tree = dict[str, Any]


def sealed(header: bytes, data: bytes) -> bytes:
    """A file whose hash is right, whatever stands in its header."""
    whole = len(header).to_bytes(8, "little") + header + data
    return whole + hashlib.sha256(whole).digest()


def with_header(whole: bytes, change: Callable[[Tree], object]) -> bytes:
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    change(header)
    return sealed(json.dumps(header).encode(), whole[end : -tensor_files.SEAL_BYTES])


def with_tensors(whole: bytes, change: Callable[[dict[str, torch.Tensor]], object]) -> bytes:
    tensors = safetensors.torch.load(whole)
    del tensors[tensor_files.SEAL]
    change(tensors)
    return b"".join(tensor_files.pieces(tensors, seal=True))


def with_tree(whole: bytes, change: Callable[[Tree], object]) -> bytes:
    """The JSON text with all that is no tensor is another one."""

    def replaced(tensors: dict[str, torch.Tensor]) -> None:
        tree = json.loads(tensors[TEXT].numpy().tobytes())
        change(tree)
        tensors[TEXT] = as_tensor(json.dumps(tree))

    return with_tensors(whole, replaced)


def with_history(whole: bytes, change: Callable[[list[Any]], object]) -> bytes:
    def replaced(tensors: dict[str, torch.Tensor]) -> None:
        lines = [json.loads(line) for line in tensors[HISTORY].numpy().tobytes().split(b"\n")]
        change(lines)
        tensors[HISTORY] = as_tensor("\n".join(map(json.dumps, lines)))

    return with_tensors(whole, replaced)


def as_tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)


def first(tensors: dict[str, torch.Tensor]) -> str:
    """A name of the model's tensors."""
    return next(name for name in sorted(tensors) if not name.startswith((EXTRA, "__", "sha")))


def of_dtype(dtype: str) -> Callable[[Tree], object]:
    return lambda header: header[first(header)].update(dtype=dtype)


WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "F4": (lambda w: with_header(w, of_dtype("F4")), "not a safetensors file"),
    "F8": (lambda w: with_header(w, of_dtype("F8_E4M3")), "not a safetensors file"),
    "no dtype": (lambda w: with_header(w, of_dtype("X")), "not a safetensors file"),
    "cut header": (lambda w: sealed(w[8:90], w[90:]), "its header and its length differ"),
    "huge header": (lambda w: b"\xff" * 8 + w[8:], "its header and its length differ"),
    "long header": (
        lambda w: (10**6).to_bytes(8, "little") + w[8:],
        "its header and its length differ",
    ),
    "deep header": (
        lambda w: sealed(b'{"a":' + b"[" * 10**6, b""),
        "its header and its length differ",
    ),
    "list header": (lambda w: sealed(b"[1, 2]", b""), "its header and its length differ"),
    "empty": (lambda w: b"", "its header and its length differ"),
    "offsets": (
        lambda w: with_header(w, lambda h: h[first(h)].update(data_offsets=[8, 4])),
        "not a safetensors file",
    ),
    "half": (
        lambda w: with_tensors(w, lambda t: t.update({first(t): t[first(t)].half()})),
        "is of type torch.float16",
    ),
    "shape": (
        lambda w: with_tensors(w, lambda t: t.update({first(t): t[first(t)][None]})),
        "it belongs to another model",
    ),
    "name": (
        lambda w: with_tensors(w, lambda t: t.update(x=torch.zeros(1))),
        "tensor x belongs to no model of this run",
    ),
    "missing": (
        lambda w: with_tensors(w, lambda t: t.pop(first(t))),
        "it belongs to another model",
    ),
    "nan": (
        lambda w: with_tensors(w, lambda t: t.update({first(t): t[first(t)] * math.nan})),
        "holds values that are not finite",
    ),
    "size": (
        lambda w: with_tensors(w, lambda t: t.update({first(t): t[first(t)] * 0 - 3e38})),
        "holds values beyond 1e+15",
    ),
    "text": (
        lambda w: with_tensors(w, lambda t: t.update({TEXT: torch.ones(3)})),
        "not a checkpoint of this program",
    ),
    "no text": (lambda w: with_tensors(w, lambda t: t.pop(HISTORY)), "KeyError"),
    "round x": (lambda w: with_tree(w, lambda t: t.update(round="x")), "round 'x'"),
    "round -5": (lambda w: with_tree(w, lambda t: t.update(round=-5)), "round -5"),
    "round 2.0": (lambda w: with_tree(w, lambda t: t.update(round=2.0)), "round 2.0"),
    "round true": (lambda w: with_tree(w, lambda t: t.update(round=True)), "round True"),
    "round 7": (lambda w: with_tree(w, lambda t: t.update(round=7)), "round 7"),
    "memory list": (lambda w: with_tree(w, lambda t: t.update(memory=[1])), "has no names"),
    "memory word": (lambda w: with_tree(w, lambda t: t.update(memory="x")), "has no names"),
    "memory numbers": (
        lambda w: with_tree(w, lambda t: t.update(memory={"!dict": [[1, 2]]})),
        "has no names",
    ),
    "deep": (
        lambda w: with_tensors(w, lambda t: t.update({TEXT: as_tensor("[" * 10**6)})),
        "RecursionError",
    ),
    "tensor 99": (
        lambda w: with_tree(w, lambda t: t["memory"].update(x={"!tensor": 99, "device": "cpu"})),
        "IndexError",
    ),
    "tensor -1": (
        lambda w: with_tree(w, lambda t: t["memory"].update(x={"!tensor": -1, "device": "cpu"})),
        "no number of a tensor",
    ),
    "device": (
        lambda w: with_tree(w, lambda t: t["memory"].update(x={"!tensor": 0, "device": "x\n"})),
        "not a checkpoint of this program",
    ),
    "clients list": (lambda w: with_tree(w, lambda t: t.update(clients=[1])), "AttributeError"),
    "clients words": (lambda w: with_tree(w, lambda t: t.update(clients={"a": {}})), "no numbers"),
    "best word": (lambda w: with_tree(w, lambda t: t.update(best="x")), "the best model is not"),
    "best numbers": (
        lambda w: with_tree(w, lambda t: t.update(best={"parameters": 1, "buffers": 2})),
        "parameters of the best model are not",
    ),
    "client 2": (
        lambda w: with_tree(w, lambda t: t.update(clients={"!dict": [[2, {"own": 1}]]})),
        "TypeError",
    ),
    "version": (lambda w: with_tree(w, lambda t: t.update(version="1")), "another configuration"),
    "no key": (lambda w: with_tree(w, lambda t: t.pop("run")), "KeyError"),
    "history gap": (lambda w: with_history(w, lambda h: h.pop(1)), "not those of all rounds"),
    "history types": (
        lambda w: with_history(w, lambda h: h[1].update(seconds="x")),
        "record of a round: seconds",
    ),
    "history weight": (
        lambda w: with_history(w, lambda h: h[1]["clients"][0].update(weight=[])),
        "record of a round: clients.0.weight",
    ),
    "history key": (lambda w: with_history(w, lambda h: h[1].update(x=1)), "TypeError"),
    "history list": (lambda w: with_history(w, lambda h: h.append([])), "record of a round"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_mistyped_one_is_passed_over_with_its_reason(tmp_path: Path, kind: str) -> None:
    change, reason = WRONG[kind]
    where = store(tmp_path)
    save(where, 1)
    path = save(where, 2)
    path.write_bytes(change(path.read_bytes()))
    found, problems = where.latest("run")
    assert found is not None
    assert equal(found, checkpoint(1))
    (problem,) = problems
    assert f"{path.name}: " in problem
    assert reason in problem
    assert problem.isprintable()
    assert len(problem) < 400


def test_one_of_more_rounds_or_other_clients_is_passed_over_too(tmp_path: Path) -> None:
    """Only who takes it up knows how many there are."""
    where, said = store(tmp_path), list[str]()
    save(where, 1)
    path = save(where, 2)
    grid = FakeGrid(3, lambda message: pytest.fail("nobody is asked"))
    with CheckpointManager(where, grid, said.append) as manager:
        found = manager.restore("run", last=1)
        assert found is not None
        assert said[0] == (
            f"checkpoint {path.name}: not a checkpoint of this program "
            "(ValueError: after round 2 of 1)"
        )
        few = FakeGrid(2, lambda message: pytest.fail("nobody is asked"))
        with CheckpointManager(where, few, said.append) as other:
            assert other.restore("run") is None
    assert "there are no clients [2]" in said[2]


def test_a_pipe_or_a_folder_in_its_place_is_passed_over(tmp_path: Path) -> None:
    where = store(tmp_path)
    save(where, 1)
    os.mkfifo(where.folder / "run-000002.safetensors")
    (where.folder / "run-000003.safetensors").mkdir()
    (where.folder / "run-000004.safetensors").symlink_to("nowhere")
    found, problems = where.latest("run")
    assert found is not None
    assert [problem.split(": ")[1] for problem in problems] == [
        "No such file or directory",
        *["no regular file"] * 2,
    ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["!tensor", "cpu", "x\u2028", "arrays"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["!tensor", "!bytes", "!dict", "!tuple", "device", "kind", "items", "a"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything that lies in a JSON value."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    here = [(tree, key) for key in keys] if isinstance(tree, dict | list) else []
    return here + [
        one
        for holder, key in here
        if isinstance(holder[key], dict | list)
        for one in places(holder[key])
    ]


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150)
def test_whatever_stands_in_a_checkpoint_none_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Sealed anew after any change of header, tree or records: usable, or passed over in a line."""
    where = store(tmp_path_factory.mktemp("mutated"))
    save(where, 1)
    path = save(where, 2)

    def mutate(tree: Any) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            if not (known := places(tree)):
                return
            holder, key = known[data.draw(st.integers(0, len(known) - 1))]
            if data.draw(st.booleans()):
                holder[key] = data.draw(JSON)
            else:
                del holder[key]

    kind = data.draw(st.sampled_from([with_header, with_tree, with_history]))
    path.write_bytes(kind(path.read_bytes(), mutate))
    said: list[str] = []
    grid = FakeGrid(3, lambda message: pytest.fail("nobody is asked"))
    with CheckpointManager(where, grid, said.append) as manager:
        found = manager.restore("run", last=5)
    assert found is not None
    assert len(said) == (1 if found.round == 2 else 2)
    assert all(one.isprintable() and len(one) < 400 for one in said)
    if found.round == 2:  # then it is whole
        assert [one.number for one in found.records()] == [0, 1, 2]
        assert set(grid.states) <= {0, 1, 2}
        assert dict(found.memory) == {**found.memory}
        assert found.state.parameters.isfinite().all()


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
