"""The real client app on both engines: equal seeds give bit-equal models."""

from pathlib import Path

import pytest
import torch

from fedrobust.runtime.engines import inline_engine, ray_engine
from fedrobust.runtime.server.loop import evaluate_clients, run_rounds
from tests.helpers import federations

pytestmark = pytest.mark.slow


def test_inline_and_ray_train_the_same_bits(tmp_path: Path) -> None:
    server = federations.build_server("strategy=etf_dml", "noisy=1", "rounds=2")
    results = []
    for engine in (inline_engine(threads=1), ray_engine(workers=2, threads=1)):
        with engine.open(
            "fedrobust.clients.app:app", server.experiment.num_clients, {"simulation": True}
        ) as grid:
            finished = run_rounds(server, grid, federations.Memory())
            results.append(
                (finished, evaluate_clients(server, finished.state, grid, federations.Memory()))
            )
    (inline, inline_scores), (ray, ray_scores) = results
    assert torch.equal(inline.state.parameters, ray.state.parameters)
    assert torch.equal(inline.state.buffers, ray.state.buffers)
    assert not torch.equal(inline.state.parameters, server.initial.parameters)
    assert [record.clients for record in inline.records] == [
        record.clients for record in ray.records
    ]
    for client, scores in inline_scores.items():
        for condition, (probabilities, labels) in scores.items():
            assert torch.equal(probabilities, ray_scores[client][condition][0])
            assert torch.equal(labels, ray_scores[client][condition][1])
