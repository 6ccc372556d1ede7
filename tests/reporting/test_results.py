"""From probabilities to the report, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.contamination.base import Backdoor, Contamination
from fedrobust.data import TRAIN
from fedrobust.evaluation.counts import RoundedCounts, Withheld
from fedrobust.evaluation.drops import METRICS
from fedrobust.evaluation.metrics import NAMES
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.report import Report, parse_report, report_text
from fedrobust.reporting.report.metrics import ConditionMetrics
from fedrobust.reporting.report.sections import (
    ClientResult,
    DetectionSection,
    DisclosureSection,
    PredictionResults,
)
from fedrobust.reporting.results import (
    RunPredictions,
    assemble_results,
    client_results,
    clients_drop,
    clients_interval,
    left_out_files,
)
from fedrobust.types import ClientRecord, RoundRecord
from fedrobust.utils.seeding import generator
from tests.helpers import federations

LESS = settings(max_examples=40)


def client(
    kind: str,
    clean: tuple[float | None, ...],
    contaminated: tuple[float | None, ...],
    number: int = 0,
) -> ClientResult:
    """A client's row with accuracy, F1 and precision."""
    sides = [
        ConditionMetrics(**dict.fromkeys(NAMES) | dict(zip(METRICS, side, strict=True)), n=9)
        for side in (clean, contaminated)
    ]
    return ClientResult(
        id=number,
        kind=kind,
        num_examples=9,
        clean=sides[0],
        contaminated=sides[1],
        combined_drop=None,
        weight=0.0,
    )


def sure(labels: torch.Tensor) -> torch.Tensor:
    """Probabilities that say just these labels."""
    return torch.eye(7)[labels]


def records(*weights: dict[int, float]) -> list[RoundRecord]:
    rounds = [
        tuple(ClientRecord(one, 10, weight, {}) for one, weight in found.items())
        for found in weights
    ]
    return [
        RoundRecord(0, {}),
        *(RoundRecord(number, {}, clients) for number, clients in enumerate(rounds, 1)),
    ]


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return federations.build_experiment(
        "poisoned=[1]", "noisy=[2]", "evaluation.bootstrap_samples=50"
    )


GOLDEN = [
    client("clean", (80, 70, 60), (80, 70, 60), 0),
    client("noisy", (60, 50, 40), (40, 50, 50), 1),
    client("poisoned", (40, 30, 20), (10, 0, None), 2),
]


def test_the_clients_drop_by_hand(experiment: Experiment) -> None:
    # means clean: accuracy 60, F1 50, precision 40; contaminated: 130/3, 40, (60 + 50)/2 = 55
    # (where it is defined) drops: 100 (60 - 43.333)/60 = 27.778; 100 (50 - 40)/50 = 20; 100 (40 -
    # 55)/40 = -37.5; mean 3.426
    found = clients_drop(experiment, GOLDEN)
    assert dict(found.per_metric["accuracy"]) == pytest.approx(
        {"normal": 60, "attack": 130 / 3, "drop": 27.7778}, abs=1e-3
    )
    assert dict(found.per_metric["precision"]) == pytest.approx(
        {"normal": 40, "attack": 55, "drop": -37.5}
    )
    assert found.combined == pytest.approx((27.7778 + 20 - 37.5) / 3, abs=1e-3)
    # noisy: 100 (60-40)/60 = 33.333, 0, 100 (40-50)/40 = -25: mean 2.778; poisoned: 75, 100 and no
    # precision: mean 87.5
    assert {kind: one.combined for kind, one in found.by_kind.items()} == pytest.approx(
        {"clean": 0, "noisy": 2.7778, "poisoned": 87.5}, abs=1e-3
    )
    assert {kind: one.num_clients for kind, one in found.by_kind.items()} == {
        "clean": 1,
        "noisy": 1,
        "poisoned": 1,
    }
    assert found.skipped == ()


