"""A user's own rules, contaminations and purifiers under the laws: each kind of mistake is
found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from fedrobust.clients.sgd import sgd
from fedrobust.strategies.fedavg import fedavg
from fedrobust.strategies.fltrust import fltrust
from torch import Generator, Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.base import Backdoor, Contamination
from fedrobust.state import State
from fedrobust.testing import (
    LawError,
    check_contamination,
    check_purifier,
    check_rule,
    check_trainer,
)
from fedrobust.testing.laws import SEEDS
from fedrobust.types import Purifier, Task, TrainResult

MEAN = fedavg()


def changed(change: Callable[[Round, Aggregate], Aggregate], least: int = 1) -> Strategy:
    """The mean with a mistake."""
    return Strategy("mine", lambda round: change(round, MEAN.rule(round)), min_clients=least)


def first_alone(round: Round, found: Aggregate) -> Aggregate:
    weights = torch.eye(len(round.updates), dtype=torch.float64)[0]
    return make_aggregate(round, round.updates.combine(weights), weights)


def moved(round: Round, found: Aggregate) -> Aggregate:
    return replace(found, state=replace(found.state, parameters=found.state.parameters + 1))


def in_place(round: Round, found: Aggregate) -> Aggregate:
    round.updates.matrix_ND.mul_(0.5)
    return found


def unlike_weights(round: Round, found: Aggregate) -> Aggregate:
    return replace(found, weights_N=found.weights_N * 2)


def squared(round: Round, found: Aggregate) -> Aggregate:
    kept = (found.state.parameters**4).isfinite()
    parameters = found.state.parameters / kept
    return replace(found, state=replace(found.state, parameters=parameters))


def global_random(round: Round, found: Aggregate) -> Aggregate:
    torch.rand(1)
    return found


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (first_alone, "order"),
        (moved, "equal_updates"),
        (in_place, "order|input"),
        (unlike_weights, "one_client|weights"),
        (squared, "large_updates"),
        (global_random, "generator"),
    ],
)
def test_a_rule_with_a_mistake_breaks_a_law(
    mistake: Callable[[Round, Aggregate], Aggregate], law: str
) -> None:
    with pytest.raises(LawError, match=rf"^mine breaks the law ({law}) \(seed \d\): "):
        check_rule(changed(mistake), seeds=range(3))


def test_too_few_clients_are_noticed() -> None:
    def needs_three(round: Round, found: Aggregate) -> Aggregate:
        scale = 1.0 if len(round.updates) > 2 else float("nan")
        return make_aggregate(
            round, round.updates.combine(found.weights_N) * scale, found.weights_N
        )

    check_rule(changed(needs_three, least=3), seeds=[0])
    with pytest.raises(LawError, match="fewest_clients"):
        check_rule(changed(needs_three, least=2), seeds=[0])


def test_a_right_rule_passes_and_an_exception_is_named() -> None:
    check_rule(MEAN)
    check_rule(changed(global_random), without=["generator"], seeds=[0])
    with pytest.raises(ValueError, match="without=generators: is no law; known are order, shift"):
        check_rule(MEAN, without=["generators"])


def test_a_rule_with_images_of_the_server_gets_them() -> None:
    check_rule(fltrust(), seeds=[0])
    seen: list[Round] = []

    def with_root(change: Callable[[Round, Aggregate], Aggregate]) -> Strategy:
        def rule(round: Round) -> Aggregate:
            seen.append(round)
            return change(round, MEAN.rule(round))

        return Strategy("mine", rule, frozenset({"root"}))

    check_rule(with_root(lambda _, found: found), seeds=[0])
    data = seen[0].server_data
    assert data.root is not None
    assert data.proxy is None
    assert seen[0].updates.layout is not None
    with pytest.raises(LawError, match=r"^mine breaks the law generator "):
        check_rule(with_root(global_random), seeds=[0])


def darker(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return images / 2, labels


def brighter(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return images * 2, labels


def darker_in_place(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return images.div_(2), labels


def wrong_labels(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return images, labels + 1


def without_nan(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return images / images.amax(), labels  # 0 / 0 where an image is black


def half_of_them(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return images[: len(images) // 2], labels[: len(images) // 2]


def unseeded(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return torch.rand_like(images), labels


def negated(trained: State, reference: State, generator: Generator) -> State:
    return State(trained.parameters.neg_(), trained.buffers)


def emptied(trained: State, reference: State, generator: Generator) -> State:
    return State(trained.parameters * torch.inf, trained.buffers)


@pytest.mark.parametrize(
    ("mine", "law"),
    [
        (Contamination("mine"), "effect"),
        (Contamination("mine", data=brighter), "data"),
        (Contamination("mine", data=wrong_labels), "data"),
        (Contamination("mine", data=half_of_them), "data"),
        (Contamination("mine", data=darker_in_place), "float_images"),
        (Contamination("mine", data=unseeded), "generator"),
        (Contamination("mine", update=negated), "generator|update"),
        (Contamination("mine", update=emptied), "finite"),
        (Contamination("mine", darker, backdoor=Backdoor(lambda one: one, 0)), "trigger"),
        (Contamination("mine", darker, backdoor=Backdoor(lambda one: one + 1, 0)), "backdoor"),
        (Contamination("mine", darker, backdoor=Backdoor(lambda one: one / 2, 0)), "trigger_twice"),
    ],
)
def test_a_contamination_with_a_mistake_breaks_a_law(mine: Contamination, law: str) -> None:
    with pytest.raises(LawError, match=rf"^mine breaks the law ({law}) \(seed \d\): "):
        check_contamination(mine, seeds=range(3))


def test_an_empty_batch_is_tried() -> None:
    with pytest.raises((LawError, RuntimeError, IndexError)):
        check_contamination(Contamination("mine", data=without_nan), seeds=[0])


def test_a_right_contamination_passes() -> None:
    seeds: list[int] = []

    def seen(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        seeds.append(generator.initial_seed())
        return darker(images, labels, generator)

    check_contamination(Contamination("mine", data=seen))
    assert len(set(seeds)) == len(SEEDS)
    check_contamination(backdoor_patch(num_classes=5))


@pytest.mark.parametrize(
    ("purify", "law"),
    [
        (lambda images, generator: images * 2, "images"),
        (lambda images, generator: images.double(), "images"),
        (lambda images, generator: images.mul_(0.5), "images"),
        (lambda images, generator: images[:1], "images|no_images"),
        (lambda images, generator: torch.rand_like(images), "generator"),
        (lambda images, generator: images / (1 + len(images)), "batches"),
    ],
)
def test_a_purifier_with_a_mistake_breaks_a_law(
    purify: Callable[[Tensor, Generator], Tensor], law: str
) -> None:
    with pytest.raises(LawError, match=rf"^mine breaks the law ({law}) \(seed \d\): "):
        check_purifier(Purifier("mine", purify), seeds=range(3))
    check_purifier(Purifier("mine", lambda images, generator: images / 2), seeds=[0])


SGD = sgd(epochs=1)


def nothing_learnt(task: Task) -> TrainResult:
    return SGD(replace(task, model=deepcopy(task.model)))


def darker_images(task: Task) -> TrainResult:
    task.data.train.images.div_(2, rounding_mode="floor")
    return SGD(task)


def frozen_afterwards(task: Task) -> TrainResult:
    found = SGD(task)
    next(task.model.parameters()).requires_grad_(False)
    return found


def own_random(task: Task) -> TrainResult:
    found = SGD(task)
    with torch.no_grad():
        next(task.model.parameters()).add_(torch.rand(1))
    return found


def keeps_a_model(task: Task) -> TrainResult:
    return replace(SGD(task), memory={"model": task.model})


def wrong_count(task: Task) -> TrainResult:
    return replace(SGD(task), num_examples=1)


def infinite(task: Task) -> TrainResult:
    found = SGD(task)
    with torch.no_grad():
        next(task.model.parameters()).mul_(torch.inf)
    return found


@pytest.mark.parametrize(
    ("mine", "law"),
    [
        (nothing_learnt, "learning"),
        (darker_images, "input"),
        (frozen_afterwards, "structure"),
        (own_random, "generator"),
        (keeps_a_model, "next_round"),
        (wrong_count, "report"),
        (infinite, "learning"),
    ],
)
def test_a_trainer_with_a_mistake_breaks_a_law(
    mine: Callable[[Task], TrainResult], law: str
) -> None:
    with pytest.raises(LawError, match=rf"^the trainer breaks the law {law} \(seed 0\): "):
        check_trainer(mine, seeds=[0])


def test_a_right_trainer_passes() -> None:
    check_trainer(SGD, seeds=[0])
    with pytest.raises(ValueError, match="is no law; known are report, learning"):
        check_trainer(SGD, without=["magic"])


def test_no_test_library_is_imported() -> None:
    code = "import sys, fedrobust.testing; assert not {'pytest', 'hypothesis'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
