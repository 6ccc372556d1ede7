"""Whole federations with a frozen part of the model: what is sent, kept, attacked and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from fedrobust.clients.app import app
from flwr.app import Context, Message, RecordDict
from safetensors.torch import load_file, save_file

from fedrobust import simulate
from fedrobust.errors import DataError, RefusalError
from fedrobust.experiment import settings
from fedrobust.learning.inference import predict
from fedrobust.learning.model_files import load_state
from fedrobust.learning.packaged_weights import describe_pretrained
from fedrobust.learning.peers import make_peers
from fedrobust.runtime.client import handlers
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.messages import records
from fedrobust.runtime.server import clean_twin
from fedrobust.runtime.server.checkpointing import CheckpointManager
from fedrobust.runtime.server.loop import TrainingResult, build_server_context, run_rounds
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.state import frozen_tensors, load
from fedrobust.types import Task
from fedrobust.utils.seeding import generator
from tests.helpers import federations, models
from tests.helpers.federations import SMALL_RUN, Memory
from tests.runtime.server.test_checkpointing import (
    StopAfter,
    StoppedError,
    checkpoints,
    inline,
)

FROZEN = "model.freeze=backbone"
CROSS_ENTROPY = "client.loss=cross_entropy"
SMALL = (
    "experiment=smoke",
    *SMALL_RUN,
    "engine=inline",
    "engine.threads=1",
    "evaluation.bootstrap_samples=10",
)


def finished(words: Iterable[str]) -> tuple[ServerContext, TrainingResult]:
    server = federations.build_server(*words)
    with InlineGrid(app, server.experiment.num_clients, {"simulation": True}, threads=1) as grid:
        return server, run_rounds(server, grid, Memory())


def train_message(server: ServerContext, **changes: str | int | bytes) -> Message:
    records.set_identity()
    config = {**server.message_config(1), **changes}
    content = records.train_message(records.state_record(server.initial), config)
    return Message(content, 0, "train")


def context(**node: str | int | bool) -> Context:
    return Context(1, 0, {"partition-id": 0, "simulation": True, **node}, RecordDict(), {})


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=etf_dml",),
        ("strategy=etf_dml", "model.head=linear", "model.hidden=[8]", CROSS_ENTROPY),
        ("strategy=fltrust",),
        ("strategy=feddf",),
        ("strategy=foolsgold", "model.head=linear", CROSS_ENTROPY),
        ("strategy=median", "contamination=sign_flip", "poisoned=1"),
        ("client=mutual_learning", "server.batchnorm=mean"),
        ("client=global_distillation", "server.batchnorm=local"),
        ("strategy=fedavg", "privacy=local_dp"),
        ("strategy=fedavg", "privacy=secure_aggregation", "poisoned=0"),
        ("contamination=adaptive_etf", "strategy=etf_dml", "poisoned=1"),
    ],
    ids=" ".join,
)
def test_only_the_head_is_sent_and_changes(words: tuple[str, ...]) -> None:
    server, result = finished((FROZEN, "rounds=1", *words))
    assert {name.split(".")[0] for name, _ in server.layout.parameters} <= {"last", "hidden"}
    assert server.layout.buffers == ()
    assert not torch.equal(result.state.parameters, server.initial.parameters)
    assert not result.records[-1].failures
    new = build_server_context(server.experiment).model
    assert server.model.frozen_digest() == new.frozen_digest()


@pytest.mark.parametrize("freeze", [1, "batchnorm"])
def test_a_part_of_the_backbone_trains(freeze: int | str) -> None:
    server, result = finished((f"model.freeze={freeze}", "rounds=1", "strategy=fedavg"))
    named = server.layout.named(result.state)
    assert any(name.startswith("backbone.layer4") for name in named)
    assert not named.keys() & frozen_tensors(server.model).keys()
    assert ("backbone.layer4.0.bn1.running_mean" in named) == (freeze == 1)
    assert not torch.equal(result.state.parameters, server.initial.parameters)


def test_the_digest_travels_only_where_something_is_frozen() -> None:
    plain, frozen = federations.build_server(), federations.build_server(FROZEN)
    assert plain.frozen_sha256 == ""
    assert records.FROZEN_DIGEST not in plain.message_config(1)
    assert frozen.message_config(1)[records.FROZEN_DIGEST] == frozen.model.frozen_digest()


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ((FROZEN,), {records.FROZEN_DIGEST: "0" * 64}),
        ((), {records.FROZEN_DIGEST: "0" * 64}),
    ],
)
def test_a_client_refuses_another_frozen_part(
    words: tuple[str, ...], changes: dict[str, str]
) -> None:
    server = federations.build_server(*words)
    with pytest.raises(RefusalError, match="what is frozen here is not what the server has"):
        app(train_message(server, **changes), context())


def test_a_client_refuses_a_message_without_the_digest() -> None:
    server = federations.build_server(FROZEN)
    plain = federations.build_server()
    message = train_message(plain, experiment=server.experiment.text)
    with pytest.raises(RefusalError, match=r"model\.freeze=backbone: what is frozen here"):
        app(message, context())


def test_a_simulated_client_has_the_weights_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    start = federations.build_server("seed=5")
    tensors = start.model.backbone.state_dict()
    save_file({name: one.contiguous() for name, one in tensors.items()}, path)
    words = (FROZEN, f"model.checkpoint={path}", "poisoned=0", "strategy=fedavg")
    server = federations.build_server(*words)
    assert torch.equal(server.model.backbone.conv1.weight, start.model.backbone.conv1.weight)
    assert not app(train_message(server), context()).has_error()


def test_a_real_site_still_refuses_weights_that_a_server_names() -> None:
    server = federations.build_server()
    config = json.loads(server.experiment.text)
    config["model"] |= {"freeze": "backbone", "pretrained": True, "name": "tf_efficientnet_lite0"}
    message = train_message(server, experiment=settings.to_json(config))
    with pytest.raises(RefusalError, match=r"model\.pretrained='True': names a file"):
        handlers.train(message, context(simulation=False))


def test_peers_of_mutual_learning_share_what_is_frozen() -> None:
    server = federations.build_server(FROZEN)
    task = Task(server.model, models.shard(), 1, {}, {}, generator(0, "train"))
    (peer,) = make_peers(task, server.experiment.model, 1)
    assert peer.frozen_digest() == server.frozen_sha256
    assert not torch.equal(peer.last.weight, server.model.last.weight)


def test_a_twin_of_another_frozen_part_is_another_one() -> None:
    config = federations.compose_settings()
    keys = {clean_twin.twin_key(config, "", "cpu", (1, 1), frozen) for frozen in ("", "a", "b")}
    assert len(keys) == 3


@pytest.mark.parametrize("freeze", ["1", "backbone"])
def test_an_interrupted_run_ends_with_the_same_model(
    freeze: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    words = (
        *(f"model.freeze={freeze}", "rounds=2", "strategy=fedavg", "server_optimizer=fedavgm"),
        "model.feature_views=2",
    )
    whole = finished(words)[1].state
    server = federations.build_server(*words)
    assert (server.inputs.root.images.ndim == 3) == (freeze == "backbone")  # of features: views
    with (
        pytest.raises(StoppedError),
        inline() as grid,
        CheckpointManager(checkpoints(server, tmp_path), grid, print) as kept,
    ):
        run_rounds(server, grid, StopAfter(2), checkpointing=kept)
    server = federations.build_server(*words)
    with inline() as grid, CheckpointManager(checkpoints(server, tmp_path), grid, print) as kept:
        resumed = run_rounds(server, grid, Memory(), checkpointing=kept)
    assert torch.equal(resumed.state.parameters, whole.parameters)
    assert torch.equal(resumed.state.buffers, whole.buffers)


@pytest.mark.slow
def test_a_run_s_file_is_the_whole_model_and_its_manifest_names_what_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    words = (*SMALL, FROZEN, "rounds=1", f"hydra.run.dir={folder}")
    monkeypatch.setattr("sys.argv", ["simulate", *words])
    simulate.main()
    capsys.readouterr()
    manifest = json.loads((folder / "manifest.json").read_text())
    server = federations.build_server(FROZEN, "rounds=1")
    assert manifest["model"] == {"weights": [], "frozen_sha256": server.frozen_sha256}
    path = folder / "model.safetensors"
    counters = {name for name in server.model.state_dict() if name.endswith("tracked")}
    assert load_file(path).keys() == (server.model.state_dict().keys() - counters) | {"etf.anchors"}
    state, _ = load_state(path, server.layout, frozen_tensors(server.model))
    again = federations.build_server("rounds=1", f"model.checkpoint={path}", "seed=0")
    assert torch.equal(again.model.last.weight, server.layout.named(state)["last.weight"])
    load(server.model, server.layout, state)
    images = server.proxy.images
    assert torch.equal(predict(again.model, images), predict(server.model, images))
    other = federations.build_server(FROZEN, "seed=1")
    with pytest.raises(DataError, match=r"its frozen tensor backbone.* is not that of the model"):
        load_state(path, other.layout, frozen_tensors(other.model))


@pytest.mark.slow
def test_a_run_from_packaged_weights_names_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    model = ("model=efficientnet_lite0", "model.pretrained=true", FROZEN, "model.dimension=8")
    small = (word for word in SMALL if not word.startswith("model."))
    words = (*small, *model, "rounds=1", "evaluation.twin=false", f"hydra.run.dir={folder}")
    monkeypatch.setattr("sys.argv", ["simulate", *words])
    simulate.main()
    source = describe_pretrained("tf_efficientnet_lite0")
    said = " ".join(capsys.readouterr().out.split())
    assert f"the weights of tf_efficientnet_lite0 are from {source['source']}" in said
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model"]["weights"] == [{"model": "tf_efficientnet_lite0", **source}]
    assert len(manifest["model"]["frozen_sha256"]) == 64