def test_severities_are_compared_with_the_clean_images_by_the_same_draws(
    experiment: Experiment,
) -> None:
    labels = experiment.dataset.labels[experiment.test_rows()]
    right, wrong = sure(labels), sure((labels + 1) % 7)
    test = dict.fromkeys(("clean", "corrupted", *experiment.severities), right)
    test["corrupted_s5"] = wrong
    found = assemble_results(experiment, RunPredictions(test, {}), records())
    assert found.severity_drops is not None
    assert list(found.severity_drops) == [f"corrupted_s{number}" for number in range(1, 6)]
    first, *_, last = found.severity_drops.values()
    assert (first.combined, first.ci95) == (0.0, (0.0, 0.0))
    assert (last.combined, last.ci95) == (100.0, (100.0, 100.0))
    assert found.details is not None
    assert set(found.details) == {"clean", "corrupted"}
    counts = torch.bincount(labels, minlength=7).tolist()
    assert found.details["clean"].confusion == tuple(
        tuple(counts[row] if row == column else 0 for column in range(7)) for row in range(7)
    )
    assert [(one.accuracy, one.n) for one in found.details["clean"].reliability] == [
        (100.0, len(labels))
    ]


def test_the_drop_of_the_medians_by_hand(experiment: Experiment) -> None:
    # medians clean: accuracy 60, F1 50, precision 40; contaminated: 40, 50, 55
    found = clients_drop(experiment, GOLDEN)
    assert found.median == pytest.approx((100 * 20 / 60 + 0 - 37.5) / 3)
    assert found.by_kind["noisy"].median == found.by_kind["noisy"].combined
    assert not found.self_reported


def test_one_client_s_report_moves_the_mean_and_not_the_median(experiment: Experiment) -> None:
    """Where the others' models name no image rightly the drop is undefined: one that claims to fall
    from all to nothing makes it 100."""
    others = [client("clean", (0, 0, 0), (0, 0, 0), number) for number in range(4)]
    liar = client("clean", (100, 100, 100), (0, 0, 0), 4)
    honest, moved = clients_drop(experiment, others), clients_drop(experiment, [*others, liar])
    assert (honest.combined, honest.median) == (None, None)
    assert (moved.combined, moved.median) == (100, None)
    sites = replace(experiment, sites=tuple("abcde"))
    assert clients_drop(sites, [*others, liar]).self_reported


def test_clients_without_an_evaluation_count_nowhere(experiment: Experiment) -> None:
    nothing = ConditionMetrics(**dict.fromkeys(NAMES), n=0)
    nobody = client("poisoned", (None,) * 3, (None,) * 3, 3).model_copy(
        update={"clean": nothing, "contaminated": nothing}
    )
    with_it, without = clients_drop(experiment, [*GOLDEN, nobody]), clients_drop(experiment, GOLDEN)
    assert with_it == without


@pytest.mark.parametrize(("clients", "draws"), [(GOLDEN[:1], 100), ([], 100), (GOLDEN, 0)])
def test_no_interval_without_several_clients_or_draws(
    clients: list[ClientResult], draws: int
) -> None:
    assert clients_interval(clients, draws, generator(0)) is None


def test_no_interval_where_nothing_is_defined() -> None:
    assert clients_interval([client("clean", (0, 0, 0), (1, 1, 1))] * 2, 50, generator(0)) is None


@LESS
@given(
    rows=st.lists(st.tuples(*[st.floats(1, 100)] * 6), min_size=2, max_size=6),
    seed=st.integers(0, 9),
)
def test_the_interval_is_ordered_within_what_clients_say_and_repeats(
    rows: list[tuple[float, ...]], seed: int
) -> None:
    clients = [client("clean", row[:3], row[3:]) for row in rows]
    found = clients_interval(clients, 100, generator(seed))
    assert found is not None
    low, high = found
    assert low <= high <= 100
    assert clients_interval(clients, 100, generator(seed)) == found
    # a ratio of means lies between the ratios: each metric's drop between the clients' smallest and
    # largest
    drops = [[100 * (row[m] - row[m + 3]) / row[m] for row in rows] for m in range(3)]
    assert sum(map(min, drops)) / 3 - 1e-6 <= low
    assert high <= sum(map(max, drops)) / 3 + 1e-6


def test_equal_clients_leave_no_doubt() -> None:
    # every resample is (50 -> 25, 40 -> 20, 30 -> 15): a drop of 50 %
    assert clients_interval(
        [client("clean", (50, 40, 30), (25, 20, 15))] * 5, 30, generator(0)
    ) == pytest.approx((50, 50))


def test_weights_are_means_over_rounds_and_absence_counts_zero(experiment: Experiment) -> None:
    found = client_results(experiment, {}, records({0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.25, 2: 0.5}))
    # (.5 + .25)/2, (.5 + .25)/2, (0 + .5)/2
    assert [one.weight for one in found] == pytest.approx([0.375, 0.375, 0.25])
    thirds = client_results(experiment, {}, records(*[{0: 1.0}] * 3))
    assert [one.weight for one in thirds] == [1.0, 0.0, 0.0]


