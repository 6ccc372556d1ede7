"""Laws of server rules. One that uses images of the server gets updates of a small classifier, and
of the laws those that do not say where the model goes: its images decide that, too."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Generator, Tensor, nn

from fedrobust.aggregation.round import Aggregate, Round, ServerData, Strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.state import Layout, State, read
from fedrobust.testing.laws import SEEDS, Law, check_laws, normal, require, require_close
from fedrobust.testing.trainers import example_images, example_model
from fedrobust.types import Task, TrainResult
from fedrobust.utils.images import as_unit

PARAMETERS = 7
IMAGES, SHORT = 12, 0.01  # of the server, of each kind; length of an update's values beside them
# laws of rules that use no images of the server
IMAGE_FREE = frozenset({"shift", "equal_updates", "no_updates", "one_client", "blocks"})
LARGEST = 1e15  # an update with a larger value is refused before any rule sees it


def check_rule(
    strategy: Strategy, *, without: Collection[str] = (), seeds: Iterable[int] = SEEDS
) -> None:
    """Put a server rule through the laws in `RULE_LAWS`.

    A rule never sees NaN or infinity: replies with either are refused before. One that uses root or
    proxy images is not asked for the laws in `IMAGE_FREE`.

    Args:
        strategy: what the factory of the rule returns.
        without: names of laws that it does not claim to keep, e.g. ["shift"] for a rule that
            measures from the global model.
        seeds: of the updates.

    Raises:
        LawError: a law does not hold; the message says which.
        ValueError: `without` names no law.
    """
    laws = {
        name: law for name, law in RULE_LAWS.items() if not strategy.uses or name not in IMAGE_FREE
    }
    check_laws(strategy.name, strategy, laws, seeds, set(without) - (IMAGE_FREE - set(laws)))


def crowd(seed: int, strategy: Strategy, more: int = 2) -> tuple[Tensor, Tensor]:
    """Updates (N, D) of so many clients more than the rule needs, and their numbers of images; of a
    rule that uses images small ones of the example model, else D = 7."""
    n, width, length = strategy.min_clients + more, PARAMETERS, 1.0
    if strategy.uses:
        width, length = Layout.of(example_model()).num_parameters, SHORT
    return length * normal(seed, n, width), 1 + (normal(seed + 1, n).abs() * 100).floor()


def apply(
    strategy: Strategy, matrix_ND: Tensor, counts_N: Tensor, reference_D: Tensor | None = None
) -> Aggregate:
    """What the rule makes of one round with these updates. reference_D: the global model; None:
    zeros, or the example model where the rule uses images."""
    if strategy.uses:
        return _apply_with_images(strategy, matrix_ND, counts_N, reference_D)
    reference = State(
        torch.zeros(matrix_ND.shape[1]) if reference_D is None else reference_D, torch.zeros(0)
    )
    updates = Updates.of(matrix_ND, counts_N)
    return strategy.rule(
        Round(1, reference, updates, ServerData(nn.Identity()), Generator().manual_seed(0))
    )


def _apply_with_images(
    strategy: Strategy, matrix_ND: Tensor, counts_N: Tensor, reference_D: Tensor | None
) -> Aggregate:
    model = example_model()
    layout = Layout.of(model)
    state = read(model, layout)
    reference = state if reference_D is None else State(reference_D, state.buffers)
    images = {name: example_images(IMAGES, 0, name) for name in sorted(strategy.uses)}
    data = ServerData(model, images.get("root"), images.get("proxy"), _train_a_little)
    updates = replace(
        Updates.of(matrix_ND, counts_N),
        layout=layout,
        buffers_NB=state.buffers.repeat(len(matrix_ND), 1),
    )
    return strategy.rule(Round(1, reference, updates, data, Generator().manual_seed(0)))


def _train_a_little(task: Task) -> TrainResult:
    """Some steps of gradient descent on all images at once: the clients' trainer of these laws."""
    model, train = task.model, task.data.train
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        loss = nn.functional.cross_entropy(model.scale * model(as_unit(train.images)), train.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return TrainResult(len(train), {})


def _order(strategy: Strategy, seed: int) -> None:
    """The order of the clients does not matter."""
    matrix, counts = crowd(seed, strategy)
    order = torch.randperm(len(matrix), generator=Generator().manual_seed(seed))
    one, other = apply(strategy, matrix, counts), apply(strategy, matrix[order], counts[order])
    require_close(one.state.parameters, other.state.parameters, "the model changes with the order")
    require_close(one.weights_N[order], other.weights_N, "influences change with the order")


def _shift(strategy: Strategy, seed: int) -> None:
    """A shift of all updates shifts the result by as much."""
    matrix, counts = crowd(seed, strategy)
    shift = normal(seed + 2, PARAMETERS)
    one, other = apply(strategy, matrix, counts), apply(strategy, matrix + shift, counts)
    require_close(one.state.parameters + shift, other.state.parameters, "the result is elsewhere")


def _equal_updates(strategy: Strategy, seed: int) -> None:
    """Where all clients send one update, the model moves by that update."""
    matrix, counts = crowd(seed, strategy)
    same = matrix[:1].expand(len(matrix), PARAMETERS)
    moved = apply(strategy, same, counts).state.parameters
    require_close(moved, matrix[0], "the model moves otherwise")


def _no_updates(strategy: Strategy, seed: int) -> None:
    """Where no client has learnt anything, the model stays."""
    matrix, counts = crowd(seed, strategy)
    reference = normal(seed + 3, PARAMETERS)
    moved = apply(strategy, torch.zeros_like(matrix), counts, reference).state.parameters
    require_close(moved, reference, "the model moves")


def _one_client(strategy: Strategy, seed: int) -> None:
    """A single client, where the rule allows it, decides alone."""
    if strategy.min_clients > 1:
        return
    update, reference = normal(seed, 1, PARAMETERS), normal(seed + 1, PARAMETERS)
    result = apply(strategy, update, torch.tensor([3.0]), reference)
    require_close(result.state.parameters, reference + update[0], "the model is another one")
    require(result.weights_N.tolist() == [1], f"its influence is {result.weights_N.tolist()}")


def _weights(strategy: Strategy, seed: int) -> None:
    """Influences are one share a client: from 0, 1 in all, or all 0 where the model stays."""
    matrix, counts = crowd(seed, strategy, seed % 5)
    reference = normal(seed + 3, matrix.shape[1])
    result = apply(strategy, matrix, counts, reference)
    found = result.weights_N
    require(
        found.shape == counts.shape,
        f"influences {tuple(found.shape)} for clients {tuple(counts.shape)}",
    )
    require((found >= 0).all(), f"influences are below 0: {found.tolist()}")
    if not found.any():
        if "proxy" in strategy.uses:  # a distillation moves it all the same
            return
        require_close(result.state.parameters, reference, "the model moves without any influence")
        return
    total = found.double().sum()
    require(torch.isclose(total, torch.ones_like(total)), f"influences sum to {float(total)}")


def _input(strategy: Strategy, seed: int) -> None:
    """Updates, numbers of images and the global model are not changed in place."""
    matrix, counts = crowd(seed, strategy, seed % 5)
    given = (matrix, counts, normal(seed + 3, matrix.shape[1]))
    before = [one.clone() for one in given]
    apply(strategy, *given)
    for name, one, other in zip(("updates", "counts", "model"), before, given, strict=True):
        require(torch.equal(one, other), f"the {name} are others afterwards")


def _fewest_clients(strategy: Strategy, seed: int) -> None:
    """As few clients as `min_clients` says are enough."""
    found = apply(strategy, *crowd(seed, strategy, more=0)).state.parameters
    require(found.isfinite().all(), f"the model is {found.tolist()}")


def _large_updates(strategy: Strategy, seed: int) -> None:
    """One client with the largest values that are let through makes no NaN and no infinity."""
    matrix, counts = crowd(seed, strategy)
    matrix[seed % len(matrix)] = LARGEST * matrix[0].sign()
    found = apply(strategy, matrix, counts)
    require(found.state.parameters.isfinite().all(), "the model is not finite")
    require(found.weights_N.isfinite().all(), "influences are not finite")


def _generator(strategy: Strategy, seed: int) -> None:
    """The round's generator decides everything: the same round gives the same bits, and torch's
    global random numbers stay untouched."""
    matrix, counts = crowd(seed, strategy)
    before = torch.random.get_rng_state()
    one, other = apply(strategy, matrix, counts), apply(strategy, matrix, counts)
    require(torch.equal(one.state.parameters, other.state.parameters), "the model differs")
    require(torch.equal(one.weights_N, other.weights_N), "influences differ")
    require(torch.equal(before, torch.random.get_rng_state()), "global random numbers are drawn")


def _blocks(strategy: Strategy, seed: int) -> None:
    """Updates that are read in blocks of few columns give what whole ones give."""
    matrix, counts = crowd(seed, strategy)
    whole, blocks = apply(strategy, matrix, counts), Updates.blocks
    narrow = patch.object(
        Updates, "blocks", lambda self, _width=None, rows=None: blocks(self, 3, rows)
    )
    with narrow:
        cut = apply(strategy, matrix, counts)
    require_close(whole.state.parameters, cut.state.parameters, "the model differs")
    require_close(whole.weights_N, cut.weights_N, "influences differ")


RULE_LAWS: Mapping[str, Law[Strategy]] = {
    "order": _order,
    "shift": _shift,
    "equal_updates": _equal_updates,
    "no_updates": _no_updates,
    "one_client": _one_client,
    "fewest_clients": _fewest_clients,
    "weights": _weights,
    "input": _input,
    "large_updates": _large_updates,
    "generator": _generator,
    "blocks": _blocks,
}
