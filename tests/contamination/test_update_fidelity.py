"""Effect of the attacks on updates on plain averaging in a small federation: harm where they are
strong, nothing where they are not."""

from __future__ import annotations

import pytest
from fedrobust.strategies.fedavg import fedavg

from fedrobust.contamination.base import Contamination
from fedrobust.contamination.updates.adaptive_etf import adaptive_etf
from fedrobust.contamination.updates.alie import alie, optimal_alie
from fedrobust.contamination.updates.fang import fang
from fedrobust.contamination.updates.independent import (
    free_rider,
    gaussian_update,
    scaling,
    sign_flip,
)
from fedrobust.contamination.updates.ipm import ipm, optimal_ipm
from fedrobust.contamination.updates.mimic import mimic
from fedrobust.contamination.updates.min_max import min_max
from fedrobust.contamination.updates.min_sum import min_sum
from fedrobust.state import Layout, read
from tests.helpers import clusters
from tests.helpers.attacked_federations import ATTACKERS, client, federate

FOUR = (0, 1, 2, 3)
# Attackers among ten clients, and by how much the accuracy of plain averaging falls after two
# rounds (from .9675).
BROKEN: dict[str, tuple[Contamination, tuple[int, ...], float]] = {
    "sign_flip": (sign_flip(scale=5.0), ATTACKERS, 0.6),
    "gaussian_update": (gaussian_update(std=50.0), ATTACKERS, 0.6),
    "scaling": (scaling(factor=50.0), ATTACKERS, 0.4),
    "ipm": (ipm(factor=5.0), ATTACKERS, 0.6),
    "alie": (alie(z=40.0), ATTACKERS, 0.3),
    "optimal_ipm": (optimal_ipm(), ATTACKERS, 0.6),
    "optimal_alie": (optimal_alie(), ATTACKERS, 0.6),
    # it is made to hide from robust rules, not to hurt the mean
    "min_max": (min_max(perturbation="unit"), FOUR, 0.07),
    "min_sum": (min_sum(perturbation="unit"), FOUR, 0.05),
    "fang_krum": (fang(rule="krum"), FOUR, 0.25),
    "fang_trimmed_mean": (fang(), ATTACKERS, 0.4),
    "free_rider": (free_rider(), (0, 1, 2, 3, 4, 5), 0.05),
}


CLEAN = federate(ipm(), (), rounds=2).accuracy


def test_the_clean_federation_learns() -> None:
    assert CLEAN > 0.95


@pytest.mark.parametrize("name", BROKEN)
def test_every_attack_breaks_the_mean(name: str) -> None:
    damage, attackers, margin = BROKEN[name]
    assert federate(damage, attackers, rounds=2).accuracy < CLEAN - margin


HARMLESS = {
    "sign_flip": sign_flip(scale=1e-6),
    "gaussian_update": gaussian_update(std=0.0),
    "scaling": scaling(factor=1.0),
    "ipm": ipm(factor=0.0),
    "alie": alie(z=0.0),
    "min_max": min_max(gamma=0.0),
    "min_sum": min_sum(gamma=0.0),
    "free_rider": free_rider(),
    "adaptive_etf": adaptive_etf(factor=0.0, num_classes=clusters.CLASSES),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_without_strength_the_mean_stays_whole(name: str) -> None:
    assert federate(HARMLESS[name], rounds=2).accuracy > CLEAN - 0.07


def test_free_riders_slow_the_mean_by_their_share() -> None:
    # one round, uniform weights: seven of ten updates are what they were, three are nothing
    lazy, all_work = (
        federate(free_rider(), who, fedavg(weighting="uniform"), 1) for who in (ATTACKERS, ())
    )
    model = clusters.make_model()
    start = read(model, Layout.of(model)).parameters
    short, full = (one.rounds[0].state.parameters - start for one in (lazy, all_work))
    assert float(short.norm() / full.norm()) == pytest.approx(0.7, abs=0.08)


def test_mimics_pull_the_mean_towards_the_one_they_copy() -> None:
    result = federate(mimic(target=7), rounds=1)
    plain = federate(mimic(target=7), (), rounds=1)
    model = clusters.make_model()
    layout = Layout.of(model)
    alone = client(
        None, read(model, layout), clusters.make_samples(17, 40), clusters.make_samples(17, 40)
    ).parameters
    near, far = (float((one.rounds[0].state.parameters - alone).norm()) for one in (result, plain))
    assert near < 0.8 * far  # four of ten votes instead of one
