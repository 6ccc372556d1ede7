"""Settings that secure aggregation allows: every strategy that looks at single updates is
refused, and so is every other reader."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import Generator, nn

from fedrobust import configs
from fedrobust.aggregation.round import SUM_WEIGHTS, Round, ServerData, Strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from fedrobust.experiment import build, compose, factories
from fedrobust.state import State
from fedrobust.utils.cli import explain
from tests.helpers import federations

STRATEGIES = sorted(
    path.stem for path in (Path(configs.__file__).parent / "strategy").glob("*.yaml")
)
# a constant, as composing all of them takes seconds in every process
WITH_SUMS = ("fedavg", "fedloge")
SECURE = ("strategy=fedavg", "privacy=secure_aggregation")
# enough for any rule
ROOMY = ("num_clients=20", "poisoned=0", "server.root_per_class=1", "partition=iid")


@functools.cache
def rule(name: str) -> Strategy:
    built: Strategy = factories.build_group(compose.compose(f"strategy={name}"), "strategy")
    return built


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as error:
        build.build_experiment(federations.compose_settings(*words))
    line, code = explain(error.value)
    assert code == 2
    assert line is not None
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_says_whether_it_works_on_sums_and_all_others_are_refused(name: str) -> None:
    words = ("privacy=secure_aggregation", f"strategy={name}", *ROOMY)
    if name == "fedloge":  # it needs class vectors
        words += ("model.head=linear", "client.loss=cross_entropy")
    if rule(name).sums is not None:
        assert build.build_experiment(federations.compose_settings(*words)).privacy.secure
        return
    line = refused(*words)
    assert (
        f"strategy={name}: looks at single updates, and the server learns no more than their sum"
        in line
    )
    assert "use strategy=fedavg" in line


def test_there_are_both_kinds() -> None:
    assert tuple(name for name in STRATEGIES if rule(name).sums) == WITH_SUMS
    assert len(STRATEGIES) >= 21


@pytest.mark.parametrize(
    ("name", "weighting"), [*(("fedavg", one) for one in SUM_WEIGHTS), ("fedloge", "examples")]
)
def test_a_rule_that_works_on_sums_gives_the_same_from_their_mean_alone(
    name: str, weighting: str
) -> None:
    """Promise of the attribute, without which secure aggregation would change the method."""
    words = [f"strategy.weighting={weighting}"] if name == "fedavg" else []
    strategy: Strategy = factories.build_group(
        compose.compose(f"strategy={name}", *words), "strategy"
    )
    assert strategy.sums == weighting
    g = Generator().manual_seed(0)
    rows_ND, counts_N = (
        torch.randn(6, 9, generator=g),
        torch.tensor([1.0, 5, 2, 9, 30, 7], dtype=torch.float64),
    )
    weights_N = counts_N if weighting == "examples" else torch.ones_like(counts_N)
    mean_1D = (weights_N / weights_N.sum() @ rows_ND.double()).float()[None]
    reference = State(torch.randn(9, generator=g), torch.zeros(0))
    many, one = (
        strategy.rule(
            Round(1, reference, Updates.of(matrix, counts), ServerData(nn.Identity()), g)
        ).state.parameters
        for matrix, counts in ((rows_ND, counts_N), (mean_1D, counts_N.sum()[None]))
    )
    assert torch.allclose(many, one, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["none", "fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_server_optimizers_see_the_mean_only(optimizer: str) -> None:
    experiment = federations.build_experiment(
        *SECURE, f"server_optimizer={optimizer}", "poisoned=0"
    )
    assert experiment.strategy.sums == "examples"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("preaggregation=nnm",), "preaggregation=nnm: compares single updates, and"),
        (("preaggregation=bucketing",), "preaggregation=bucketing: compares single updates, and"),
        (
            ("server.batchnorm=mean",),
            (
                "server.batchnorm=mean: averages the hospitals' BatchNorm statistics, "
                "which would each be seen"
            ),
        ),
        (
            ("evasion=fgsm",),
            "evaluation.evasion_evaluation.adversarial_clients=true: attacks the hospitals' models",
        ),
        (
            ("evasion=fgsm", "evaluation.evasion_evaluation.fusion=true"),
            "evaluation.evasion_evaluation.fusion=true: fuses the hospitals' models, and",
        ),
        (
            ("contamination=alie",),
            "contamination=alie: its attackers write their updates on the server, and",
        ),
        (
            ("contamination=min_max",),
            "contamination=min_max: its attackers write their updates on the server, and",
        ),
        (("num_clients=1", "poisoned=0"), "num_clients=1: 1 hospital a round"),
        (("clients_per_round=1",), "clients_per_round=1: 1 hospital a round"),
        (("num_clients=2000", "poisoned=0"), "num_clients=2000: 2000 hospitals a round"),
        (
            ("num_clients=4", "privacy.threshold=2"),
            "privacy.threshold=2: of 4 hospitals a round it must be more than half",
        ),
        (("privacy.threshold=4",), "privacy.threshold=4: of 3 hospitals a round"),
        (("privacy.threshold=1",), "privacy.threshold=1: must be at least 2"),
        (("privacy.threshold=2.5",), "privacy.threshold=2.5: must be a whole number"),
        (("privacy.clip=0",), "privacy.clip=0: must be greater than 0"),
        (
            ("server.max_examples=1000000000",),
            (
                "server.max_examples=1000000000: weights in a sum of whole numbers are "
                "at most 536870912"
            ),
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    words: tuple[str, ...], line: str
) -> None:
    assert line in refused(*SECURE, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("contamination=scaling",),
        ("contamination=backdoor_neurotoxin",),
        ("contamination=alie", "poisoned=0"),
        ("evasion=fgsm", "evaluation.evasion_evaluation.adversarial_clients=false"),
        ("server.batchnorm=local",),
        ("sanitiser=sphere", "rounds=4"),
        (
            "client=global_distillation",
        ),  # each hospital by itself: it learns from the model that all receive
        ("num_clients=4", "privacy.threshold=3"),
        ("num_clients=9", "clients_per_round=3"),
    ],
)
def test_what_needs_no_single_updates_is_allowed(words: tuple[str, ...]) -> None:
    assert build.build_experiment(federations.compose_settings(*SECURE, *words)).privacy.secure


@pytest.mark.parametrize(("asked", "least"), [(2, 2), (3, 2), (4, 3), (10, 6), (11, 6)])
def test_by_default_it_takes_more_than_half(asked: int, least: int) -> None:
    experiment = federations.build_experiment(*SECURE, f"num_clients={asked}", "poisoned=0")
    assert experiment.privacy.least(asked) == least
    assert 2 * least > asked
