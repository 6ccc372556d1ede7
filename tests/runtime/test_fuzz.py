"""Malformed and hostile messages: 10,000 replies, instructions and uploads through the
decoders.

Allowed are a WireError or a ConfigError of one printable line, and accepting what an independent
check of this file accepts, too. Each example is a seed from which a batch is drawn, so that a
failure names the seed and the number that repeat it.
"""

from __future__ import annotations

import io
import math
import random
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, inflate_object_from_contents
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.evaluation.counts import RoundedCounts
from fedrobust.experiment.experiment import CONDITIONS
from fedrobust.runtime.messages import evaluations
from fedrobust.runtime.messages import records as wire
from fedrobust.runtime.messages.arrays import WireError
from fedrobust.runtime.messages.upload_limits import limit_uploads
from fedrobust.state import State

BATCH = 50
PROFILE = settings(
    derandomize=True,
    database=None,
    max_examples=50,
    phases=(Phase.explicit, Phase.generate),
)
SIZES, CLASSES = (6, 4), 3
SEEDS = st.integers(0, 2**32 - 1)
MOST_BYTES = 1 << 20

NUMBERS = [0, 1, -1, 2, 7, 2**31, 2**63 - 1, -(2**63), 2**64, 10**30, 10**400]
NUMBERS += [0.0, -0.0, 0.5, 1e-300, 1e30, 1e31, math.nan, math.inf, -math.inf]
WORDS = [
    "",
    "float32",
    "float64",
    ">f4",
    "<f4",
    "O",
    "object",
    "numpy.ndarray",
    "pickle",
    "\x00",
    "\n",
    "\ud800",
    "ü",
    "=1+1",
    "x" * 300,
]
SHAPES = [
    (),
    (0,),
    (6,),
    (4,),
    (-1,),
    (6, 1),
    (2, 3),
    (0, 2**48, 2**48),
    (2**62,),
    (10**400,),
    (1,) * 40,
    (2_500_000_000,),
]


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=values.dtype == object)
    return stream.getvalue()


PAYLOADS = [
    b"",
    b"\x93NUMPY",
    npy(np.arange(6, dtype="<f4")),
    npy(np.arange(6, dtype=">f4")),
    npy(np.arange(6.0)),
    npy(np.array([None, {}], dtype=object)),  # a pickle
    npy(np.array([math.nan] * 6, dtype="<f4")),
    b"\x93NUMPY\x01\x00"
    + (118).to_bytes(2, "little")
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (2500000000,), }".ljust(117)
    + b"\n",
]


def train_reply() -> RecordDict:
    g = torch.Generator().manual_seed(0)
    state = State(torch.randn(SIZES[0], generator=g), torch.rand(SIZES[1], generator=g))
    info = {"etf-sha256": "ab" * 32, "task": "cd" * 32}
    extras = {"mutual_weight": 0.5, "teacher": torch.ones(2, 2), "index": torch.tensor([3])}
    return plain(wire.train_reply(state, 12, {"loss": 0.5, "correct": 0.25}, info, extras))


def evaluate_reply() -> RecordDict:
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    parts = {name: (shares, torch.tensor([0, 2])) for name in sorted(CONDITIONS)}
    return plain(wire.evaluate_reply(parts, {}, {"etf-sha256": "", "task": ""}))


def counts_reply() -> RecordDict:
    counts = RoundedCounts(torch.tensor([[10, 0, 5], [0, 15, 0], [0, 0, 0]]), 35, 5)
    parts = dict.fromkeys(sorted(CONDITIONS), counts)
    return plain(evaluations.counts_reply(parts, {"etf-sha256": "", "task": ""}))


def plain(content: RecordDict) -> RecordDict:
    """The vector as a network delivers it: npy bytes."""
    return RecordDict({name: _plain(record) for name, record in content.items()})


def _plain(record):
    if not isinstance(record, ArrayRecord):
        return record.copy()
    return ArrayRecord(
        {
            name: Array(one.dtype, tuple(one.shape), one.stype, bytes(one.data))
            for name, one in record.items()
        }
    )


# --- what is valid, written anew ---


