"""Messages: what goes in comes out, and nothing that is wrong gets in."""

import io
import math
import pickle

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.runtime.messages import arrays as wire_arrays
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.arrays import WireError
from fedrobust.state import State

CONFIG = {"experiment": "{}", "round": 1, "etf": b"\x00", "etf-sha256": "ab"}
INFO = {"etf-sha256": "ab"}
STATE = State(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([4.0, 9.0]))
SIZES = (3, 2)


def plain(record: ArrayRecord) -> ArrayRecord:
    """The record as a real network would deliver it: npy bytes."""
    return ArrayRecord(
        {
            name: Array(array.dtype, tuple(array.shape), array.stype, array.data)
            for name, array in record.items()
        }
    )


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.mark.parametrize(
    "travel", [lambda record: record, plain, lambda record: pickle.loads(pickle.dumps(record))]
)
def test_a_state_survives_every_way_to_travel(travel):
    read = records.read_state(travel(records.state_record(STATE)), SIZES)
    assert torch.equal(read.parameters, STATE.parameters)
    assert torch.equal(read.buffers, STATE.buffers)
    assert read.parameters.dtype == torch.float32


def test_in_one_process_nothing_is_copied_and_the_senders_tensor_stays_writable():
    read = records.read_state(records.state_record(STATE), SIZES)
    assert read.parameters.data_ptr() == STATE.parameters.data_ptr()
    assert STATE.parameters.numpy().flags.writeable


def test_what_is_known_of_an_array_is_known_behind_pickle(monkeypatch):
    good, bad, fresh = (
        wire_arrays.FlatArray(np.array(values, np.float32)) for values in ([1], [np.nan], [1])
    )
    assert (good.fault, bad.fault) == ("", "values that are not finite")
    found = [pickle.loads(pickle.dumps(one)) for one in (good, bad, fresh)]
    monkeypatch.setattr(wire_arrays, "find_fault", lambda values: "looked up")
    assert [one.fault for one in found] == ["", "values that are not finite", "looked up"]


def test_pickle_hands_the_memory_over_out_of_band():
    buffers: list[pickle.PickleBuffer] = []
    small = pickle.dumps(
        records.state_record(State(torch.zeros(100_000), torch.zeros(0))),
        protocol=5,
        buffer_callback=buffers.append,
    )
    assert len(small) < 1000
    assert sum(len(buffer.raw()) for buffer in buffers) == 400_000


def test_flower_itself_sees_ordinary_arrays():
    record, ordinary = (
        records.state_record(STATE),
        ArrayRecord({"parameters": Array(STATE.parameters), "buffers": Array(STATE.buffers)}),
    )
    # the hash over all that Flower would send, class names included
    assert record.object_id == ordinary.object_id
    assert torch.equal(record.to_torch_state_dict()["parameters"], STATE.parameters)
    children = dict(record["parameters"].children)
    assert Array.inflate(record["parameters"].deflate(), children).numpy().tolist() == [
        1.0,
        -2.0,
        0.5,
    ]


def test_an_empty_buffer_vector_travels():
    state = State(torch.ones(2), torch.zeros(0))
    assert records.read_state(plain(records.state_record(state)), (2, 0)).buffers.shape == (0,)


def record_with(**arrays: Array) -> ArrayRecord:
    """A good record with some of its arrays replaced."""
    return ArrayRecord({**dict(plain(records.state_record(STATE))), **arrays})


