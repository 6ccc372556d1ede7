"""Rules that use what the server owns, FLTrust's root set and FedDF's proxy images: by hand, and
what they promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fedrobust.clients.sgd import sgd
from fedrobust.strategies.fedavg import fedavg
from fedrobust.strategies.feddf import feddf
from fedrobust.strategies.fltrust import fltrust, repeat_samples, root_update
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from fedrobust.aggregation.norms import inner_products
from fedrobust.aggregation.round import Aggregate, Round, ServerData, Strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from fedrobust.learning.inference import predict_scores
from fedrobust.state import Layout, State, load
from fedrobust.types import Samples, Task, TrainResult
from tests.helpers import clusters
from tests.helpers.rounds import SMALL, matrix_round, normal

laws = settings(max_examples=25)
seeds = st.integers(0, 2**32)


# FLTrust


def with_root(
    matrix_ND: Tensor, root_D: Tensor, counts: list[int] | None = None
) -> tuple[Round, list[Task]]:
    """A round whose server's training moves the model by root_D, and the tasks that its trainer was
    given."""
    model, tasks = nn.Linear(matrix_ND.shape[1], 1, bias=False), []

    def trainer(task: Task) -> TrainResult:
        tasks.append(task)
        with torch.no_grad():
            task.model.weight += root_D
        return TrainResult(len(task.data.train), {})

    root = Samples(torch.arange(4 * 12).reshape(4, 3, 2, 2).to(torch.uint8), torch.arange(4))
    case = replace(
        matrix_round(matrix_ND, normal(99, matrix_ND.shape[1])),
        server_data=ServerData(model, root=root, trainer=trainer),
    )
    examples = torch.ones(len(matrix_ND)) if counts is None else torch.tensor(counts)
    return replace(
        case,
        updates=replace(case.updates, layout=Layout.of(model), num_examples_N=examples.double()),
    ), tasks


def trusted(matrix_ND: Tensor, root_D: Tensor) -> tuple[Tensor, Aggregate]:
    """The update and the result."""
    case, _ = with_root(matrix_ND, root_D)
    result = fltrust().rule(case)
    return result.state.parameters - case.reference.parameters, result


def test_fltrust_by_hand() -> None:
    # g0 = (3, 4) of length 5. Cosines: (0, 3): 4/5; (1, 1): 7/(5 1.414214) = .989949; (-5, 0): -.6
    # -> 0 brought to length 5: (0, 5), (3.535534, 3.535534); sum of the scores 1.789949 (.989949
    # 3.535534)/1.789949 = 3.5/1.789949; (4 + 3.5)/1.789949
    update, result = trusted(torch.tensor([[0.0, 3], [1, 1], [-5, 0]]), torch.tensor([3.0, 4]))
    torch.testing.assert_close(update, torch.tensor([1.955363, 4.190063]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.tensor(result.extras["trust"]), torch.tensor([0.8, 0.989949, 0]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        result.weights_N, torch.tensor([0.446940, 0.553060, 0]).double(), atol=1e-6, rtol=0
    )
    assert result.extras["root_norm"] == pytest.approx(5, abs=1e-5)


@laws
@given(seeds, st.floats(1e-3, 1e6))
def test_fltrust_ignores_lengths_and_never_leaves_the_root_update_s(
    seed: int, scale: float
) -> None:
    matrix, root = normal(seed, 6, 5), normal(seed + 1, 5)
    update, result = trusted(matrix, root)
    assert update.norm() <= root.norm() * (1 + 1e-4)
    assert (update @ root >= -1e-4).all()
    assert ((result.weights_N > 0) == (matrix @ root > 0)).all()
    boasting = matrix.clone()
    boasting[0] *= scale
    torch.testing.assert_close(trusted(boasting, root)[0], update, rtol=1e-3, atol=1e-4)
    order = torch.randperm(6, generator=Generator().manual_seed(seed))
    shuffled, other = trusted(matrix[order], root)
    torch.testing.assert_close(shuffled, update, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.weights_N, result.weights_N[order])


def test_fltrust_returns_what_all_agree_on_and_stays_where_nobody_is_trusted() -> None:
    root = torch.tensor([3.0, 4])
    torch.testing.assert_close(trusted((2 * root).expand(3, 2), root)[0], root)
    for matrix in (-root.expand(3, 2), torch.zeros(3, 2)):
        update, result = trusted(matrix, root)
        assert update.abs().max() == 0
        assert result.weights_N.tolist() == [0, 0, 0]
    assert trusted(SMALL, torch.zeros(2))[1].weights_N.tolist() == [0, 0, 0]


def test_fltrust_survives_huge_updates() -> None:
    update, _ = trusted(torch.tensor([[3e38, 3e38], [1.0, 1], [-3e38, 1]]), torch.tensor([1.0, 0]))
    torch.testing.assert_close(update, torch.tensor([0.5**0.5, 0.5**0.5]))


def test_the_server_trains_as_a_client_with_the_median_s_number_of_images() -> None:
    case, tasks = with_root(SMALL, torch.ones(2), [2, 7, 5_000_000])
    before = case.reference.parameters.clone()
    torch.testing.assert_close(root_update(case), torch.ones(2))
    [task] = tasks
    assert task.data.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert torch.equal(task.data.train.images[4], task.data.train.images[0])
    assert (len(task.data.validation), len(task.data.test), task.round) == (0, 0, 1)
    assert task.generator is case.generator
    assert torch.equal(case.reference.parameters, before)
    case, tasks = with_root(SMALL, torch.ones(2), [1, 2, 3])  # never less than the whole root set
    root_update(case)
    assert len(tasks[0].data.train) == 4
    assert len(repeat_samples(tasks[0].data.train, 9)) == 9


def test_fltrust_trains_its_root_update_with_the_clients_own_trainer() -> None:
    """A hospital with shifted labels loses most of its influence to the others, whose update is
    like the server's own."""
    case = clusters.one_round(attackers=2)
    trainer = sgd(
        loss="cross_entropy", augment=False, epochs=3, optimizer={"name": "Adam", "lr": 3e-3}
    )
    case = replace(case, server_data=replace(case.server_data, trainer=trainer))
    result = fltrust().rule(replace(case, generator=Generator().manual_seed(1)))
    assert result.weights_N[:2].max() < 0.5 * result.weights_N[2:].min()
    again = fltrust().rule(replace(case, generator=Generator().manual_seed(1)))
    assert torch.equal(result.state.parameters, again.state.parameters)


