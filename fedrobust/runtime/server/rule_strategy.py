"""One Flower strategy that holds any server rule: broadcast, validate, fill the matrix of updates,
apply the rule."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, ServerData
from fedrobust.aggregation.storage import allocate, fetch, fill
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import RunError
from fedrobust.evaluation.counts import Withheld, count_images, measure
from fedrobust.experiment.experiment import PERSONAL, Experiment
from fedrobust.experiment.features import ModelInputs
from fedrobust.experiment.settings import NEVER
from fedrobust.learning import batchnorm, etf
from fedrobust.learning.classifier import Classifier
from fedrobust.runtime.engines.base import SimulationGrid
from fedrobust.runtime.messages import arrays as wire
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.upload_limits import limit_reply_size
from fedrobust.runtime.server import collusion, schedule
from fedrobust.runtime.server.replies import Expected, ReplyValidator
from fedrobust.state import Layout, State, read
from fedrobust.types import ATTACKS, ClientRecord, Failure, Samples
from fedrobust.utils.counting import format_count

# The rounds know Flower through this module only.
__all__ = ["Grid", "Message", "RoundOutcome", "RuleStrategy", "ServerContext", "UntrainedState"]

MESSAGES = "messages"  # what the rule has for single clients, kept beside its own memory
MessageConfig = dict[str, str | int | bytes]  # the settings in a message


class Report(NamedTuple):
    """Training images, metrics and extras of one client's reply."""

    num_examples: int
    metrics: Mapping[str, float]
    extras: Mapping[str, Any]


class UntrainedState:
    """The state that a run starts from. It is handed over once and then built anew, equal to the
    last bit, for whoever asks again: only the first round needs it, and it is as large as the
    model."""

    def __init__(self, experiment: Experiment, layout: Layout, state: State) -> None:
        self._experiment, self._layout = experiment, layout
        self._state: State | None = state

    def hand_over(self) -> State:
        """The untrained state."""
        state, self._state = self._state, None
        return read(self._experiment.new_model(), self._layout) if state is None else state


@dataclass(frozen=True)
class ServerContext:
    """The server's objects for a whole run: the experiment, a scratch model on its device, the
    layout of its tensors in a flat state, the untrained state, and the images, or features of
    them, that its models get."""

    experiment: Experiment
    model: Classifier
    layout: Layout
    untrained: UntrainedState
    inputs: ModelInputs

    @property
    def root(self) -> Samples:
        """The server's root images."""
        return self.inputs.root

    @property
    def proxy(self) -> Samples:
        """The server's proxy images."""
        return self.inputs.proxy

    @property
    def initial(self) -> State:
        """The untrained state (see `UntrainedState`): ask once."""
        return self.untrained.hand_over()

    @property
    def etf_bytes(self) -> bytes:
        return b"" if self.model.anchors is None else etf.to_bytes(self.model.anchors)

    @property
    def etf_sha256(self) -> str:
        return "" if self.model.anchors is None else etf.digest(self.model.anchors)

    @property
    def recalibration_images(self) -> Tensor | None:
        """The proxy images, on which the policy server.batchnorm=recalibrate re-estimates BatchNorm
        statistics; None under any other policy."""
        policy = self.experiment.settings.server.batchnorm
        return self.proxy.images if policy == "recalibrate" else None

    @functools.cached_property
    def frozen_sha256(self) -> str:
        """Digest of what is frozen of the model; empty where nothing is."""
        return self.model.frozen_digest()

    def message_config(self, server_round: int) -> MessageConfig:
        """The settings in a round's messages (see `records.train_message`)."""
        return {
            "experiment": self.experiment.sent_text,
            "round": server_round,
            "etf": self.etf_bytes,
            "etf-sha256": self.etf_sha256,
            **({records.FROZEN_DIGEST: self.frozen_sha256} if self.frozen_sha256 else {}),
        }

    def data_for_rule(self) -> ServerData:
        """The data that the rule declares to use."""
        uses = self.experiment.strategy.uses
        root = self.root if "root" in uses and len(self.root) else None
        proxy = self.proxy if "proxy" in uses and len(self.proxy) else None
        return ServerData(
            self.model, root, proxy, None if root is None else self.experiment.trainer
        )


