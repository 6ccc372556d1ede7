"""Whole simulations under secure aggregation: the same model as clipped federated averaging,
any client lost, and what the server sees."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fedrobust.clients.app import app
from flwr.app import ConfigRecord, Context, Message, RecordDict
from scipy.stats import chisquare
from torch import Tensor

from fedrobust.errors import RunError
from fedrobust.experiment import experiment
from fedrobust.privacy.secure import fixed_point
from fedrobust.privacy.secure import server as secure_server
from fedrobust.reporting import report as reporting
from fedrobust.reporting.report.sections import PrivacySection
from fedrobust.reporting.text import privacy_text
from fedrobust.runtime.client import secure_aggregation
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.messages import records, secure
from fedrobust.runtime.server.checkpointing import CheckpointManager
from fedrobust.runtime.server.loop import TrainingResult, build_server_context, run_rounds
from fedrobust.runtime.server.run import run_experiment
from fedrobust.state import State
from tests.helpers import federations
from tests.helpers.federations import Memory
from tests.runtime.server.test_checkpointing import StopAfter, StoppedError, checkpoints

CLIP = 0.05  # shorter than the updates of one step
# Adam would make a full step of a gradient that is all rounding
STEPS = ("client.optimizer.name=SGD", "client.optimizer.lr=0.05")
BASE = (
    "strategy=fedavg",
    *STEPS,
    "poisoned=0",
    "rounds=2",
    f"privacy.clip={CLIP}",
    "evaluation.bootstrap_samples=10",
    "evaluation.twin=false",
)
SECURE, PLAIN = (*BASE, "privacy=secure_aggregation"), (*BASE, "privacy=clipping")
FIVE = ("num_clients=5", "server.max_failures=2")
ClientApp = Callable[[Message, Context], Message]


def losing(*lost: tuple[int, int, str]) -> ClientApp:
    """The app, in which (client, round, kind of message) fails."""

    def answer(message: Message, context: Context) -> Message:
        order = records.read_config(message.content)
        if (context.node_id, order["round"], message.metadata.message_type) in lost:
            raise RuntimeError("the power is off")
        return app(message, context)

    return answer


def finished(words: Iterable[str], client_app: ClientApp = app) -> tuple[TrainingResult, Memory]:
    study, memory = federations.build_experiment(*words), Memory()
    with InlineGrid(client_app, study.num_clients, {"simulation": True}, threads=1) as grid:
        return run_rounds(build_server_context(study), grid, memory), memory


def assert_same_model(one: State, other: State) -> None:
    """But for float32: plain replies hold model + update, whose rounding (half of 2^-23 of a
    parameter) training then continues with."""
    assert float((one.parameters - other.parameters).abs().max()) < 5e-6
    assert float((one.buffers - other.buffers).abs().max()) < 1e-4


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("strategy.weighting=uniform",),
        ("server_optimizer=fedavgm",),
        ("server.batchnorm=local",),
    ],
)
def test_the_model_is_that_of_clipped_federated_averaging(more: tuple[str, ...]) -> None:
    plain, hidden = (finished((*words, *more))[0] for words in (PLAIN, SECURE))
    # the plain ones are merged for the global model, although every hospital uses its own
    if "server.batchnorm=local" in more:
        plain = replace(plain, state=State(plain.state.parameters, hidden.state.buffers))
    assert_same_model(hidden.state, plain.state)
    start = build_server_context(federations.build_experiment(*SECURE)).initial.parameters
    assert float((hidden.state.parameters - start).norm()) > CLIP / 2  # something was learnt
    weights = [(one.client, one.num_examples, one.weight) for one in hidden.records[-1].clients]
    assert weights == [
        (one.client, one.num_examples, pytest.approx(one.weight))
        for one in plain.records[-1].clients
    ]
    assert all(not one.metrics for one in hidden.records[-1].clients)


def test_one_round_is_exact_up_to_the_rounding_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, int]] = []

    def encode(update_D: Tensor, weight: int, s: float) -> Tensor:
        seen.append((update_D.double(), weight))
        return fixed_point.encode(update_D, weight, s)

    monkeypatch.setattr(
        secure_aggregation, "fixed_point", type("Spy", (), {"encode": staticmethod(encode)})
    )
    result, _ = finished((*SECURE, "rounds=1"))
    start, total = (
        build_server_context(federations.build_experiment(*SECURE)).initial.parameters.double(),
        sum(weight for _, weight in seen),
    )
    mean = sum((update * weight for update, weight in seen), torch.zeros_like(start)) / total
    assert len(seen) == 3
    assert all(float(update.norm()) <= CLIP * (1 + 1e-6) for update, _ in seen)
    bound = fixed_point.error(
        3, total, experiment.sum_scale(federations.build_experiment(*SECURE))
    ) + 2.0**-23 * float((start + mean).abs().max())
    assert float((result.state.parameters.double() - (start + mean)).abs().max()) <= bound
    assert bound < 1e-5 * CLIP + 2.0**-22 * float(start.abs().max())


LOST_EARLY = (
    losing((1, 1, "train.keys"), (2, 1, "train.shares")),
    losing((1, 1, "train"), (2, 1, "train")),
)
LOST_LATE = (losing((1, 1, "train"), (3, 2, "train")), losing((1, 1, "train"), (3, 2, "train")))


@pytest.mark.parametrize(
    ("secure_app", "plain_app"),
    [LOST_EARLY, LOST_LATE],
    ids=["before the shares", "after the shares"],
)
def test_lost_hospitals_cost_the_others_nothing(
    secure_app: ClientApp, plain_app: ClientApp
) -> None:
    hidden, memory = finished((*SECURE, *FIVE), secure_app)
    plain, _ = finished((*PLAIN, *FIVE), plain_app)
    assert_same_model(hidden.state, plain.state)
    for ours, theirs in zip(hidden.records, plain.records, strict=True):
        assert [one.client for one in ours.clients] == [one.client for one in theirs.clients]
        assert [one.client for one in ours.failures] == [one.client for one in theirs.failures]
    assert "the power is off" in memory.records[1][1].failures[0].reason


def test_hospitals_lost_before_the_last_answer_are_in_the_sum_all_the_same() -> None:
    hidden, _ = finished((*SECURE, *FIVE), losing((0, 1, "train.unmask"), (4, 1, "train.unmask")))
    plain, _ = finished((*PLAIN, *FIVE))
    assert_same_model(hidden.state, plain.state)
    assert [one.client for one in hidden.records[1].failures] == [0, 4]
    assert [one.client for one in hidden.records[1].clients] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("stage", ["train.keys", "train.shares", "train", "train.unmask"])
def test_the_policy_holds_at_every_stage(stage: str) -> None:
    with pytest.raises(
        RunError,
        match=r"^round 1: 1 client failed, server.max_failures=0 \(client 1: "
        r"RuntimeError: the power is off",
    ):
        finished(SECURE, losing((1, 1, stage)))
    tolerant = ("num_clients=4", "server.max_failures=4")
    with pytest.raises(
        RunError,
        match=r"^round 1: 2 hospitals are left, secure aggregation opens no sum with "
        r"fewer than privacy.threshold=3",
    ):
        finished((*SECURE, *tolerant), losing((1, 1, stage), (2, 1, stage)))


def test_a_run_whose_time_is_up_ends_so_too() -> None:
    with pytest.raises(RunError, match=r"3 clients failed.*timed out after 1e-09 s"):
        finished((*SECURE, "server.round_timeout=1e-9"))


def test_an_update_that_is_not_finite_is_not_sent_and_made_good_for() -> None:
    words = (*FIVE, "contamination=not_finite", "poisoned=[2]")
    hidden, _ = finished((*SECURE, *words))
    assert [one.client for one in hidden.records[1].clients] == [0, 1, 3, 4]
    assert "not finite; nothing is sent" in hidden.records[1].failures[0].reason


def test_poisoned_hospitals_send_through_the_same_mechanism() -> None:
    words = ("contamination=sign_flip", "poisoned=[1]")
    plain, hidden = (finished((*kind, *words))[0] for kind in (PLAIN, SECURE))
    assert_same_model(hidden.state, plain.state)


def test_a_hospital_that_does_not_clip_is_noticed_but_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = fixed_point.encode
    long = type(
        "Long", (), {"encode": staticmethod(lambda update, weight, s: real(50 * update, weight, s))}
    )
    monkeypatch.setattr(secure_aggregation, "fixed_point", long)
    with pytest.raises(
        RunError,
        match="the sum is none of clipped updates, some hospital did not keep to "
        "secure aggregation",
    ):
        finished(SECURE)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_that_was_stopped_and_goes_on_ends_as_if_it_had_not_been(
    tmp_path: Path, stop: int
) -> None:
    words = (*SECURE, *FIVE, "rounds=3")
    undisturbed, _ = finished(words, losing((1, 1, "train"), (2, 2, "train.unmask")))

    def go(observer: Memory) -> TrainingResult:
        server = federations.build_server(*words)
        app_ = losing((1, 1, "train"), (2, 2, "train.unmask"))
        with (
            InlineGrid(app_, 5, {"simulation": True}, threads=1) as grid,
            CheckpointManager(checkpoints(server, tmp_path), grid, [].append) as checkpointing,
        ):
            return run_rounds(server, grid, observer, checkpointing=checkpointing)

    with pytest.raises(StoppedError):
        go(StopAfter(stop))
    resumed = go(Memory())
    assert torch.equal(resumed.state.parameters, undisturbed.state.parameters)
    assert [one.clients for one in resumed.records] == [one.clients for one in undisturbed.records]
    assert [one.failures for one in resumed.records[stop:]] == [
        one.failures for one in undisturbed.records[stop:]
    ]


# --- what the server sees ---


class Listening(InlineGrid):
    """A Grid that keeps what goes to and fro, as a server that writes everything down would."""

    def __init__(self, words: Iterable[str]) -> None:
        self.study = federations.build_experiment(*words)
        super().__init__(app, self.study.num_clients, {"simulation": True}, threads=1)
        self.replies: list[tuple[str, int, RecordDict]] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        for reply in super().send_and_receive(messages, timeout=timeout):
            self.replies.append(
                (reply.metadata.message_type, reply.metadata.src_node_id, reply.content)
            )
            yield reply

    def vectors(self) -> dict[int, Tensor]:
        """Masked updates of all clients in the first round."""
        out: dict[int, Tensor] = {}
        for kind, client, content in self.replies:
            if kind == "train":
                out.setdefault(client, torch.from_numpy(content["masked"]["values"].numpy()))
        return out


def listened(*words: str) -> Listening:
    grid = Listening((*SECURE, *words))
    with grid:
        run_rounds(build_server_context(grid.study), grid, Memory())
    return grid


def test_a_single_reply_holds_nothing_but_noise() -> None:
    one, other = listened().vectors(), listened("seed=1").vectors()
    for client, vector in one.items():
        counts = torch.bincount(
            torch.frombuffer(bytearray(vector.numpy().tobytes()), dtype=torch.uint8).long(),
            minlength=256,
        )
        assert chisquare(counts.numpy()).pvalue > 1e-4  # the seeds are fixed
        assert int((vector == other[client]).sum()) == 0
    assert not any(int((one[a] == one[b]).sum()) for a, b in ((0, 1), (0, 2), (1, 2)))
    again = listened().vectors()
    assert all(torch.equal(one[client], again[client]) for client in one)  # simulations repeat


def test_replies_hold_the_tables_and_the_masked_vector_and_nothing_else() -> None:
    grid = listened("rounds=1")
    names = {
        kind: {name for one, _, content in grid.replies if one == kind for name in content}
        for kind, _, _ in grid.replies
    }
    assert names == {
        "train.keys": {"info", "keys"},
        "train.shares": {"info", "shares"},
        "train": {"info", "masked"},
        "train.unmask": {"info", "seeds", "masks"},
    }
    told = [content for kind, _, content in grid.replies if kind == "train.unmask"]
    assert [len(secure.read_table(content, "seeds", 33)) for content in told] == [3, 3, 3]
    assert [len(secure.read_table(content, "masks", 33)) for content in told] == [0, 0, 0]


def test_the_server_never_holds_a_single_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client's encoded update is looked for in every tensor that is alive while the server
    works; and of the masked ones it keeps no more than their sum, and the last."""
    plain: list[Tensor] = []
    server = build_server_context(federations.build_experiment(*SECURE, *FIVE))
    size, looks = server.layout.num_parameters, []

    def encode(update_D: Tensor, weight: int, s: float) -> Tensor:
        vector = fixed_point.encode(update_D, weight, s)
        plain.append(vector.clone())
        return vector

    def look() -> None:
        mine, found = {id(one) for one in plain}, 0
        for thing in gc.get_objects():
            if (
                type(thing) is Tensor
                and id(thing) not in mine
                and thing.numel() in (size, size + 1)
                and thing.dtype == torch.int64
            ):
                found += 1
                assert not any(torch.equal(thing.reshape(-1)[:100], one[:100]) for one in plain)
        assert len(plain) in (5, 10)
        looks.append(found)

    monkeypatch.setattr(
        secure_aggregation, "fixed_point", type("Spy", (), {"encode": staticmethod(encode)})
    )
    for module, name in ((secure_server, "recover_secrets"), (fixed_point, "decode")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, real=real: (look(), real(*given))[1])
    with InlineGrid(app, 5, {"simulation": True}, threads=1) as grid:
        run_rounds(server, grid, Memory())
    assert len(looks) == 4  # before and after the masks are taken off, in two rounds
    assert all(1 <= found <= 2 for found in looks), looks