def valid_array(array: Array, dtype: str) -> np.ndarray | None:
    """Result of numpy's own reader for the bytes, without pickle."""
    if array.stype != "numpy.ndarray" or array.dtype != dtype:
        return None
    try:
        values = np.load(io.BytesIO(array.data), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None
    good = (
        str(values.dtype) == dtype
        and values.shape == tuple(array.shape)
        and np.isfinite(values).all()
    )
    return values if good else None


def valid_numbers(metrics: MetricRecord) -> bool:
    count = metrics.get("num-examples")
    rest = {name: value for name, value in metrics.items() if name != "num-examples"}
    low = {"loss": 0.0, "correct": 0.0}
    high = {"correct": 1.000001}
    sizes = all(
        not isinstance(v, list)
        and not math.isnan(v)
        and low.get(n, -1e30) <= v <= high.get(n, 1e30)
        and n.isprintable()
        and 0 < len(n) <= 64
        for n, v in rest.items()
    )
    return isinstance(count, int) and 1 <= count <= 2**53 and sizes


def valid_train_reply(content: RecordDict) -> bool:
    if (
        not {"state", "metrics", "info"}
        <= set(content)
        <= {"state", "metrics", "info", "extras", "extra-tensors"}
    ):
        return False
    if set(content["state"]) != {"parameters", "buffers"}:
        return False
    arrays = [valid_array(content["state"][name], "float32") for name in ("parameters", "buffers")]
    if any(one is None or one.shape != (size,) for one, size in zip(arrays, SIZES, strict=True)):
        return False
    extra = content.get("extra-tensors", ArrayRecord())
    tensors = all(
        valid_array(one, one.dtype) is not None and one.dtype in ("float32", "int64")
        for one in extra.values()
    )
    scalars = [
        value for name in ("info", "extras") if name in content for value in content[name].values()
    ]
    simple = not any(isinstance(one, list) for one in scalars)
    finite = all(
        math.isfinite(one) for one in content.get("extras", {}).values() if isinstance(one, float)
    )
    return (
        tensors
        and simple
        and finite
        and isinstance(content["info"].get("etf-sha256"), str)
        and valid_numbers(content["metrics"])
    )


def valid_counts_reply(content: RecordDict) -> bool:
    images, cell = content["metrics"]["images"], content["metrics"]["min-cell"]
    matrices = [valid_array(array, "int64") for array in content["counts"].values()]
    return images >= 0 and all(
        one is not None
        and one.shape == (CLASSES, CLASSES)
        and (one >= 0).all()
        and not (one % cell).any()
        and 0 <= images - one.sum() < CLASSES**2 * cell
        for one in matrices
    )


def valid_evaluate_reply(content: RecordDict) -> bool:
    record = content["predictions"]
    for name in {key.rpartition("/")[0] for key in record}:
        shares, labels = (
            valid_array(record[f"{name}/{part}"], dtype)
            for part, dtype in (("probabilities", "float32"), ("labels", "int64"))
        )
        if (
            shares is None
            or labels is None
            or shares.shape != (len(labels), CLASSES)
            or labels.ndim != 1
        ):
            return False
        if len(labels) and (
            shares.min() < -1e-4 or shares.max() > 1.0001 or abs(shares.sum(1) - 1).max() > 0.01
        ):
            return False
        if len(labels) and not 0 <= labels.min() <= labels.max() < CLASSES:
            return False
    return valid_numbers(content["metrics"]) and isinstance(content["info"].get("etf-sha256"), str)


# --- mutations ---


def other_value(r: random.Random):
    return r.choice(
        [r.choice(NUMBERS), r.choice(WORDS), r.randbytes(5), [1, 2], [0.5], True, r.uniform(-2, 2)]
    )


def mutate_bytes(r: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(r.randint(1, 4)):
        kind = r.randrange(5)
        place = r.randrange(len(out) + 1)
        if kind == 0 and out:
            out[place % len(out)] = r.randrange(256)
        elif kind == 1:
            del out[place : place + r.choice([1, 4, 1000])]
        elif kind == 2:
            out[place:place] = r.randbytes(r.choice([1, 4, 50]))
        elif kind == 3:
            out += out[:place]
        elif out:
            out[place % len(out)] ^= 1 << r.randrange(8)
    return bytes(out)


def mutate_array(r: random.Random, array: Array) -> Array:
    fields = {
        "dtype": array.dtype,
        "shape": tuple(array.shape),
        "stype": array.stype,
        "data": array.data,
    }
    for _ in range(r.randint(1, 2)):
        name = r.choice(list(fields))
        if name == "shape":
            fields[name] = r.choice(
                [*SHAPES, tuple(r.choice([0, 1, 6, -5, 2**40]) for _ in range(r.randrange(5)))]
            )
        elif name == "data":
            fields[name] = r.choice(
                [r.choice(PAYLOADS), mutate_bytes(r, array.data), spoil_values(r, array)]
            )
        else:
            fields[name] = r.choice(WORDS)
    return Array(fields["dtype"], fields["shape"], fields["stype"], fields["data"])


def spoil_values(r: random.Random, array: Array) -> bytes:
    """A right header with other values."""
    try:
        values = np.load(io.BytesIO(array.data), allow_pickle=False).copy()
    except (ValueError, EOFError, MemoryError):
        return array.data
    if values.size:
        choices = (
            [math.nan, math.inf, -1.0, 3e38, 1.5] if values.dtype.kind == "f" else [-1, 3, 2**62, 1]
        )
        values.flat[r.randrange(values.size)] = r.choice(choices)
    return npy(values)


def mutate_scalars(r: random.Random, record):
    out = dict(record)
    if out and r.random() < 0.3:
        del out[r.choice(list(out))]
    for _ in range(r.randint(1, 3)):
        out[r.choice([*record, *WORDS, "weight"])] = other_value(r)
    if r.random() < 0.02:
        out |= {f"m{number}": 1.0 for number in range(100)}
    try:
        return type(record)(out)
    except TypeError:  # what no network delivers either
        return record.copy()


def mutate(r: random.Random, content: RecordDict) -> RecordDict:
    records = dict(content)
    for _ in range(r.randint(1, 2)):
        name = r.choice(list(records))
        record = records[name]
        kind = r.randrange(8)
        if kind == 0:
            del records[name]
        elif kind == 1:
            records[
                r.choice(
                    ["state", "metrics", "info", "extras", "extra-tensors", "predictions", *WORDS]
                )
            ] = record
        elif isinstance(record, ArrayRecord):
            arrays = dict(record)
            chosen = r.choice([*arrays, "x"]) if arrays else "x"
            if kind == 2 and chosen in arrays:
                del arrays[chosen]
            elif kind == 3:
                arrays[r.choice([*WORDS, "clean/labels", "/labels", "a/b/probabilities"])] = next(
                    iter(arrays.values()), Array(np.zeros(2))
                )
            elif chosen in arrays:
                arrays[chosen] = mutate_array(r, arrays[chosen])
            records[name] = ArrayRecord(arrays)
        else:
            records[name] = mutate_scalars(r, record)
        if not records:
            break
    return RecordDict(records)


# --- the decoders ---


def fuzz(batch: Callable[[int], int]) -> int:
    """Number of accepted cases in 50 batches, each drawn from a seed of its own. A share of the
    mutations must leave a message valid, or nothing deep is ever reached."""
    accepted: list[int] = []

    @PROFILE
    @given(SEEDS)
    def run(seed: int) -> None:
        accepted.append(batch(seed))

    run()
    assert len(accepted) == PROFILE.max_examples
    return sum(accepted)


def is_accepted(
    name: str, seed: int, number: int, decode: Callable[[], object], valid: Callable[[], bool]
) -> bool:
    """One case: refused with one printable line, or accepted and valid by this file's own
    measure."""
    try:
        decode()
    except (WireError, ConfigError) as error:
        line = str(error)
        assert line.isprintable(), f"seed {seed}, number {number}: {line!r}"
        return False
    except BaseException:
        note(f"{name}: seed {seed}, number {number}")
        raise
    assert valid(), f"{name}: seed {seed}, number {number}: accepted although it is not valid"
    return True


# numpy's, of sums that overflow in this file's own check
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_train_replies() -> None:
    good = train_reply()

    def batch(seed: int) -> int:
        r, accepted = random.Random(seed), 0
        for number in range(BATCH):
            content = mutate(r, good)
            accepted += is_accepted(
                "train",
                seed,
                number,
                lambda: wire.read_train_reply(content, SIZES),  # noqa: B023
                lambda: valid_train_reply(content),  # noqa: B023
            )
        return accepted

    assert fuzz(batch) > 50


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("good", "valid"),
    [(evaluate_reply, valid_evaluate_reply), (counts_reply, valid_counts_reply)],
)
def test_evaluate_replies(
    good: Callable[[], RecordDict], valid: Callable[[RecordDict], bool]
) -> None:
    one = good()

    def batch(seed: int) -> int:
        r, accepted = random.Random(seed), 0
        for number in range(BATCH):
            content = mutate(r, one)
            accepted += is_accepted(
                "evaluate",
                seed,
                number,
                lambda: evaluations.read_client_evaluation(content, CLASSES),  # noqa: B023
                lambda: valid(content),  # noqa: B023
            )
        return accepted

    assert fuzz(batch) > 50


def test_instructions_as_a_client_reads_them() -> None:
    assert fuzz(read_instructions) > 50


def read_instructions(seed: int) -> int:
    order = {"experiment": "{}", "round": 3, "etf": b"\x01", "etf-sha256": "ab"}
    state = wire.state_record(State(torch.ones(6), torch.ones(4)))
    r, good = (
        random.Random(seed),
        plain(wire.train_message(state, order, {"x": 1.0, "t": torch.ones(2)})),
    )
    accepted = 0
    for number in range(BATCH):
        content = mutate(r, good)

        def decode() -> object:
            return (
                wire.read_config(content),  # noqa: B023
                wire.read_extras(content),  # noqa: B023
                wire.task_digest(wire.read_config(content)),  # noqa: B023
            )

        def valid() -> bool:
            given = content["config"]  # noqa: B023
            return [type(given[key]) for key in ("experiment", "round", "etf", "etf-sha256")] == [
                str,
                int,
                bytes,
                str,
            ]

        accepted += is_accepted("instruction", seed, number, decode, valid)
    return accepted


def uploaded(content: RecordDict) -> tuple[str, dict[str, bytes]]:
    """A reply as a SuperNode uploads it: the id of its message, and the bytes of every object, the
    message last."""
    from flwr.app import Message

    wire.set_identity()
    message = Message(content, 1, "train")
    return message.object_id, {
        name: one.deflate() for name, one in get_all_nested_objects(message).items()
    }


def fetched(root: str, contents: dict[str, bytes]) -> RecordDict:
    """Result of Flower's Grid of SuperNodes, behind our check; its error is ours here."""
    pull = limit_uploads(lambda names, one, **_: {name: one(name) for name in names}, MOST_BYTES)
    names = [*(name for name in contents if name != root), root]
    try:
        found = pull(names, lambda name: contents[name])
    except ObjectPullError as error:
        if not str(error).isprintable():
            raise
        raise WireError(str(error)) from error
    return inflate_object_from_contents(root, dict(found)).content


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_uploads_byte_by_byte() -> None:
    """Parts that Flower decodes before us: heads, names, JSON bodies, protobuf, chunks."""
    assert fuzz(fetch_uploads) > 10


def fetch_uploads(seed: int) -> int:
    r, accepted = random.Random(seed), 0
    root, good = uploaded(train_reply())
    for number in range(BATCH):
        contents = dict(good)
        for name in r.sample(list(contents), r.randint(1, 2)):
            contents[name] = mutate_bytes(r, contents[name])
        if r.random() < 0.1:
            del contents[r.choice([name for name in contents if name != root])]
        box: list[RecordDict] = []

        def decode() -> object:
            box.append(fetched(root, contents))  # noqa: B023
            return wire.read_train_reply(box[0], SIZES)  # noqa: B023

        accepted += is_accepted(
            "upload",
            seed,
            number,
            decode,
            lambda: valid_train_reply(box[0]),  # noqa: B023
        )
    return accepted


# --- memory ---


def traced(action: Callable[[], object]) -> int:
    """The most bytes that were held while something was refused."""
    tracemalloc.start()
    try:
        with pytest.raises((WireError, ConfigError)):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(2_500_000_000,), (50_000, 50_000), (2**47,), (0, 2**48)])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_claim_of_gigabytes_allocates_nothing(shape: tuple[int, ...], payload: bytes) -> None:
    array = Array("float32", shape, "numpy.ndarray", payload)
    record = ArrayRecord({"parameters": array, "buffers": array})
    expected = shape if len(shape) == 1 else (math.prod(shape),)
    assert traced(lambda: wire.read_state(record, (expected[0], expected[0]))) < 1 << 16
    assert (
        traced(lambda: wire.read_extras(RecordDict({"extra-tensors": ArrayRecord({"x": array})})))
        < 1 << 16
    )