def test_a_verdict_by_hand(experiment: Experiment) -> None:
    # 4 images of class 0: all right when clean, one of four right (three called class 1) under
    # contamination
    zeros, called = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 1, 1, 1])
    scores = {1: {"clean": (sure(zeros), zeros), "contaminated": (sure(called), zeros)}}
    rows = client_results(experiment, scores, records({0: 0.5, 1: 0.5}))
    one = rows[1]
    assert (one.id, one.kind, one.num_examples) == (
        1,
        "poisoned",
        len(experiment.rows(1, TRAIN)),
    )
    assert (one.clean.accuracy, one.contaminated.accuracy, one.clean.n) == (
        100,
        25,
        4,
    )
    # F1 of class 0: 2*1/(4+1) = .4, of class 1: 0 -> 20 %; precision of class 0: 1, of class 1: 0
    # -> 50 %
    assert (one.contaminated.f1, one.contaminated.precision) == pytest.approx((20, 50))
    assert one.combined_drop == pytest.approx((75 + 80 + 50) / 3)
    assert [(row.clean.n, row.combined_drop) for row in (rows[0], rows[2])] == [(0, None)] * 2


def test_drops_of_clients_come_from_counts_too(experiment: Experiment) -> None:
    # 60 of 80 images right when clean, 30 under contamination; nothing left out
    parts = {
        "clean": RoundedCounts(cells([[30, 10], [10, 30]]), 80, 5),
        "contaminated": RoundedCounts(cells([[15, 25], [25, 15]]), 80, 5),
    }
    rows = client_results(
        experiment, {1: parts, 2: Withheld("max-epsilon")}, records({0: 0.5, 1: 0.5})
    )
    missing, counted, nothing = rows
    assert counted.disclosure == DisclosureSection(form="counts", min_cell=5)
    assert (counted.clean.accuracy, counted.contaminated.accuracy) == (75, 37.5)
    assert counted.combined_drop == pytest.approx(50)
    assert clients_drop(experiment, rows).combined == pytest.approx(50)
    assert nothing.disclosure is not None
    assert nothing.disclosure.form == "nothing"
    assert missing.disclosure is None
    assert (missing.clean, missing.clean.n) == (nothing.clean, 0)


def cells(rows: list[list[int]]) -> torch.Tensor:
    """A confusion matrix of seven classes, of which the first ones occur."""
    matrix = torch.zeros(7, 7, dtype=torch.int64)
    matrix[: len(rows), : len(rows)] = torch.tensor(rows)
    return matrix