GOOD = np.array([1, 2, 3], "<f4")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (
            ArrayRecord({"parameters": Array(GOOD)}),
            "expected the arrays parameters and buffers, got parameters",
        ),
        (record_with(more=Array(GOOD)), "got buffers, more, parameters"),
        (record_with(parameters=Array(GOOD[:2])), "expected the shape"),
        (record_with(parameters=Array(GOOD.reshape(3, 1))), "expected the shape"),
        (record_with(parameters=Array(GOOD.astype("<f8"))), "expected float32"),
        (record_with(parameters=Array("float32", (3,), "pickle", npy(GOOD))), "as pickle"),
        (
            record_with(
                parameters=Array("float32", (3,), "numpy.ndarray", npy(GOOD.astype("<f8")))
            ),
            "npy payload",
        ),
        (
            record_with(
                parameters=Array("float32", (3,), "numpy.ndarray", npy(GOOD.astype(">f4")))
            ),
            "npy payload",
        ),
        (
            record_with(
                parameters=Array("float32", (3,), "numpy.ndarray", npy(np.zeros(4, "<f4")))
            ),
            "npy payload",
        ),
        (
            record_with(parameters=Array("float32", (3,), "numpy.ndarray", npy(GOOD)[:-1])),
            "npy payload",
        ),
        (
            record_with(parameters=Array("float32", (3,), "numpy.ndarray", npy(GOOD) + b"\0")),
            "npy payload",
        ),
        (
            record_with(parameters=Array("float32", (3,), "numpy.ndarray", pickle.dumps(GOOD))),
            "npy payload",
        ),
        (record_with(parameters=Array("float32", (3,), "numpy.ndarray", b"")), "npy payload"),
        (record_with(parameters=Array(np.array([1, math.nan, 2], "<f4"))), "not finite"),
        (record_with(parameters=Array(np.array([1, math.inf, -math.inf], "<f4"))), "not finite"),
        (
            record_with(buffers=Array(np.array([1, math.inf], "<f4"))),
            "buffers holds values that are not finite",
        ),
    ],
)
def test_a_wrong_state_is_refused_in_one_line(record, reason):
    with pytest.raises(WireError, match=reason) as caught:
        records.read_state(record, SIZES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [3e38, -3e38, 1.1e15])
def test_values_that_no_model_has_are_refused_by_their_size(value: float) -> None:
    """Finite ones too, whether they come as npy bytes or as shared memory; up to the bound they are
    accepted, the squares of which still sum to a float32."""
    for vector in ("parameters", "buffers"):
        state = State(torch.zeros(3), torch.zeros(2))
        getattr(state, vector)[1] = value
        shared = records.state_record(state)
        for record in (shared, plain(shared)):
            with pytest.raises(WireError, match=rf"state: {vector} holds values beyond 1e\+15"):
                records.read_state(record, SIZES)
    most = State(torch.full((3,), 1e15), torch.full((2,), -1e15))
    assert records.read_state(records.state_record(most), SIZES).parameters[0] == 1e15


@settings(max_examples=40)
@given(st.data())
def test_damaged_bytes_never_do_anything_but_raise_or_give_finite_floats(data):
    payload = bytearray(npy(GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 12))
    record = record_with(
        parameters=Array("float32", (3,), "numpy.ndarray", bytes(payload[: len(payload) - cut]))
    )
    try:
        read = records.read_state(record, SIZES)
    except WireError:
        return
    assert read.parameters.shape == (3,)
    assert read.parameters.isfinite().all()


@settings(max_examples=40)
@given(st.binary(max_size=200), st.text(max_size=12), st.lists(st.integers(-3, 2**40), max_size=4))
def test_invented_arrays_are_refused(payload, dtype, shape):
    record = record_with(parameters=Array(dtype, tuple(shape), "numpy.ndarray", payload))
    with pytest.raises(WireError):
        records.read_state(record, SIZES)
    with pytest.raises(WireError):
        records.read_extras(
            RecordDict(
                {
                    "extra-tensors": ArrayRecord(
                        {"x": Array("float32", tuple(shape), "numpy.ndarray", payload)}
                    )
                }
            )
        )


def test_an_instruction_comes_back_whole():
    extras = {
        "mu": 0.5,
        "name": "x",
        "teacher": torch.arange(6.0).reshape(2, 3),
        "index": torch.tensor([3, 1]),
        "scalar": torch.tensor(2.0),
    }
    content = records.train_message(records.state_record(STATE), {**CONFIG, "lr": 0.1}, extras)
    assert set(content) == {"state", "config", "extras", "extra-tensors"}
    assert records.read_config(content) == {**CONFIG, "lr": 0.1}
    content["extra-tensors"] = plain(content["extra-tensors"])
    read = records.read_extras(content)
    assert {name: read[name] for name in ("mu", "name")} == {"mu": 0.5, "name": "x"}
    assert all(
        torch.equal(read[name], extras[name]) and read[name].dtype == extras[name].dtype
        for name in ("teacher", "index", "scalar")
    )
    assert records.read_extras(records.train_message(records.state_record(STATE), CONFIG)) == {}


