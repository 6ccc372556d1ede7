"""The client app as Flower calls it: messages in, checked replies out, nothing of the hospital's
memory in them."""

from __future__ import annotations

import json

import pytest
import torch
from fedrobust.clients.app import app
from flwr.app import ArrayRecord, Context, Message, RecordDict

from fedrobust.errors import ConfigError
from fedrobust.experiment import settings
from fedrobust.runtime.client import evaluation
from fedrobust.runtime.messages import arrays, records
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.state import State, read
from tests.helpers import federations
from tests.helpers.federations import MEAN
from tests.helpers.old_names import aged
from tests.helpers.site_errors import site_error

POISON = ("poisoned=[1]",)


def context(client: int = 0, **node) -> Context:
    return Context(
        1,
        client,
        {"partition-id": client, "num-partitions": 3, "simulation": True, **node},
        RecordDict(),
        {},
    )


def message(
    server: ServerContext,
    client: int = 0,
    number: int = 1,
    kind: str = "train",
    state: State | None = None,
    **changes,
) -> Message:
    records.set_identity()
    order = {
        "experiment": server.experiment.text,
        "round": number,
        "etf": server.etf_bytes,
        "etf-sha256": server.etf_sha256,
    }
    record = records.state_record(state or read(server.model, server.layout))
    return Message(records.train_message(record, {**order, **changes}), client, kind)


def trained(server: ServerContext, reply: Message) -> records.TrainReply:
    return records.read_train_reply(
        reply.content, (server.layout.num_parameters, server.layout.num_buffers)
    )


def judged(server: ServerContext, reply: Message) -> records.ConditionPredictions:
    return records.read_evaluate_reply(reply.content, server.experiment.num_classes).predictions


def test_the_reply_says_how_many_images_what_loss_and_which_etf() -> None:
    server = federations.build_server(*MEAN)
    reply = trained(server, app(message(server, 2), context(2)))
    assert reply.num_examples == len(server.experiment.rows(2, 0))
    assert set(reply.metrics) == {"loss", "correct"}
    assert 0 <= reply.metrics["correct"] <= 1
    assert reply.info == federations.info_of(message(server, 2))
    assert reply.extras == {}
    assert not torch.equal(reply.state.parameters, read(server.model, server.layout).parameters)


def test_the_same_message_twice_gives_the_same_bits_and_other_clients_others() -> None:
    server = federations.build_server(*MEAN, "poisoned=0")
    one, two, other, later = (
        trained(server, app(message(server, client, number), context(client))).state
        for client, number in ((0, 1), (0, 1), (2, 1), (0, 2))
    )
    assert torch.equal(one.parameters, two.parameters)
    assert torch.equal(one.buffers, two.buffers)
    assert not torch.equal(one.parameters, other.parameters)
    assert not torch.equal(one.parameters, later.parameters)


def test_what_was_received_is_never_written_to() -> None:
    server = federations.build_server(*MEAN, "contamination=sign_flip", *POISON)
    state = read(server.model, server.layout)
    kept = State(state.parameters.clone(), state.buffers.clone())
    reply = trained(server, app(message(server, 1, state=state), context(1)))
    app(message(server, 1, kind="evaluate", state=state), context(1))
    assert torch.equal(state.parameters, kept.parameters)
    assert torch.equal(state.buffers, kept.buffers)
    assert reply.state.parameters.data_ptr() != state.parameters.data_ptr()


def test_a_reply_lives_on_when_the_resident_model_serves_the_next_client() -> None:
    server = federations.build_server(*MEAN)
    reply = trained(server, app(message(server, 0), context(0)))
    kept = reply.state.parameters.clone()
    app(message(server, 2), context(2))
    assert torch.equal(reply.state.parameters, kept)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("what", ["poisoned=1", "poisoned=[0]", "noisy=1"])
def test_a_node_outside_a_simulation_refuses_contamination(kind: str, what: str) -> None:
    server = federations.build_server(*MEAN, "poisoned=0", what)
    for node in (
        {"simulation": False},
        {"simulation": "false"},
        {"simulation": False, "allow-contamination": "false"},
    ):
        with site_error(
            "contamination",
            "this node refuses contamination; its own node config may set allow-contamination=true",
        ):
            app(message(server, 0, kind=kind), context(0, **node))
    app(
        message(server, 0, kind=kind), context(0, simulation=False, **{"allow-contamination": True})
    )


def test_a_clean_run_needs_no_permission() -> None:
    server = federations.build_server(*MEAN, "poisoned=0", "noisy=[]")
    assert trained(server, app(message(server), context(simulation=False))).num_examples > 0