def scores_of(
    experiment: Experiment, twin: bool = True, clients: tuple[int, ...] = (0, 1, 2)
) -> RunPredictions:
    """The run is right on all but the first quarter of the test images, the twin everywhere;
    corruption costs a half."""
    labels = experiment.dataset.labels[experiment.test_rows()]
    quarter, half = labels.clone(), labels.clone()
    quarter[: len(labels) // 4] = (labels[: len(labels) // 4] + 1) % 7
    half[: len(labels) // 2] = (labels[: len(labels) // 2] + 1) % 7
    test = {"clean": sure(quarter), "corrupted": sure(half)}
    if twin:
        test |= {"twin_clean": sure(labels), "twin_corrupted": sure(labels)}
    own = {one: experiment.client_test_sets(one) for one in clients}
    verdicts = {
        one: {"clean": (sure(a.labels), a.labels), "contaminated": (sure(a.labels), b.labels)}
        for one, (a, b) in own.items()
    }
    return RunPredictions(test, verdicts)


def assert_valid(experiment: Experiment, results: PredictionResults) -> None:
    """They make a report that can be written and read."""
    made = Report(
        schema=1,
        strategy="x",
        num_clients=3,
        poisoned=tuple(experiment.clients_of_kind("poisoned")),
        noisy=tuple(experiment.clients_of_kind("noisy")),
        seed=0,
        rounds=1,
        timing={},
        engine="x",
        device="cpu",
        **dict(results),
    )
    text = report_text(made)
    assert report_text(parse_report(text)) == text


def test_judge_by_hand(experiment: Experiment) -> None:
    verdict = assemble_results(experiment, scores_of(experiment), records({0: 0.5, 1: 0.0, 2: 0.5}))
    n = len(experiment.test_rows())
    evaluations = verdict.evaluations
    assert set(evaluations) == {"clean", "corrupted", "twin_clean", "twin_corrupted"}
    assert all(set(one.values) == set(NAMES) for one in evaluations.values())
    assert evaluations["clean"].accuracy == pytest.approx(100 * (n - n // 4) / n)
    accuracy = {
        name: one.per_metric["accuracy"].drop for name, one in verdict.drops.present.items()
    }
    kept, half = (n - n // 4) / n, (n - n // 2) / n
    assert accuracy["poisoning"] == pytest.approx(100 * (1 - kept))
    assert accuracy["corruption"] == pytest.approx(100 * (kept - half) / kept)
    assert accuracy["total"] == pytest.approx(100 * (1 - half))
    # hospital 1 flips every label, so its contaminated shard has no hit; hospital 2's label errors:
    # 10 % of its test images
    assert verdict.clients[1].contaminated.accuracy == 0
    assert verdict.clients[0].combined_drop == 0
    # weights .5, 0, .5 of nearly equal shards: only the poisoned one lies below half of its fair
    # share
    assert verdict.detection == DetectionSection(precision=100.0, recall=100.0)
    assert verdict.attack_success_rate is None
    assert_valid(experiment, verdict)


@pytest.mark.parametrize(
    ("twin", "clients", "draws"),
    [(False, (0, 1, 2), 50), (True, (0, 2), 50), (True, (), 50), (True, (0, 1, 2), 0)],
)
def test_every_kind_of_verdict_is_a_valid_report(
    twin: bool, clients: tuple[int, ...], draws: int
) -> None:
    experiment = federations.build_experiment(
        "poisoned=[1]", "noisy=[2]", f"evaluation.bootstrap_samples={draws}"
    )
    verdict = assemble_results(experiment, scores_of(experiment, twin, clients), records({0: 1.0}))
    assert_valid(experiment, verdict)
    assert (verdict.drops.corruption.ci95 is None) == (draws == 0)
    assert len(verdict.clients) == 3


def test_judging_repeats(experiment: Experiment) -> None:
    one, two = (
        assemble_results(experiment, scores_of(experiment), records({0: 1.0})) for _ in range(2)
    )
    assert one == two


def test_the_attack_success_rate_by_hand(experiment: Experiment) -> None:
    # of four victims (none of class 3 themselves) three are called class 3: 75 %
    backdoor = Backdoor(lambda images: images, 3)
    poisoned = {
        **experiment.contaminations,
        "poisoned": Contamination("backdoor", backdoor=backdoor),
    }
    attacked = replace(experiment, contaminations=poisoned)
    plain = scores_of(experiment)
    marked = sure(torch.tensor([3, 3, 0, 3]))
    assert (
        assemble_results(
            attacked, replace(plain, triggered=marked), records({0: 1.0})
        ).attack_success_rate
        == 75
    )
    assert (
        assemble_results(
            attacked, replace(plain, triggered=marked[:0]), records({0: 1.0})
        ).attack_success_rate
        is None
    )
    assert assemble_results(attacked, plain, records({0: 1.0})).attack_success_rate is None
    assert (
        assemble_results(
            experiment, replace(plain, triggered=marked), records({0: 1.0})
        ).attack_success_rate
        is None
    )


def test_clients_of_a_partition_by_site_are_named_by_their_sites() -> None:
    whole = federations.build_experiment("partition=by_site", "num_clients=3")
    names = whole.dataset.site_names
    found = [one.sites for one in client_results(whole, {}, records())]
    assert [len(one or ()) for one in found] == [1, 1, len(names) - 2]
    assert sorted(name for one in found for name in one or ()) == sorted(names)
    assert whole.all_sites() == tuple(found)


def test_clients_of_other_partitions_and_of_real_sites(experiment: Experiment) -> None:
    assert {one.sites for one in client_results(experiment, {}, records())} == {None}
    assert experiment.all_sites() == ()
    nodes = tuple(f"node {client}" for client in range(experiment.num_clients))
    real = replace(experiment, sites=nodes)
    assert [one.sites for one in client_results(real, {}, records())] == [(one,) for one in nodes]


def test_files_left_out_are_counted_and_the_first_named() -> None:
    assert left_out_files({}) is None
    found = left_out_files({f"{row}.dcm": "it is no JPEG" for row in range(70)})
    assert found is not None
    assert found.count == 70
    assert list(found.first) == [f"{row}.dcm" for row in range(50)]
