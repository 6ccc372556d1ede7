"""Laws of all attacks by clients that work together; a new yaml with a collusion is tested by its
mere existence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fedrobust.strategies.fedavg import fedavg
from fedrobust.strategies.trimmed_mean import trimmed_mean
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from fedrobust import configs
from fedrobust.aggregation.updates import Updates
from fedrobust.contamination.apply import chain
from fedrobust.contamination.base import Contamination
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.contamination.updates.alie import alie
from fedrobust.contamination.updates.ipm import ipm
from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment import factories
from fedrobust.runtime.server.collusion import apply_collusion
from tests.helpers.attacks import attack_matrix, normal, round_of

FOLDER = Path(configs.__file__).parent / "contamination"
# Variants of one yaml that are attacks of their own.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "fang": [{"rule": "krum"}, {"rule": "trimmed_mean"}],
    "alie": [{}, {"noise": 0.5}],
    "min_max": [*({"perturbation": one} for one in ("std", "sign", "unit")), {"noise": 0.5}],
    "min_sum": [*({"perturbation": one} for one in ("std", "sign", "unit")), {"noise": 0.5}],
}
POISONED = (1, 4, 6)
KEEPS_ROWS = {"optimal_alie", "optimal_ipm", "poisonedfl"}
laws = settings(max_examples=10)


def build(name: str, **overrides: Any) -> Contamination:
    shown = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert isinstance(shown, dict)
    built = factories.build_group(
        {"contamination": {**shown, **overrides}}, "contamination", num_classes=5
    )
    assert isinstance(built, Contamination)
    return built


NAMES = [
    name
    for name in sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if build(name).collude is not None
]
ALL = [(name, variant) for name in NAMES for variant in VARIANTS.get(name, [{}])]
WITH_CHOICE = [
    (name, variant)
    for name, variant in ALL
    if "knowledge" in OmegaConf.load(FOLDER / f"{name}.yaml")
]
every = pytest.mark.parametrize(("name", "variant"), ALL)
rule = trimmed_mean(f=3).rule


def test_these_are_tested() -> None:
    assert {
        "ipm",
        "optimal_ipm",
        "alie",
        "optimal_alie",
        "min_max",
        "min_sum",
        "fang",
        "mimic",
    } <= set(NAMES)


@every
@laws
@given(seed=st.integers(0, 2**31))
def test_only_the_poisoned_rows_change_and_equal_seeds_give_equal_rows(
    name: str, variant: dict[str, Any], seed: int
) -> None:
    matrix, built = normal(seed, 9, 33), build(name, **variant)
    one, two = (attack_matrix(built, matrix, POISONED, rule=rule, seed=seed) for _ in range(2))
    assert torch.equal(one, two)
    honest = [n for n in range(9) if n not in POISONED]
    assert torch.equal(one[honest], matrix[honest])
    assert one.isfinite().all()
    assert (one[list(POISONED)] != matrix[list(POISONED)]).any(dim=1).all()


@pytest.mark.parametrize(("name", "variant"), WITH_CHOICE)
@laws
@given(seed=st.integers(0, 2**31))
def test_own_knowledge_never_reads_an_honest_row(
    name: str, variant: dict[str, Any], seed: int
) -> None:
    matrix = normal(seed, 9, 33)
    blind = torch.full_like(matrix, torch.nan)
    blind[list(POISONED)] = matrix[list(POISONED)]
    built = build(name, **variant, knowledge="own")
    seen, unseen = (
        attack_matrix(built, one, POISONED, seed=seed)[list(POISONED)] for one in (matrix, blind)
    )
    assert unseen.isfinite().all()
    assert torch.equal(seen, unseen)


@every
def test_omniscience_does_not_look_at_its_own_rows(name: str, variant: dict[str, Any]) -> None:
    matrix = normal(3, 9, 33)
    blind = matrix.clone()
    blind[list(POISONED)] = torch.nan
    built = build(name, **variant)
    seen, unseen = (attack_matrix(built, one, POISONED, rule=rule) for one in (matrix, blind))
    assert torch.equal(seen, unseen)


@every
def test_the_order_of_the_honest_does_not_matter(name: str, variant: dict[str, Any]) -> None:
    matrix, built = normal(4, 9, 33), build(name, **variant)
    order = [8, 1, 0, 2, 4, 7, 6, 5, 3]  # the poisoned ones stay where they are
    one, two = (
        attack_matrix(built, some, POISONED, rule=rule)[list(POISONED)]
        for some in (matrix, matrix[order])
    )
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@every
def test_wide_matrices_are_worked_on_in_strips(
    name: str, variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, built = normal(5, 9, 33), build(name, **variant)
    whole = attack_matrix(built, matrix, POISONED, rule=rule)
    blocks = Updates.blocks
    monkeypatch.setattr(
        Updates, "blocks", lambda self, _width=None, rows=None: blocks(self, 5, rows)
    )
    torch.testing.assert_close(
        attack_matrix(built, matrix, POISONED, rule=rule), whole, rtol=1e-4, atol=1e-5
    )


@every
@pytest.mark.parametrize("poisoned", [(0,), tuple(range(9))])
def test_one_attacker_and_nobody_else_are_enough(
    name: str, variant: dict[str, Any], poisoned: tuple[int, ...]
) -> None:
    assert (
        attack_matrix(build(name, **variant), normal(6, 9, 33), poisoned, rule=rule)
        .isfinite()
        .all()
    )


@every
def test_where_none_of_them_replied_nothing_happens(name: str, variant: dict[str, Any]) -> None:
    updates, collusion = Updates.of(normal(7, 4, 9)), build(name, **variant).collude
    before, memory = updates.matrix_ND.clone(), {"target": 2}
    assert collusion is not None
    assert (
        apply_collusion(
            collusion,
            {17},
            round_of(updates),
            rule=rule,
            generator=torch.Generator(),
            memory=memory,
        )
        == memory
    )
    assert torch.equal(updates.matrix_ND, before)


@pytest.mark.parametrize("name", WITH_CHOICE)
def test_an_unknown_knowledge_is_refused(name: tuple[str, dict[str, Any]]) -> None:
    with pytest.raises(
        ConfigError, match=r"contamination\.knowledge=all: must be one of omniscient, own"
    ):
        build(name[0], knowledge="all")


def test_too_strong_an_attack_ends_the_round_in_one_line() -> None:
    with pytest.raises(
        RunError, match="round 1: the attackers' updates are not finite; lower the strength"
    ):
        attack_matrix(ipm(factor=1e30), 1e30 * normal(8, 4, 9), (0,))


def test_a_collusion_is_joined_with_poisoned_data_but_not_with_another() -> None:
    joined = chain("both", label_flip(num_classes=3), alie())
    assert joined.collude is not None
    assert joined.data(torch.zeros(1), torch.tensor([2]), torch.Generator())[1].tolist() == [0]
    with pytest.raises(
        ValueError, match="both: only one of the joined contaminations may have a collusion, not 2"
    ):
        chain("both", alie(), ipm())


class Largest(TorchDispatchMode):
    """Remembers the largest tensor, in bytes, that any operation of torch made, views of the given
    ones apart."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.bytes, self.given = 0, {one.untyped_storage().data_ptr() for one in given}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in self.given:
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return made


@every
def test_no_attack_makes_anything_as_long_as_a_row(name: str, variant: dict[str, Any]) -> None:
    """But for the tuned ones, which keep two rows of statistics, and the rule that they apply, and
    PoisonedFL, which remembers models. Strips have 4 MB, 8 MB in float64."""
    matrix = normal(9, 4, 3_000_000)
    settings = {"evaluations": 2} if name.startswith("optimal") else variant
    collusion, round = build(name, **settings).collude, round_of(Updates.of(matrix))
    assert collusion is not None
    with Largest(matrix, round.reference.parameters) as largest:
        apply_collusion(
            collusion, {2}, round, rule=fedavg().rule, generator=torch.Generator(), memory={}
        )
    assert largest.bytes <= (24_000_000 if name in KEEPS_ROWS else 9_000_000)
    assert matrix.isfinite().all()
