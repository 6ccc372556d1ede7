"""A round as a rule sees it, what it returns, and a rule as a value. Nothing here knows who is
poisoned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor

from fedrobust.aggregation.updates import Updates, normalize
from fedrobust.state import Layout, State, views
from fedrobust.types import ClientTrainer, Samples


@dataclass(frozen=True, slots=True)
class ServerData:
    """The server's own data and scratch model. `root`: small, trusted, labelled; `proxy`: images
    for distillation and BatchNorm statistics, its labels are not to be used unless the rule says
    so; None where a rule did not ask for it. `model` is a scratch `classifier.Classifier` into
    which any state may be loaded. `trainer`: what the clients train with, for rules that train on
    the root set."""

    model: Any
    root: Samples | None = None
    proxy: Samples | None = None
    trainer: ClientTrainer | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """All that a server rule may see. No field says who is poisoned. `memory` is what the rule
    returned last round; `reports`, in the order of `updates.clients`, what each client's trainer
    sent beside its update (`TrainResult.extras`), as it claims: finite, but of any name and shape;
    empty where none did."""

    number: int
    reference: State
    updates: Updates
    server_data: ServerData
    generator: Generator
    memory: Mapping[str, Any] = field(default_factory=dict)
    reports: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Result of a rule. `weights_N` is the influence in [0, 1] given to each client, in the
    order of `updates.clients`; `extras` are per-client columns (lists of N floats) or plain floats
    for the record; `memory` comes back next round. `recalibrated`: the buffers are those that
    `batchnorm.recalibrate` gives these parameters on the proxy images, so that need not be done
    again. `messages`: by client, what its trainer gets with the model the next time it is asked
    (`Task.extras`: scalars and tensors)."""

    state: State
    weights_N: Tensor
    extras: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    recalibrated: bool = False
    messages: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


Rule = Callable[[Round], Aggregate]
SUM_WEIGHTS = ("examples", "uniform")  # a client's number of training images; 1


@dataclass(frozen=True, slots=True)
class Strategy:
    """A named server rule. `uses` names the server's extra information it needs, of {"root",
    "proxy"}; below `min_clients` replies the rule is not defined, and `limited_by` is the setting
    that asks for so many ("": none does).

    sums: for a rule that needs no more of the updates than their weighted sum, and gives the same
    from one row that holds their weighted mean: what weighs an update, of SUM_WEIGHTS. None: it
    looks at single updates, which secure aggregation hides.
    """

    name: str
    rule: Rule
    uses: frozenset[str] = frozenset()
    min_clients: int = 1
    sums: str | None = None
    limited_by: str = "strategy.f"


def merge_buffers(layout: Layout | None, buffers_NB: Tensor, weights_N: Tensor) -> Tensor:
    """The (B,) weighted mean of buffers; a running variance also gets the spread between the
    clients' running means, so that the merged statistics are those of the weighted mixture: var =
    sum w (var_n + (mean_n - mean)^2).

    weights_N are shares that sum to 1.
    """
    weights = weights_N.to(buffers_NB)
    mean_B = weights @ buffers_NB
    if layout is None:
        return mean_B
    spread_B = weights @ (buffers_NB - mean_B) ** 2
    merged, spread = views(layout.buffers, mean_B), views(layout.buffers, spread_B)
    for name in merged:
        if (
            name.endswith("running_var")
            and (partner := name.removesuffix("var") + "mean") in spread
        ):
            merged[name] += spread[partner]
    return mean_B


def make_aggregate(round: Round, update_D: Tensor, weights_N: Tensor, **record: Any) -> Aggregate:
    """The Aggregate of a rule: reference + update for the parameters, buffers merged by the
    clients' influence.

    With no influence left the reference's buffers stay. The sum is formed in `update_D` itself
    where its type and place allow: a rule that uses its update further gives a copy. `record`:
    Aggregate's `extras` and `memory`.
    """
    reference = round.reference
    weights_N = normalize(weights_N.cpu())
    buffers = reference.buffers
    if weights_N.sum() > 0:
        buffers = merge_buffers(round.updates.layout, round.updates.buffers_NB.cpu(), weights_N)
    parameters = update_D.to(reference.parameters).add_(reference.parameters)
    return Aggregate(State(parameters, buffers), weights_N, **record)