def test_a_chunk_named_a_thousand_times_is_not_written_out() -> None:
    """Flower itself would write out 4 GB for this upload of 4 MB."""
    content = train_reply()
    content["state"]["parameters"] = Array("float32", (6,), "numpy.ndarray", bytes(4 << 20))
    root, contents = uploaded(content)
    for name, one in contents.items():
        if one.startswith(b"Array ") and b'"shape": [6]' in one:
            head, body = one.split(b"\x00", 1)
            body = body.replace(
                b'"arraychunk_ids": [0]', b'"arraychunk_ids": [' + b",".join([b"0"] * 1000) + b"]"
            )
            kind, children, _ = head.split(b" ")
            contents[name] = b" ".join([kind, children, str(len(body)).encode()]) + b"\x00" + body
    pull = limit_uploads(lambda names, one, **_: {name: one(name) for name in names}, 8 << 20)
    tracemalloc.start()
    with pytest.raises(ObjectPullError, match="its arrays would hold 419430"):
        pull([*(name for name in contents if name != root), root], lambda name: contents[name])
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_an_upload_that_does_not_end_is_left_off() -> None:
    asked = []

    def chunk(name: str) -> bytes:
        asked.append(name)
        return b"ArrayChunk  1048576\x00" + bytes(1 << 20)

    pull = limit_uploads(lambda names, one, **_: {name: one(name) for name in names}, 8 << 20)
    with pytest.raises(ObjectPullError, match="more than 8388608 bytes"):
        pull([str(number) for number in range(1000)], chunk)
    assert len(asked) <= 10
