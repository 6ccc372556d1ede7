"""Composition of strategies: pre-aggregation -> rule -> server optimizer, which together are a rule
again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Generator, Tensor

from fedrobust.aggregation.mixtures import mix_updates
from fedrobust.aggregation.round import Aggregate, Round, Strategy
from fedrobust.aggregation.updates import normalize
from fedrobust.errors import ConfigError
from fedrobust.state import State

Mixer = Callable[[Tensor, tuple[int, ...], Generator], Tensor]
RoundMixer = Callable[[Round, Tensor], Tensor]
Step = Callable[[Tensor, Mapping[str, Any]], tuple[Tensor, dict[str, Any]]]


def _as_many(clients: int) -> int:
    return clients


@dataclass(frozen=True, slots=True)
class Preaggregation:
    """A linear map of the updates, done before the rule.

    mix: (gram_NN, clients, generator) -> (M, N) float64 non-negative coefficients of the rows that
    the rule will see; gram_NN are the float64 inner products of the updates. None: the rule sees
    the updates themselves. rows: how many rows it makes of so many clients. Below min_clients it is
    not defined, and limited_by is the setting that asks for so many. mix_round: (round, gram_NN) ->
    the same (M, N) coefficients, in place of `mix`, for a map that must see single coordinates or
    the server's model; uses: of {"root", "proxy"}, what it needs of the server's images.
    """

    name: str
    mix: Mixer | None
    min_clients: int = 1
    rows: Callable[[int], int] = _as_many
    limited_by: str = "preaggregation.f"
    mix_round: RoundMixer | None = None
    uses: frozenset[str] = frozenset()

    @property
    def active(self) -> bool:
        """Whether the rule sees anything else than the updates themselves."""
        return self.mix is not None or self.mix_round is not None

    def coefficients(self, round: Round, gram_NN: Tensor) -> Tensor:
        """(M, N) float64 coefficients of the rows that the rule sees; gram_NN: the updates' inner
        products. Only where it is `active`."""
        if self.mix_round is not None:
            return self.mix_round(round, gram_NN)
        assert self.mix is not None
        return self.mix(gram_NN, round.updates.clients, round.generator)


@dataclass(frozen=True, slots=True)
class ServerOptimizer:
    """Last step of the server: turns a rule's result into the new model.

    step: (pseudo-gradient_D: the rule's parameters minus the reference's, memory) -> (what is added
    to the reference's_D, memory). None: the rule's result is the new model.
    """

    name: str
    step: Step | None


def compose_strategy(
    strategy: Strategy, preaggregation: Preaggregation, optimizer: ServerOptimizer
) -> Strategy:
    """One rule out of the three. Where both others do nothing it is `strategy` itself.

    Its name joins theirs with "+"; it needs so many clients that every part has enough. Raises
    ConfigError where one of the three is of another kind.
    """
    wanted = {"strategy": (strategy, Strategy), "preaggregation": (preaggregation, Preaggregation)}
    wanted["server_optimizer"] = (optimizer, ServerOptimizer)
    for group, (value, kind) in wanted.items():
        if not isinstance(value, kind):
            raise ConfigError(
                f"{group}._target_: makes a {type(value).__name__}, no "
                f"{kind.__name__}; see configs/{group}"
            )
    if preaggregation.active:
        strategy = _after(preaggregation, strategy)
    return strategy if optimizer.step is None else _before(strategy, optimizer.name, optimizer.step)


def _after(preaggregation: Preaggregation, strategy: Strategy) -> Strategy:
    """The rule on the mixtures. The influence reported of a client is what it has through all
    mixtures, P'w, scaled to sum to 1."""

    def rule(round: Round) -> Aggregate:
        gram_NN = round.updates.gram().cpu()
        mixing_MN = preaggregation.coefficients(round, gram_NN)
        result = strategy.rule(
            replace(round, updates=mix_updates(round.updates, mixing_MN, gram_NN), reports=())
        )
        weights_N = normalize(mixing_MN.T @ result.weights_N.to(mixing_MN))
        return replace(result, weights_N=weights_N, extras=_per_client(result.extras, mixing_MN))

    wanted = max(1, preaggregation.min_clients)
    enough = smallest_accepted(
        wanted, lambda clients: preaggregation.rows(clients) >= strategy.min_clients
    )
    return Strategy(
        f"{preaggregation.name}+{strategy.name}",
        rule,
        strategy.uses | preaggregation.uses,
        enough,
        limited_by=preaggregation.limited_by if enough == wanted else strategy.limited_by,
    )


def smallest_accepted(low: int, enough: Callable[[int], bool]) -> int:
    """The smallest number from `low` > 0 on that is enough, as every larger one is then; in few
    steps, since a foreign configuration may ask for any number."""
    high = low
    while not enough(high):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _per_client(extras: Mapping[str, Any], mixing_MN: Tensor) -> dict[str, Any]:
    """Columns of M numbers as columns of N: where rows are not clients, that of the row in which a
    client has its largest share; NaN where it has none."""
    rows, clients = mixing_MN.shape
    if rows == clients:
        return dict(extras)
    share_N, row_N = mixing_MN.max(dim=0)
    places = list(zip(row_N.tolist(), (share_N > 0).tolist(), strict=True))
    columns = {key: value for key, value in extras.items() if isinstance(value, list)}
    return {
        **extras,
        **{
            key: [column_M[row] if seen else math.nan for row, seen in places]
            for key, column_M in columns.items()
        },
    }


def _before(strategy: Strategy, name: str, step: Step) -> Strategy:
    """The rule, and the optimizer's step on its result. Buffers (BatchNorm statistics) are the
    rule's."""

    def rule(round: Round) -> Aggregate:
        result = strategy.rule(replace(round, memory=round.memory.get("rule", {})))
        start_D = round.reference.parameters
        movement_D, kept = step(
            result.state.parameters - start_D, round.memory.get("server_optimizer", {})
        )
        state = State(start_D + movement_D, result.state.buffers)
        memory = {"rule": result.memory, "server_optimizer": kept}
        return replace(result, state=state, memory=memory, recalibrated=False)

    return replace(strategy, name=f"{strategy.name}+{name}", rule=rule)