@dataclass(frozen=True)
class RoundOutcome:
    """One aggregated round: who took part with which influence, who failed, and the rule's own
    numbers."""

    clients: tuple[ClientRecord, ...]
    failures: tuple[Failure, ...]
    extras: dict[str, float]


class RuleStrategy(FlowerStrategy):  # type: ignore[misc]  # flwr is untyped here
    """Holds any `round.Strategy`. `state` is the global model, `memory` what the rule remembers,
    `outcome` the last round's; all change with `aggregate`."""

    value_bytes = 4  # of a reply's numbers

    def __init__(self, server: ServerContext, state: State) -> None:
        self.server = server
        self.state = state
        self.outcome = RoundOutcome((), (), {})
        self.memory: dict[str, Any] = {}
        self._metric_names: dict[int, set[str]] = {}  # that each client has used so far
        self.validator = ReplyValidator(self._expected(""), {})
        self._matrix: Tensor | None = None
        self._sent: tuple[State, Updates] | None = None  # the last round's reference and updates

    def request_training(self, server_round: int, grid: Grid) -> Iterator[Message]:
        """Send the global model to the round's clients to be trained; their replies as they
        come."""
        return self._ask(
            grid,
            self.configure_train(
                server_round, records.state_record(self.state), ConfigRecord(), grid
            ),
        )

    def request_evaluation(
        self, server_round: int, grid: Grid, *, attacks: bool = True
    ) -> Iterator[Message]:
        """Send the global model to all clients for evaluation; yields replies as they arrive.
        attacks: whether poisoned clients attacked in the last round; if not, a model of their own
        is not made of contaminated images either."""
        config = self.server.message_config(server_round)
        config = config if attacks else {**config, records.ATTACK: 0}
        return self._ask(grid, self._evaluation(config, records.state_record(self.state), grid))

    def _ask(self, grid: Grid, messages: Iterable[Message]) -> Iterator[Message]:
        timeout = self.server.experiment.settings.server.round_timeout
        replies = self.validator.accept_first(grid.send_and_receive(messages, timeout=timeout))
        values = self.server.layout.num_parameters + self.server.layout.num_buffers
        return (
            replies
            if isinstance(grid, SimulationGrid)
            else limit_reply_size(replies, self.value_bytes * values)
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterator[Message]:
        collusion.check_collusion(
            self.server.experiment, simulated=isinstance(grid, SimulationGrid)
        )
        chosen = self.server.experiment.participants(server_round)
        train = MessageType.TRAIN
        return self._messages(self.training_config(server_round), arrays, grid, train, chosen)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterator[Message]:
        return self._evaluation(self.server.message_config(server_round), arrays, grid)

    def _evaluation(
        self, config: MessageConfig, arrays: ArrayRecord, grid: Grid
    ) -> Iterator[Message]:
        everybody = range(self.server.experiment.num_clients)
        return self._messages(config, arrays, grid, MessageType.EVALUATE, everybody)

    def _messages(
        self,
        config: MessageConfig,
        arrays: ArrayRecord,
        grid: Grid,
        kind: str,
        clients: Iterable[int],
    ) -> Iterator[Message]:
        nodes = sorted(grid.get_node_ids())
        self.validator = ReplyValidator(
            self._expected(records.task_digest(config)),
            {nodes[client]: client for client in clients if client < len(nodes)},
        )
        told = self.memory.get(MESSAGES, {}) if kind == MessageType.TRAIN else {}
        return self.validator.register(
            Message(
                records.train_message(arrays, config, told.get(client)),
                dst_node_id=node,
                message_type=kind,
            )
            for node, client in self.validator.clients.items()
        )

    def training_config(self, server_round: int) -> MessageConfig:
        """The settings in a round's train messages."""
        config = self.server.message_config(server_round)
        if schedule.attack_in(self.server.experiment, server_round, self.memory):
            return config
        return {**config, records.ATTACK: 0}

    def _expected(self, task: str) -> Expected:
        experiment = self.server.experiment
        return Expected(
            self.server.layout,
            experiment.num_classes,
            self.server.etf_sha256,
            task,
            experiment.claim_limit,
            experiment.test_size,
            frozenset(experiment.conditions),
            frozenset(PERSONAL if experiment.sites else ()),
            self._metric_names,
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """`aggregate` for Flower's own loop, which hands over all arrived replies."""
        self.aggregate(server_round, self.validator.accept_first(replies))
        return records.state_record(self.state), MetricRecord({})

    def aggregate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Apply the rule to the usable ones of these replies, of which each is the first of a
        client that was asked (as `request_training` gives them). Raises RunError when too few are
        usable or the new model is not finite."""
        self._sent = None
        updates, reports, failures = self._collect(replies)
        # what is known of the round, should anything below end the run
        self.outcome = RoundOutcome((), failures, {})
        experiment = self.server.experiment
        self._check_enough(server_round, len(updates), failures)
        task = Round(
            number=server_round,
            reference=self.state,
            updates=updates,
            server_data=self.server.data_for_rule(),
            generator=experiment.generator("server", server_round),
            memory=self._rule_memory(),
            reports=tuple(reports[client].extras for client in updates.clients),
        )
        remembered = collusion.apply_attackers(experiment, task, self.memory)
        may_be_last = experiment.attacks_members and experiment.settings.stop_when != NEVER
        if may_be_last or server_round == experiment.settings.rounds:
            self._sent = (self.state, updates)
        aggregate = experiment.strategy.rule(task)
        attacks = schedule.attack_in(experiment, server_round, self.memory)
        known = schedule.remember(experiment, task, aggregate.weights_N, self.memory)
        told = {MESSAGES: aggregate.messages} if aggregate.messages else {}
        self.memory = {**aggregate.memory, **remembered, **known, **told}
        state = self._with_buffers(aggregate)
        if fault := wire.find_fault(state.parameters) or wire.find_fault(state.buffers):
            raise RunError(
                f"round {server_round}: strategy={experiment.strategy.name} produced "
                f"a global model with {fault}"
            )
        self.state = state
        self.outcome = _outcome(updates, reports, failures, aggregate)
        if schedule.is_scheduled(experiment):
            extras = {**self.outcome.extras, ATTACKS: float(attacks)}
            self.outcome = replace(self.outcome, extras=extras)

    def _rule_memory(self) -> dict[str, Any]:
        """What the rule itself remembers."""
        kept = collusion.without_attacker_memory(self.memory)
        return {name: value for name, value in kept.items() if name != MESSAGES}

    def client_models(self) -> Iterator[tuple[int, State]]:
        """Client by client the model that it sent in the last of all rounds; nothing before that
        round."""
        if self._sent is not None:
            reference, updates = self._sent
            for row, client in enumerate(updates.clients):
                yield (
                    client,
                    State(
                        reference.parameters + updates.row(row).to(reference.parameters),
                        updates.buffers_NB[row],
                    ),
                )

    def _collect(
        self, replies: Iterable[Message]
    ) -> tuple[Updates, dict[int, Report], tuple[Failure, ...]]:
        """Stream the replies into the matrix of updates; row order is client order, no matter which
        was first."""
        layout, row_of = (
            self.server.layout,
            {client: row for row, client in enumerate(sorted(self.validator.clients.values()))},
        )
        matrix_ND, (budget, folder) = self._rows(len(row_of)), self._budget()
        reference_D, buffers_NB = (
            self.state.parameters.to(matrix_ND.device),
            torch.empty(len(row_of), layout.num_buffers),
        )
        read_replies: dict[int, Report] = {}
        failures: dict[int, Failure] = {}
        for message in replies:
            client, reply = self.validator.client_of(message), self.validator.read_train(message)
            if isinstance(reply, Failure):
                failures[client] = reply
                continue
            row = row_of[client]
            fill(
                matrix_ND[row],
                partial(torch.sub, reply.state.parameters.to(matrix_ND.device), reference_D),
            )
            buffers_NB[row] = reply.state.buffers
            read_replies[client] = Report(reply.num_examples, reply.metrics, reply.extras)
            del message, reply  # the state lies in the matrix: its memory is for the next one
        for client in row_of.keys() - read_replies.keys() - failures.keys():
            failures[client] = Failure(
                client,
                f"no reply within {self.server.experiment.settings.server.round_timeout:g} s",
            )
        clients = tuple(sorted(read_replies))
        # close the gaps that failed clients left, where they are
        for row, client in enumerate(clients):
            if row_of[client] != row:
                fill(matrix_ND[row], partial(fetch, matrix_ND[row_of[client]]))
                buffers_NB[row] = buffers_NB[row_of[client]]
        matrix_ND, buffers_NB = matrix_ND[: len(clients)], buffers_NB[: len(clients)]
        counts = torch.tensor(
            [read_replies[client].num_examples for client in clients], dtype=torch.float64
        )
        updates = Updates(matrix_ND, buffers_NB, counts, clients, layout, budget, folder)
        return (
            updates,
            read_replies,
            (*(failures[client] for client in sorted(failures)), *self.validator.notes),
        )

    def _rows(self, number: int) -> Tensor:
        """The matrix of updates, the same memory in every round: fresh memory takes eight times as
        long to fill. On the server's GPU where half of what is free there holds it."""
        if self._matrix is None or len(self._matrix) < number:
            self._matrix = None
            columns, device = (
                self.server.layout.num_parameters,
                next(self.server.model.parameters()).device,
            )
            if (
                device.type == "cuda"
                and 4 * number * columns <= torch.cuda.mem_get_info(device)[0] // 2
            ):
                self._matrix = torch.empty(number, columns, device=device)
            else:
                self._matrix = allocate(number, columns, *self._budget())
        return self._matrix[:number]

    def _budget(self) -> tuple[int, str | None]:
        """Most bytes of updates in RAM, and the folder for more."""
        server = self.server.experiment.settings.server
        return server.max_updates_mb << 20, server.scratch_dir

    def _check_enough(self, server_round: int, usable: int, failures: tuple[Failure, ...]) -> None:
        experiment = self.server.experiment
        allowed, least = (
            experiment.settings.server.max_failures,
            experiment.strategy.min_clients,
        )
        lost = [one for one in failures if one.counts]
        who = "; ".join(f"client {one.client}: {one.reason}" for one in lost[:3])
        if len(lost) > allowed:
            raise RunError(
                f"round {server_round}: {format_count(len(lost), 'client')} failed, "
                f"server.max_failures={allowed} ({who})"
            )
        if usable < least:
            raise RunError(
                f"round {server_round}: {format_count(usable, 'usable reply', 'usable replies')}, "
                f"strategy={experiment.strategy.name} needs {least} ({who})"
            )

    def _with_buffers(self, aggregate: Aggregate) -> State:
        """The policy server.batchnorm=recalibrate: BatchNorm statistics of the new model on the
        proxy images, not of the old ones."""
        server, images = self.server, self.server.recalibration_images
        if images is None or aggregate.recalibrated:
            return aggregate.state
        return batchnorm.load_and_recalibrate(server.model, server.layout, aggregate.state, images)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        """Clients' scores are pooled by `loop.evaluate_clients`, which needs them one by one;
        Flower's own loop gets their mean accuracy."""
        right, total = 0.0, 0
        for reply in self.validator.accept_first(replies):
            evaluated = self.validator.read_evaluate(reply)
            if isinstance(evaluated, Failure | Withheld):
                continue
            metrics = measure(evaluated["clean"])
            accuracy, images = metrics["accuracy"], count_images(evaluated["clean"])
            if accuracy is not None:
                right, total = right + accuracy * images, total + images
        return MetricRecord({"accuracy": right / total} if total else {})

    def summary(self) -> None:
        """Flower prints this before its own loop; the command lines of fedrobust have their own
        display."""
        print(
            f"fedrobust rule {self.server.experiment.strategy.name} for "
            f"{format_count(self.server.experiment.num_clients, 'client')}"
        )


def _outcome(
    updates: Updates,
    replies: dict[int, Report],
    failures: tuple[Failure, ...],
    aggregate: Aggregate,
) -> RoundOutcome:
    columns = {key: value for key, value in aggregate.extras.items() if isinstance(value, list)}
    clients = tuple(
        ClientRecord(
            client=client,
            num_examples=replies[client].num_examples,
            weight=float(aggregate.weights_N[row]),
            metrics=replies[client].metrics,
            extras={key: float(values[row]) for key, values in columns.items()},
        )
        for row, client in enumerate(updates.clients)
    )
    plain = {key: float(value) for key, value in aggregate.extras.items() if key not in columns}
    return RoundOutcome(clients, failures, plain)