def test_the_message_of_an_older_server_gives_the_same_bits() -> None:
    server = federations.build_server(*MEAN, "poisoned=0")
    old = settings.to_json(aged(server.experiment.config))
    assert '"buffers":' in old
    one, other = (
        trained(server, app(message(server, experiment=text), context(simulation=False)))
        for text in (server.experiment.text, old)
    )
    assert torch.equal(one.state.parameters, other.state.parameters)


@pytest.mark.parametrize("partition", [3, -1])
def test_a_client_that_does_not_exist(partition: int) -> None:
    server = federations.build_server(*MEAN)
    with pytest.raises(
        ConfigError, match=f"^partition-id={partition}: must be 0 or more and below num_clients=3"
    ):
        app(message(server), context(partition))


def test_a_node_without_a_partition_id_is_told_so() -> None:
    server = federations.build_server(*MEAN)
    nobody = Context(1, 0, {"simulation": True}, RecordDict(), {})
    with pytest.raises(ConfigError, match=r"partition-id=-1: .*set it in the node config"):
        app(message(server), nobody)


def test_a_wrong_etf_hash_and_a_wrong_state_are_refused() -> None:
    server = federations.build_server(*MEAN)
    with pytest.raises(ValueError, match=r"(?i)sha"):
        app(message(server, **{"etf-sha256": "0" * 64}), context())
    state = read(server.model, server.layout)
    with pytest.raises(arrays.WireError, match="expected the shape"):
        app(message(server, state=State(state.parameters[1:], state.buffers)), context())


def test_memory_lasts_in_the_context_and_never_travels() -> None:
    server = federations.build_server(
        *MEAN, "client=global_distillation", "client.steps=1", "client.lr_plateau={patience: 0}"
    )
    hospital = context(0)
    first = app(message(server, 0, 1), hospital)
    (name,) = [name for name in hospital.state if name.startswith("memory-")]
    memory = json.loads(hospital.state[name]["json"])
    assert {"global_accuracy", "plateau", "rates"} == set(memory)
    assert set(first.content) == {"state", "metrics", "info", "extras"}
    assert trained(server, first).extras == {"mutual_weight": 0.0}  # warm-up: nothing in round 1
    # a memory in which the hospital saw a perfect global model: this round's is a collapse, so no
    # mutual term (fallback)
    hospital.state[name]["json"] = json.dumps({**memory, "global_accuracy": 100.0})
    careful = trained(server, app(message(server, 0, 2), hospital))
    unafraid = trained(server, app(message(server, 0, 2), context(0)))
    assert (careful.extras["mutual_weight"], unafraid.extras["mutual_weight"]) == (0.0, 0.2)
    for reply in (careful, unafraid):
        assert "memory" not in str(reply.info) + str(reply.metrics) + str(reply.extras)


def test_a_run_that_starts_anew_forgets() -> None:
    server = federations.build_server(
        *MEAN, "client=global_distillation", "client.steps=1", "client.warmup=0"
    )
    hospital = context(0)
    app(message(server, 0, 1), hospital)
    (name,) = hospital.state
    hospital.state[name]["json"] = json.dumps({"global_accuracy": 100.0})
    assert trained(server, app(message(server, 0, 1), hospital)).extras == {"mutual_weight": 1.0}


def test_local_buffers_stay_with_the_client() -> None:
    local, mean = (
        federations.build_server("strategy=fedavg", "server.batchnorm=local"),
        federations.build_server(*MEAN),
    )
    state = read(local.model, local.layout)
    spoilt = State(state.parameters, state.buffers + 3.0)  # statistics that cannot be this client's
    hospital = context(0)
    first = trained(local, app(message(local, 0, 1), hospital)).state
    own = next(record for name, record in hospital.state.items() if name.startswith("own-"))
    assert isinstance(own, ArrayRecord)
    assert torch.equal(
        records.read_state(own, (0, local.layout.num_buffers)).buffers, first.buffers
    )
    with_good, with_bad = (
        judged(local, app(message(local, 0, 1, "evaluate", one), hospital))
        for one in (state, spoilt)
    )
    # the server's statistics are not looked at
    assert torch.equal(with_good["clean"][0], with_bad["clean"][0])
    elsewhere = judged(mean, app(message(mean, 0, 1, "evaluate", spoilt), context(0)))
    assert not torch.equal(elsewhere["clean"][0], with_bad["clean"][0])
    second, third = (
        trained(local, app(message(local, 0, 2, state=one), _copy(hospital))).state
        for one in (state, spoilt)
    )
    assert torch.equal(second.parameters, third.parameters)
    assert torch.equal(second.buffers, third.buffers)


def _copy(hospital: Context) -> Context:
    fresh = context(int(hospital.node_id))
    for name, record in hospital.state.items():
        fresh.state[name] = record.copy()
    return fresh


