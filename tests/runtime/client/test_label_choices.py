"""A hospital whose trainer suspects labels, as Flower calls it: its counts and its memory."""

from __future__ import annotations

import torch
from fedrobust.clients.app import app

from fedrobust.runtime.client.context_state import memory_key
from fedrobust.runtime.messages import records
from tests.helpers import federations
from tests.helpers.federations import MEAN
from tests.runtime.client.test_handlers import context, message, trained

WRONG = ("poisoned=[1]", "contamination=label_error", "contamination.rate=0.25", "rounds=3")
SETTINGS = ("client.forget_rounds=1", "client.forget_rate=0.5", "client.steps=null")
TWO = ("client=co_teaching", *SETTINGS)


def test_a_simulation_counts_wrong_labels_and_the_second_model_comes_back() -> None:
    server = federations.build_server(*MEAN, *WRONG, *TWO)
    images, at_home = len(server.experiment.rows(1, 0)), context(1)
    asked = message(server, 1, 1)
    first = trained(server, app(asked, at_home))
    name = memory_key("memory-tensors", records.read_config(asked.content))
    before = {key: array.numpy() for key, array in at_home.state[name].items()}
    assert set(before) == {"peer", "peer_buffers"}
    assert first.metrics["mislabelled"] == round(0.25 * images)
    assert 0.4 * images < first.metrics["suspected"] < 0.6 * images
    found, corrected = (first.metrics[f"mislabelled_{name}"] for name in ("found", "corrected"))
    assert found <= min(first.metrics["mislabelled"], first.metrics["suspected"])
    assert corrected == 0
    app(message(server, 1, 2), at_home)
    after = torch.from_numpy(at_home.state[name]["peer"].numpy())
    assert not torch.equal(after, torch.from_numpy(before["peer"]))
    # a new run begins without it
    app(message(server, 1, 1), at_home)
    assert (at_home.state[name]["peer"].numpy() == before["peer"]).all()


def test_wrong_labels_among_those_that_a_sanitiser_left() -> None:
    words = ("sanitiser=sphere_etf", "sanitiser.warmup=0", "sanitiser.quantile=0.3")
    server = federations.build_server(*MEAN, *WRONG, *TWO, *words)
    found = trained(server, app(message(server, 1, 1), context(1))).metrics
    assert found["dropped"] > 0
    assert found["mislabelled"] == found["altered"] - found["found"]


def test_a_real_site_tells_how_many_it_suspects_and_noise_hides_it() -> None:
    server = federations.build_server(*MEAN, "poisoned=0", *TWO)
    found = trained(server, app(message(server, 0, 1), context(0, simulation=False))).metrics
    assert {name for name in found if "suspected" in name or "label" in name} == {"suspected"}
    words = ("privacy=local_dp", "server.batchnorm=recalibrate")
    hidden = federations.build_server("strategy=fedavg", "poisoned=0", *TWO, *words)
    assert trained(hidden, app(message(hidden, 0, 1), context(0))).metrics == {}
