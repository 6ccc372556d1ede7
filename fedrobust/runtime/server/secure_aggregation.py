"""The server's loop under secure aggregation: four messages a round in the place of one, and a sum
in the place of the updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, final

import torch
from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedrobust.aggregation.updates import Updates
from fedrobust.errors import RunError
from fedrobust.experiment.experiment import sum_scale
from fedrobust.privacy.secure import fixed_point
from fedrobust.privacy.secure import server as coordinator
from fedrobust.privacy.secure.server import RevealedSecrets, ServerSession
from fedrobust.runtime.messages import records, secure
from fedrobust.runtime.server.replies import ReplyValidator
from fedrobust.runtime.server.rule_strategy import Report, RoundOutcome, RuleStrategy, ServerContext
from fedrobust.state import State, state_digest
from fedrobust.types import ClientRecord, Failure
from fedrobust.utils.counting import format_count

ALL = -1  # the number of the only row of updates: the mean over all clients
# relative: by so much the mean of clipped updates may be longer than `clip` through rounding
SLACK = 1e-3
T = TypeVar("T")
# (content, client) -> (value, info)
Read = Callable[[RecordDict, int], tuple[T, Mapping[str, object]]]


@final
class SecureStrategy(RuleStrategy):
    """Holds a rule that works on sums. Of the updates it has one masked reply, the masked sum so
    far, and at the end their mean.

    A client whose keys or shares do not come is left out of the round; the masks of one that is
    lost after that are removed with the others' shares. Both count as failures under
    server.max_failures; fewer than the threshold end the run.
    """

    value_bytes = 8

    def __init__(self, server: ServerContext, state: State) -> None:
        super().__init__(server, state)
        experiment = server.experiment
        self._threshold, self._scale = (
            experiment.privacy.least(experiment.settings.num_participants),
            sum_scale(experiment),
        )
        self._grid: Grid | None = None
        self._begin(0)

    def _begin(self, server_round: int) -> None:
        self._round = server_round
        self._order = {
            **self.training_config(server_round),
            records.STATE_DIGEST: state_digest(self.state),
        }
        self._keys: dict[int, bytes] = {}
        self._shared: list[int] = []
        self._failures: dict[int, Failure] = {}
        self._notes: list[Failure] = []
        self._participants: tuple[ClientRecord, ...] = ()

    def request_training(self, server_round: int, grid: Grid) -> Iterator[Message]:
        """Keys, shares, then the masked updates, which are yielded as they come. Raises RunError
        once too few hospitals are left."""
        self._begin(server_round)
        self._grid = grid
        chosen = self.server.experiment.participants(server_round)
        seen: set[bytes] = set()
        self._keys = self._answers(
            "keys",
            dict.fromkeys(chosen, secure.stage_message(self._order)),
            lambda content, client: secure.read_keys(content, client, seen),
        )
        contents = dict.fromkeys(self._keys, secure.stage_message(self._order, keys=self._keys))
        sealed_shares = self._answers(
            "shares",
            contents,
            lambda content, client: secure.read_shares(content, self._keys.keys() - {client}),
        )
        self._shared = list(sealed_shares)
        state = records.state_record(self.state)
        yield from self._ask_each(
            "masked",
            {client: self._training(state, client, sealed_shares) for client in self._shared},
            MessageType.TRAIN,
        )

    def _training(
        self, state: ArrayRecord, client: int, sealed_shares: Mapping[int, Mapping[int, bytes]]
    ) -> RecordDict:
        own = {sender: sent[client] for sender, sent in sealed_shares.items() if sender != client}
        return RecordDict(
            {**records.train_message(state, self._order), "shares": secure.table_record(own)}
        )

    def aggregate(self, server_round: int, replies: Iterable[Message]) -> None:
        """The rule on the mean of the updates whose sum was opened. Raises RunError as
        `RuleStrategy` does, and where the sum cannot be opened or cannot be one of clipped
        updates."""
        super().aggregate(server_round, replies)
        self.outcome = replace(self.outcome, clients=self._participants)

    def _collect(
        self, replies: Iterable[Message]
    ) -> tuple[Updates, dict[int, Report], tuple[Failure, ...]]:
        """One row: the mean of the updates that arrived, once its masks are off."""
        layout, arrived = self.server.layout, set[int]()
        size = layout.num_parameters + 1
        total = torch.zeros(size, dtype=torch.int64)
        for client, vector in self._read(
            replies, lambda content, _: secure.read_masked(content, size)
        ):
            total += vector
            arrived.add(client)
            del vector  # it lies in the sum: its memory is for the next one
        self._conclude(self._shared, arrived)
        survivors = sorted(arrived)
        self._open(total, survivors)
        mean_D, weight = self._mean(total, survivors)
        self._participants = self._records(survivors)
        buffers_1B, counts_1 = (
            self.state.buffers[None].clone(),
            torch.tensor([float(weight)], dtype=torch.float64),
        )
        return (
            Updates(mean_D[None], buffers_1B, counts_1, (ALL,), layout),
            {ALL: Report(weight, {}, {})},
            self._lost(),
        )

    def _open(self, total: Tensor, survivors: list[int]) -> None:
        """Ask for the shares that take the masks off, and take them off."""
        content, lost = (
            secure.stage_message(self._order, survivors=dict.fromkeys(survivors, b"")),
            set(self._shared) - set(survivors),
        )
        read: Read[RevealedSecrets] = lambda content, _: secure.read_unmasking(  # noqa: E731
            content, survivors, lost
        )
        answers = self._answers("unmask", dict.fromkeys(survivors, content), read)
        session = ServerSession(
            records.task_digest(self._order), self._threshold, self._keys, self._shared, survivors
        )
        coordinator.recover_secrets(total, session, answers)

    def _mean(self, total: Tensor, survivors: Sequence[int]) -> tuple[Tensor, int]:
        """(mean_D, sum of weights). Raises RunError where the sum cannot be one of clipped updates;
        whose fault that is stays hidden."""
        why = (
            f"round {self._round}: the sum is none of clipped updates, some "
            "hospital did not keep to secure aggregation"
        )
        if not len(survivors) <= int(total[-1]) <= self._most_weight(survivors):
            raise RunError(f"{why} (the weights of {len(survivors)} sum to {int(total[-1])})")
        mean_D, weight = fixed_point.decode(total, self._scale)
        length = float(torch.linalg.vector_norm(mean_D, dtype=torch.float64))
        clip = self.server.experiment.privacy.clip or math.inf
        if not length <= clip * (1 + SLACK):
            raise RunError(f"{why} (the mean has the length {length:.3g}, privacy.clip={clip:g})")
        return mean_D, weight

    def _most_weight(self, survivors: Sequence[int]) -> int:
        """The most that these hospitals can weigh together: no more images than they are known to
        have."""
        experiment = self.server.experiment
        if experiment.strategy.sums != "examples":
            return len(survivors)
        return sum(experiment.weight_limit(client) for client in survivors)

    def _records(self, survivors: list[int]) -> tuple[ClientRecord, ...]:
        """Weight of each hospital by the numbers of images that are known without its reply
        (docs/privacy.md)."""
        experiment = self.server.experiment
        most = experiment.settings.server.max_examples
        counts = {client: min(experiment.num_examples(client), most) for client in survivors}
        weights = counts if experiment.strategy.sums == "examples" else dict.fromkeys(survivors, 1)
        total = max(sum(weights.values()), 1)
        return tuple(
            ClientRecord(client, counts[client], weights[client] / total, {})
            for client in survivors
        )

    # --- one set of messages ---

    def _ask_each(
        self, stage: str, contents: Mapping[int, RecordDict], kind: str
    ) -> Iterator[Message]:
        """Send each client its own content; the replies as they come."""
        if self._grid is None:
            raise RunError(
                "privacy=secure_aggregation: needs the loop of fedrobust "
                "(fedrobust.runtime.server.loop), not Flower's own"
            )
        nodes = sorted(self._grid.get_node_ids())
        self.validator = ReplyValidator(
            self._expected(secure.stage_digest(records.task_digest(self._order), stage)),
            {nodes[client]: client for client in contents if client < len(nodes)},
        )
        messages = (
            Message(contents[client], dst_node_id=node, message_type=kind)
            for node, client in self.validator.clients.items()
        )
        return self._ask(self._grid, self.validator.register(messages))

    def _answers(
        self, stage: str, contents: Mapping[int, RecordDict], read: Read[T]
    ) -> dict[int, T]:
        """{client: its answer}, ascending. Raises RunError where too few are left."""
        found = dict(
            self._read(self._ask_each(stage, contents, f"{MessageType.TRAIN}.{stage}"), read)
        )
        self._conclude(contents, found)
        return dict(sorted(found.items()))

    def _read(self, replies: Iterable[Message], read: Read[T]) -> Iterator[tuple[int, T]]:
        """(client, its answer) one by one; those without a usable one have failed."""
        for message in replies:
            client = self.validator.client_of(message)
            value = self.validator.read_checked(
                message,
                lambda content: read(content, client),  # noqa: B023
            )
            del message
            if isinstance(value, Failure):
                self._failures[client] = value
            else:
                yield client, value

    def _conclude(self, asked: Collection[int], answered: Collection[int]) -> None:
        """Clients without an answer have failed. Raises RunError by server.max_failures and the
        threshold."""
        server = self.server.experiment.settings.server
        allowed = server.max_failures
        for client in set(asked) - set(answered) - self._failures.keys():
            self._failures[client] = Failure(client, f"no reply within {server.round_timeout:g} s")
        self._notes += self.validator.notes
        # what is known of the round, should it end the run here
        self.outcome = RoundOutcome((), self._lost(), {})
        who = "; ".join(f"client {one.client}: {one.reason}" for one in self._lost()[:3])
        if len(self._failures) > allowed:
            raise RunError(
                f"round {self._round}: {format_count(len(self._failures), 'client')} failed, "
                f"server.max_failures={allowed} ({who})"
            )
        if len(answered) < self._threshold:
            why = (
                "secure aggregation opens no sum with fewer than "
                f"privacy.threshold={self._threshold}"
            )
            raise RunError(
                f"round {self._round}: "
                f"{format_count(len(answered), 'hospital is', 'hospitals are')} left, {why} ({who})"
            )

    def _lost(self) -> tuple[Failure, ...]:
        return (*(self._failures[client] for client in sorted(self._failures)), *self._notes)