def test_what_hospitals_keep_is_gone_after_the_round() -> None:
    grid = listened()
    for state in grid.states.values():
        (kept,) = [
            dict(record)
            for name, record in state.items()
            if name.startswith("secure-") and isinstance(record, ConfigRecord)
        ]
        assert (kept.pop("round"), kept.pop("stage")) == (2, "over")
        assert set(kept) == {"common"}


# --- the report ---


def test_the_report_says_who_was_needed_and_who_was_lost(tmp_path: Path) -> None:
    study = federations.build_experiment(*SECURE, *FIVE)
    with InlineGrid(
        losing((1, 1, "train"), (3, 2, "train.keys")), 5, {"simulation": True}, threads=1
    ) as grid:
        report, _ = run_experiment(build_server_context(study), grid, tmp_path, Memory(), "inline")
    assert report.privacy == PrivacySection(
        name="secure_aggregation",
        clip=CLIP,
        noise_multiplier=0.0,
        replies=2,
        threshold=3,
        participants=5,
        dropped=2,
    )
    assert reporting.read_report(tmp_path).privacy == report.privacy
    text = privacy_text(report.privacy)
    assert text == (
        "privacy=secure_aggregation: updates no longer than 0.05, of which the server saw only "
        "sums, of at least 3 of 5 hospitals a round; left out or lost: 2"
    )