def test_a_poisoned_update_is_what_is_sent_not_what_is_kept() -> None:
    # sign_flip of scale 2: reference - 2 (trained - reference); buffers as trained
    clean = federations.build_server("strategy=fedavg", "server.batchnorm=local", "poisoned=0")
    flipped = federations.build_server(
        "strategy=fedavg",
        "server.batchnorm=local",
        "contamination=sign_flip",
        "contamination.scale=2",
        *POISON,
    )
    hospital = context(1)
    honest = trained(clean, app(message(clean, 1), context(1)))
    sent = trained(flipped, app(message(flipped, 1), hospital))
    reference = read(clean.model, clean.layout).parameters
    assert torch.allclose(
        sent.state.parameters, reference - 2 * (honest.state.parameters - reference), atol=1e-6
    )
    assert torch.equal(sent.state.buffers, honest.state.buffers)
    assert sent.metrics == honest.metrics  # it trained honestly
    own = next(record for name, record in hospital.state.items() if name.startswith("own-"))
    assert torch.equal(
        records.read_state(own, (0, clean.layout.num_buffers)).buffers, honest.state.buffers
    )
    others = (
        trained(server, app(message(server, 0), context(0))).state.parameters
        for server in (clean, flipped)
    )
    assert torch.equal(*others)  # no other client is touched


@pytest.mark.parametrize(
    ("contamination", "passes"), [("clean", 1), ("label_flip", 1), ("gaussian_noise", 2)]
)
def test_images_that_are_the_same_are_judged_once(
    monkeypatch: pytest.MonkeyPatch, contamination: str, passes: int
) -> None:
    calls = []
    original = evaluation.predict
    monkeypatch.setattr(
        evaluation, "predict", lambda *given: calls.append(given) or original(*given)
    )
    how = "label_flip" if contamination == "clean" else contamination
    server = federations.build_server(
        *MEAN, f"contamination={how}", "poisoned=[]" if contamination == "clean" else "poisoned=[0]"
    )
    scores = judged(server, app(message(server, kind="evaluate"), context()))
    assert len(calls) == passes
    same_scores = torch.equal(scores["clean"][0], scores["contaminated"][0])
    same_labels = torch.equal(scores["clean"][1], scores["contaminated"][1])
    assert (same_scores, same_labels) == {
        "clean": (True, True),
        "label_flip": (True, False),
        "gaussian_noise": (False, True),
    }[contamination]
    test = server.experiment.rows(0, 2)
    assert torch.equal(scores["clean"][1], server.experiment.dataset.labels[test])


def test_evaluating_repeats_and_changes_nothing_in_the_context() -> None:
    server = federations.build_server(*MEAN, "noisy=[0]", "poisoned=[]")
    hospital = context(0)
    one, two = (judged(server, app(message(server, kind="evaluate"), hospital)) for _ in range(2))
    assert all(torch.equal(one[name][part], two[name][part]) for name in one for part in (0, 1))
    assert not hospital.state


def test_a_linear_head_needs_no_anchors() -> None:
    server = federations.build_server(*MEAN, "model.head=linear", "client.loss=cross_entropy")
    assert trained(server, app(message(server), context())).info["etf-sha256"] == ""


def test_a_tracking_contamination_finds_what_was_received_before() -> None:
    # Neurotoxin in its second round: where the global model moved most the reply is the received
    # state, elsewhere as trained
    words = (
        "strategy=fedavg",
        "server.batchnorm=mean",
        "contamination=backdoor_neurotoxin",
        "contamination.kept=0.5",
        *POISON,
    )
    server, patch = (
        federations.build_server(*words),
        federations.build_server(*words[:2], "contamination=backdoor_patch", *POISON),
    )
    start = read(server.model, server.layout)
    halves = torch.arange(start.parameters.numel()) % 2 == 0
    later = State(start.parameters + torch.where(halves, 0.01, 0.0), start.buffers)
    hospital, other = context(1), context(0)
    first, second = (
        trained(server, app(message(server, 1, n, state=one), hospital)).state
        for n, one in ((1, start), (2, later))
    )
    as_trained = [
        trained(patch, app(message(patch, 1, n, state=one), context(1))).state
        for n, one in ((1, start), (2, later))
    ]
    assert torch.equal(first.parameters, as_trained[0].parameters)  # nothing was received before
    assert torch.equal(
        second.parameters, torch.where(halves, later.parameters, as_trained[1].parameters)
    )
    app(message(server, 0, state=start), other)
    assert [name.split("-")[0] for name in sorted(hospital.state)] == ["memory", "received"]
    assert [name.split("-")[0] for name in other.state] == ["memory"]  # no other keeps models
    again = trained(server, app(message(server, 1, 1, state=later), hospital)).state
    # a run that starts anew has received nothing
    assert not torch.equal(again.parameters[halves], later.parameters[halves])
