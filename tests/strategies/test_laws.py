"""Laws that every rule without server data must keep; a new yaml in configs/strategy is tested by
being there."""

from __future__ import annotations

from pathlib import Path

import hydra.utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Generator, Tensor, nn

from fedrobust import configs
from fedrobust.aggregation.round import Aggregate, Round, ServerData, Strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.state import State

FILES = sorted((Path(configs.__file__).parent / "strategy").glob("*.yaml"))
BUILT: dict[str, Strategy] = {
    path.stem: hydra.utils.instantiate(OmegaConf.load(path)) for path in FILES
}
PLAIN = [name for name, strategy in BUILT.items() if not strategy.uses]
ANCHORED = {
    "norm_clipping",
    "centered_clipping",
    "flame",
    "foolsgold",
    "rlr",
    "signguard",
}  # they measure from the reference, which a shift does not move

seeds = st.integers(0, 2**32)
laws = settings(max_examples=10)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def crowd(seed: int, strategy: Strategy, more: int = 2) -> tuple[Tensor, Tensor]:
    n = strategy.min_clients + more
    return normal(seed, n, 7), 1 + (normal(seed + 1, n).abs() * 100).floor()


def apply(
    strategy: Strategy, matrix_ND: Tensor, counts_N: Tensor, reference_D: Tensor | None = None
) -> Aggregate:
    reference = State(
        torch.zeros(matrix_ND.shape[1]) if reference_D is None else reference_D, torch.zeros(0)
    )
    updates = Updates.of(matrix_ND, counts_N)
    return strategy.rule(
        Round(1, reference, updates, ServerData(nn.Identity()), Generator().manual_seed(0))
    )


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BUILT)
def test_the_yaml_names_its_strategy(name: str) -> None:
    assert BUILT[name].name == name
    assert BUILT[name].uses <= {"root", "proxy"}


@pytest.mark.parametrize("name", PLAIN)
@laws
@given(seeds)
def test_the_order_of_clients_does_not_matter(name: str, seed: int) -> None:
    matrix, counts = crowd(seed, BUILT[name])
    order = torch.randperm(len(matrix), generator=Generator().manual_seed(seed))
    one, other = (
        apply(BUILT[name], matrix, counts),
        apply(BUILT[name], matrix[order], counts[order]),
    )
    close(one.state.parameters, other.state.parameters)
    close(one.weights_N[order], other.weights_N)


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ANCHORED])
@laws
@given(seeds)
def test_a_shift_of_all_updates_shifts_the_result(name: str, seed: int) -> None:
    matrix, counts = crowd(seed, BUILT[name])
    shift = normal(seed + 2, 7)
    one, other = apply(BUILT[name], matrix, counts), apply(BUILT[name], matrix + shift, counts)
    close(one.state.parameters + shift, other.state.parameters)


@pytest.mark.parametrize("name", PLAIN)
@laws
@given(seeds)
def test_equal_updates_give_that_update(name: str, seed: int) -> None:
    matrix, counts = crowd(seed, BUILT[name])
    close(apply(BUILT[name], matrix[:1].expand(len(matrix), 7), counts).state.parameters, matrix[0])


@pytest.mark.parametrize("name", [name for name in PLAIN if BUILT[name].min_clients == 1])
def test_a_single_client_decides_alone(name: str) -> None:
    result = apply(BUILT[name], normal(0, 1, 7), torch.tensor([3.0]), normal(1, 7))
    close(result.state.parameters, normal(1, 7) + normal(0, 1, 7)[0])
    assert result.weights_N.tolist() == [1]


@pytest.mark.parametrize("name", PLAIN)
@laws
@given(seeds, st.integers(0, 4))
def test_weights_are_shares_and_no_input_is_changed(name: str, seed: int, more: int) -> None:
    matrix, counts = crowd(seed, BUILT[name], more)
    reference = normal(seed + 3, 7)
    before = [x.clone() for x in (matrix, counts, reference)]
    result = apply(BUILT[name], matrix, counts, reference)
    assert result.weights_N.shape == counts.shape
    assert (result.weights_N >= 0).all()
    torch.testing.assert_close(result.weights_N.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(before, (matrix, counts, reference), strict=True))


@pytest.mark.parametrize("name", PLAIN)
def test_as_few_clients_as_allowed_are_enough(name: str) -> None:
    matrix, counts = crowd(5, BUILT[name], more=0)
    assert apply(BUILT[name], matrix, counts).state.parameters.isfinite().all()


@pytest.mark.parametrize("name", PLAIN)
def test_wide_matrices_are_worked_on_in_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, counts = crowd(6, BUILT[name])
    whole = apply(BUILT[name], matrix, counts)
    blocks = Updates.blocks
    monkeypatch.setattr(
        Updates, "blocks", lambda self, _width=None, rows=None: blocks(self, 3, rows)
    )
    cut = apply(BUILT[name], matrix, counts)
    close(whole.state.parameters, cut.state.parameters)
    close(whole.weights_N, cut.weights_N)