def test_fltrust_in_a_federation_of_ten_with_three_attackers() -> None:
    trainer = sgd(
        loss="cross_entropy",
        augment=False,
        epochs=3,
        batch_size=16,
        optimizer={"name": "Adam", "lr": 3e-3},
    )

    def rule(round: Round) -> Aggregate:
        return fltrust().rule(
            replace(round, server_data=replace(round.server_data, trainer=trainer))
        )

    accuracy, results = clusters.federate(Strategy("fltrust", rule), 6)
    assert accuracy > 0.97  # plain averaging: .915
    assert max(float(result.weights_N[:3].sum()) for result in results[1:]) < 0.1


def test_fltrust_says_what_it_needs() -> None:
    case, _ = with_root(SMALL, torch.ones(2))
    assert fltrust().uses == {"root"}
    with pytest.raises(ConfigError, match=r"^server\.root_per_class=0: strategy=fltrust"):
        fltrust().rule(replace(case, server_data=ServerData(case.server_data.model)))
    with pytest.raises(ValueError, match="trainer"):
        fltrust().rule(replace(case, server_data=replace(case.server_data, trainer=None)))


@laws
@given(seeds)
def test_products_are_inner_products(seed: int) -> None:
    matrix, vector = normal(seed, 4, 9), normal(seed + 1, 9)
    torch.testing.assert_close(
        inner_products(Updates.of(matrix), vector), matrix.double() @ vector.double()
    )


# FedDF


@pytest.fixture(scope="module")
def case() -> Round:
    """Two of five hospitals have shifted labels, and all go twice as far as they learnt: the mean
    and the ensemble differ."""
    found = clusters.one_round(attackers=2)
    return replace(found, updates=replace(found.updates, matrix_ND=2 * found.updates.matrix_ND))


def divergence(case: Round, state: State, weights: Tensor) -> float:
    """Mean KL from the clients' ensemble to a state's model on the proxy images."""
    data, reference = case.server_data, case.reference
    assert data.proxy is not None
    scores = []
    for n in range(len(case.updates)):
        load(
            data.model,
            Layout.of(data.model),
            State(reference.parameters + case.updates.row(n), case.updates.buffers_NB[n]),
        )
        scores.append(predict_scores(data.model, data.proxy.images))
    teacher = (data.model.scale * torch.einsum("n,npk->pk", weights, torch.stack(scores))).softmax(
        dim=1
    )
    load(data.model, Layout.of(data.model), state)
    student = (data.model.scale * predict_scores(data.model, data.proxy.images)).log_softmax(dim=1)
    return float((teacher * (teacher.log() - student)).sum(dim=1).mean())


def test_feddf_starts_from_the_mean_and_comes_nearer_to_the_ensemble(case: Round) -> None:
    start = fedavg().rule(case)
    result = feddf(learning_rate=1e-3, epochs=5).rule(
        replace(case, generator=Generator().manual_seed(1))
    )
    voices = torch.full((5,), 0.2)
    assert torch.equal(result.weights_N, start.weights_N)
    assert divergence(case, result.state, voices) < 0.3 * divergence(case, start.state, voices)
    assert result.extras["distillation_loss"] > 0
    hardly = feddf(learning_rate=1e-12, epochs=1).rule(case)
    torch.testing.assert_close(hardly.state.parameters, start.state.parameters)
    # the loss is the mean over the steps of the very first epoch: the mean's own divergence
    assert hardly.extras["distillation_loss"] == pytest.approx(
        divergence(case, start.state, voices), rel=1e-3
    )


def test_feddf_does_not_look_at_the_proxy_s_labels(case: Round) -> None:
    assert case.server_data.proxy is not None
    unlabelled = Samples(
        case.server_data.proxy.images, torch.zeros_like(case.server_data.proxy.labels)
    )
    one, other = (
        feddf().rule(
            replace(
                case,
                server_data=replace(case.server_data, proxy=proxy),
                generator=Generator().manual_seed(1),
            )
        )
        for proxy in (case.server_data.proxy, unlabelled)
    )
    assert torch.equal(one.state.parameters, other.state.parameters)


def test_feddf_leaves_out_whose_scores_are_no_numbers(case: Round) -> None:
    matrix = case.updates.matrix_ND.clone()
    matrix[0] = 1e38
    result = feddf().rule(replace(case, updates=replace(case.updates, matrix_ND=matrix)))
    assert result.weights_N[0] == 0
    assert result.state.parameters.isfinite().all()


def test_feddf_says_what_it_needs(case: Round) -> None:
    assert feddf().uses == {"proxy"}
    with pytest.raises(ConfigError, match=r"^server\.proxy_images=0: strategy=feddf"):
        feddf().rule(replace(case, server_data=ServerData(case.server_data.model)))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: feddf(temperature=0), "strategy.temperature=0"),
        (lambda: feddf(epochs=0), "strategy.epochs=0"),
    ],
)
def test_wrong_settings_are_named(make: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()