@pytest.mark.parametrize("key", ["experiment", "round", "etf", "etf-sha256"])
def test_a_config_without_its_keys_is_refused(key):
    partial = {name: value for name, value in CONFIG.items() if name != key}
    with pytest.raises(WireError, match=f"config: {key} must be of type"):
        records.train_message(records.state_record(STATE), partial)
    with pytest.raises(WireError, match=f"config: {key} must be of type"):
        records.read_config(RecordDict({"config": ConfigRecord({**partial, key: 1.5})}))
    with pytest.raises(WireError, match="expected a ConfigRecord named config, got nothing"):
        records.read_config(RecordDict())


def test_a_train_reply_comes_back_whole():
    content = records.train_reply(STATE, 7, {"loss": 0.25}, {**INFO, "seconds": 1.5}, {"norm": 2.0})
    reply = records.read_train_reply(content, SIZES)
    assert torch.equal(reply.state.buffers, STATE.buffers)
    assert (reply.num_examples, reply.metrics, reply.extras) == (7, {"loss": 0.25}, {"norm": 2.0})
    assert reply.info == {"etf-sha256": "ab", "seconds": 1.5}


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({}, "num-examples"),
        ({"num-examples": 0}, "num-examples"),
        ({"num-examples": -3}, "num-examples"),
        ({"num-examples": 2.0}, "num-examples"),
        ({"num-examples": [1]}, "num-examples"),
        ({"num-examples": 1, "loss": math.nan}, "loss must be a finite number"),
        ({"num-examples": 1, "loss": -math.inf}, "loss must be a finite number"),
        ({"num-examples": 1, "loss": [1.0]}, "loss must be a finite number"),
    ],
)
def test_wrong_metrics_are_refused(metrics, reason):
    with pytest.raises(WireError, match=reason):
        records.read_metrics(MetricRecord(metrics))


def test_a_reply_without_the_etfs_hash_or_with_bad_extras_is_refused():
    with pytest.raises(WireError, match="etf-sha256 is missing"):
        records.read_train_reply(records.train_reply(STATE, 1, {}, {}), SIZES)
    for value in (math.nan, torch.tensor([math.inf])):
        with pytest.raises(WireError, match="extras: x holds values that are not finite"):
            records.read_train_reply(records.train_reply(STATE, 1, {}, INFO, {"x": value}), SIZES)
    with pytest.raises(WireError, match="do not travel"):
        records.train_reply(STATE, 1, {}, INFO, {"x": torch.zeros(2, dtype=torch.float64)})


PROBABILITIES = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
LABELS = torch.tensor([0, 1, 1])


def test_an_evaluate_reply_comes_back_whole():
    content = records.evaluate_reply(
        {"clean": (PROBABILITIES, LABELS), "contaminated": (PROBABILITIES[:2], LABELS[:2])},
        {"loss": 1.0},
        INFO,
    )
    content["predictions"] = plain(content["predictions"])
    scores = records.read_evaluate_reply(content, 2)
    assert set(scores.predictions) == {"clean", "contaminated"}
    assert torch.equal(scores.predictions["clean"][0], PROBABILITIES)
    assert torch.equal(scores.predictions["contaminated"][1], LABELS[:2])
    assert (scores.num_examples, scores.metrics) == (3, {"loss": 1.0})


@pytest.mark.parametrize(
    ("probabilities", "labels", "reason"),
    [
        (PROBABILITIES, LABELS[:2], "expected the shape"),
        (PROBABILITIES[:, :1], LABELS, "expected the shape"),
        (PROBABILITIES, torch.tensor([0, 1, 2]), r"class numbers in \[0, 2\)"),
        (PROBABILITIES, torch.tensor([0, 1, -1]), r"class numbers in \[0, 2\)"),
        (PROBABILITIES, LABELS[:, None], "one row"),
        (PROBABILITIES * math.nan, LABELS, "not finite"),
    ],
)
def test_wrong_predictions_are_refused(probabilities, labels, reason):
    with pytest.raises(WireError, match=reason):
        records.read_evaluate_reply(
            records.evaluate_reply({"clean": (probabilities, labels)}, {}, INFO), 2
        )


def test_predictions_without_labels_are_refused():
    content = records.evaluate_reply({"clean": (PROBABILITIES, LABELS)}, {}, INFO)
    del content["predictions"]["clean/labels"]
    with pytest.raises(WireError, match="expected probabilities and labels of each condition"):
        records.read_evaluate_reply(content, 2)
