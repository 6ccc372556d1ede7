"""A small but whole federation for tests: the smoke experiment, a Grid whose replies are made up,
an observer that remembers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from flwr.app import Error, Message

from fedrobust.experiment import build, compose
from fedrobust.experiment.experiment import Experiment
from fedrobust.runtime.engines.base import SimulationGrid
from fedrobust.runtime.messages import records as wire
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.runtime.server.rule_strategy import RuleStrategy, ServerContext
from fedrobust.state import Layout, State, read
from fedrobust.types import RoundRecord

SMALL_RUN = (
    "model.dimension=8",
    "model.options.channels=[8,8,16,16]",
    "data.num_images=300",
    "client.steps=1",
    "client.batch_size=8",
)
MEAN = ("strategy=fedavg", "server.batchnorm=mean")


def compose_settings(*overrides: str) -> dict[str, Any]:
    """The smoke experiment, made smaller still: 300 images of 16 px, three hospitals, one training
    step each."""
    other_data = any(word.startswith("data=") for word in overrides)
    small = (word for word in SMALL_RUN if not (other_data and word.startswith("data.")))
    words = ("experiment=smoke", *small, *overrides)
    if any(word.startswith("plugins") for word in words):  # whose choices come and go
        return compose.compose(*words)
    return copy.deepcopy(_composed(*words))


@cache
def _composed(*words: str) -> dict[str, Any]:
    """Once in a process, as it takes a tenth of a second."""
    return compose.compose(*words)


def build_experiment(*overrides: str) -> Experiment:
    return build.build_experiment(compose_settings(*overrides))


def build_server(*overrides: str) -> ServerContext:
    """A new server of the experiment."""
    return build_server_context(build_experiment(*overrides))


def build_strategy(one: ServerContext) -> RuleStrategy:
    return RuleStrategy(one, read(one.model, one.layout))


def trained(layout: Layout, reference: State, client: int, scale: float = 0.01) -> State:
    """A made-up trained state of client number `client`; the same at every call."""
    g = torch.Generator().manual_seed(client)
    parameters = reference.parameters + scale * torch.randn(layout.num_parameters, generator=g)
    return State(parameters, reference.buffers + 0.1 * torch.rand(layout.num_buffers, generator=g))


Answer = Callable[[Message], Message | list[Message]]


class FakeGrid(SimulationGrid):
    """Replies with what `answer(message)` makes of each message; `order` permutes the replies."""

    name, description, threads = "fake", "fake", 1

    def __init__(
        self,
        num_clients: int,
        answer: Answer,
        order: Callable[[list[Message]], list[Message]] = list,
    ) -> None:
        super().__init__(num_clients)
        self._answer, self._order = answer, order
        self.sent: list[Message] = []
        self.timeouts: list[float | None] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        asked = list(messages)
        self.sent += asked
        self.timeouts.append(timeout)
        replies: list[Message] = []
        for message in asked:
            answered = self._answer(message)
            replies += answered if isinstance(answered, list) else [answered]
        yield from self._order(replies)

    def close(self) -> None:
        """Nothing was taken."""


def task_of(message: Message) -> str:
    """Digest of the message that a reply answers; empty for a message without settings."""
    return (
        wire.task_digest(wire.read_config(message.content)) if "config" in message.content else ""
    )


def info_of(message: Message) -> dict[str, str]:
    """Facts of an honest reply beside its numbers."""
    return {
        "etf-sha256": str(wire.read_config(message.content)["etf-sha256"]),
        "task": task_of(message),
    }


def reply_with(
    one: ServerContext,
    message: Message,
    state: State,
    examples: int = 10,
    sha256: str | None = None,
) -> Message:
    """A good train reply, unless what is given is bad."""
    info = {"etf-sha256": one.etf_sha256 if sha256 is None else sha256, "task": task_of(message)}
    return Message(wire.train_reply(state, examples, {"loss": 1.0}, info), reply_to=message)


def honest(one: ServerContext, scale: float = 0.01) -> Answer:
    """Every client sends `trained` of the state that it got."""
    sizes = one.layout.num_parameters, one.layout.num_buffers

    def answer(message: Message) -> Message:
        client = message.metadata.dst_node_id
        reference = wire.read_state(message.content["state"], sizes)
        return reply_with(
            one, message, trained(one.layout, reference, client, scale), 10 * (client + 1)
        )

    return answer


def verdict(one: ServerContext, message: Message) -> Message:
    """A good evaluate reply of a client whose model names all of its test images rightly."""
    size = one.experiment.test_size(message.metadata.dst_node_id)
    labels = torch.arange(size or 1) % one.experiment.num_classes
    part = torch.eye(one.experiment.num_classes)[labels], labels
    content = wire.evaluate_reply({"clean": part, "contaminated": part}, {}, info_of(message))
    return Message(content, reply_to=message)


def error_reply(message: Message, reason: str) -> Message:
    return Message(Error(2, reason), reply_to=message)


class Memory:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.records: list[tuple[str, RoundRecord]] = []
        self.events: list[tuple[Any, ...]] = []

    def run_started(self, run: str, rounds: int, num_clients: int) -> None:
        self.events.append(("run", run, rounds, num_clients))

    def round_started(self, run: str, number: int) -> None:
        self.events.append(("round", run, number))

    def client_done(self, run: str, stage: str, client: int, failed: bool) -> None:
        self.events.append(("client", run, stage, client, failed))

    def stage(self, run: str, text: str) -> None:
        self.events.append(("stage", run, text))

    def round_finished(self, run: str, record: RoundRecord) -> None:
        self.records.append((run, record))

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None:
        self.events.append(("restored", run, len(records)))
