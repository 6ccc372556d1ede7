"""Clients' memory, written to a file and read back."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedrobust.runtime.messages.arrays import FlatArray, pack, unpack
from fedrobust.runtime.messages.client_state import from_plain, to_plain
from fedrobust.utils import nested


def test_every_kind_of_record_comes_back() -> None:
    theirs = ArrayRecord()
    # Flower's own, of a type that our messages do not know
    theirs["x"] = Array(np.arange(3, dtype=np.int16))
    state = RecordDict(
        {
            "memory": ConfigRecord(
                {"json": "{}", "n": 1, "raw": b"\x00\xff", "many": [0.1, 0.2], "flag": True}
            ),
            "own": pack({"buffers": torch.tensor([0.1, -0.0]), "count": torch.tensor(3)}),
            "metrics": MetricRecord({"loss": 0.1, "counts": [1, 2]}),
            "theirs": theirs,
        }
    )
    back = from_plain(nested.unflatten(*nested.flatten(to_plain({4: state}))))
    assert list(back) == [4]
    found = back[4]
    assert (found["memory"], found["metrics"]) == (state["memory"], state["metrics"])
    assert type(found["memory"]["flag"]) is bool
    for name, dtype in (("buffers", torch.float32), ("count", torch.int64)):
        assert isinstance(found["own"][name], FlatArray)
        assert torch.equal(unpack(found["own"], name, dtype), unpack(state["own"], name, dtype))
        assert found["own"][name].shape == state["own"][name].shape
    assert (found["theirs"]["x"].numpy() == np.arange(3)).all()
    assert found["theirs"]["x"].dtype == "int16"


def test_nobody_remembers_nothing() -> None:
    assert from_plain(to_plain({})) == {}
