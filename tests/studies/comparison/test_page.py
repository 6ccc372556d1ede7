"""leaderboard.html: links, failures, weak attacks, average ranks, names that would break out."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from fedrobust.evaluation.statistics import DropTable, Replicates
from fedrobust.studies.comparison import leaderboard, page
from fedrobust.studies.comparison.analysis import average_ranks, rank
from fedrobust.studies.comparison.cell_results import Result
from fedrobust.studies.comparison.page_figures import share_figures
from fedrobust.studies.comparison.results_table import ComparisonResults
from fedrobust.studies.comparison.weakness import attack_weakness, weak_note
from tests.helpers import reports
from tests.helpers.comparisons import findings, no_backdoor, renamed, without

EVIL = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ComparisonResults:
    made = findings(tmp_path_factory.mktemp("board") / "cells", seeds=(0, 1), draws=200)
    for one in made.results:
        if one.cell.seed == 0:
            (one.folder / "report.html").write_text("")
    return made


def rendered(found: ComparisonResults) -> str:
    folder = found.results[0].folder.parent.parent
    rankings = leaderboard.rankings_of(found)
    return page.render(found, rankings, ["results.csv"], folder)


def test_cells_link_to_the_pages_of_their_runs(found: ComparisonResults) -> None:
    links = re.findall(r'href="(cells/[^"]+)"', rendered(found))
    folder = found.results[0].folder.parent.parent
    attacked = [one for one in found.results if one.cell.poisoned and one.cell.seed == 0]
    wanted = {f"cells/{one.folder.name}/report.html" for one in attacked}
    assert set(links) == wanted  # seed 1 has no page
    assert all((folder / link).is_file() for link in links)


def test_a_single_seed_links_its_drop(tmp_path: Path) -> None:
    found = findings(tmp_path / "cells", seeds=(0,), counts=(3,), draws=30)
    for one in found.results:
        (one.folder / "report.html").write_text("")
    text = rendered(found)
    drop = found.results[0].report.drops.poisoning
    name = found.results[0].folder.name
    assert f'<a href="cells/{name}/report.html">{drop.combined:.1f}</a>' in text
    assert "One seed says nothing about other seeds." in text


def test_the_numbers_are_those_of_the_leaderboard(found: ComparisonResults) -> None:
    text = rendered(found)
    ranking = leaderboard.rankings_of(found)[3]
    for rule in range(3):
        worst = ranking.table.worst(rule).value
        assert f'data-sort="{worst:.10g}"><span>{worst:.1f}</span>' in text
    assert "3 of 10 clients (30 %) poisoned" in text
    assert text.count("<svg") == 4
    assert "good † ‡" in text


def test_failed_cells_show_their_reason(found: ComparisonResults) -> None:
    holes = without(
        found, "no memory <b>\n" + 200 * "x", strategy="good", contamination="flip", poisoned=3
    )
    folder = found.results[0].folder.parent
    log = folder / next(iter(holes.failed)).folder / "run.log"
    log.write_text("")
    text = rendered(holes)
    log.unlink()
    assert text.count("seed 0 failed: ") == text.count("seed 1 failed: ") == 1
    assert "no memory &lt;b&gt;" in text
    assert 200 * "x" in text.partition('id="failed"')[2]
    assert len(re.findall(r'href="cells/good-flip-p3[^"]+/run.log"', text)) == 1
    assert "2 failed" in text
    assert 'data-sort="nan"' in text  # of the mean: last in any order


def test_hostile_names_are_text(found: ComparisonResults) -> None:
    names = {"good": EVIL, "same": EVIL + "2", "flip": "a\u202eb" + EVIL}
    text = rendered(without(renamed(found, names), EVIL, seed=1, poisoned=3))
    assert text.count("<script") == text.count("</script>") == 1
    assert "\u202e" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_clean_twins_near_chance_are_warned_of(found: ComparisonResults) -> None:
    assert "have not learned" not in rendered(found)
    setup = reports.typed(reports.full_report()).setup
    assert setup is not None
    assert len(setup.classes) == 3  # a tenth of the way from 33.3 % to 100 %: 40 %

    def near_chance(one: Result, reached: float) -> Result:
        twin = one.report.evaluations["twin_clean"]
        twins = twin.model_copy(update={"balanced_accuracy": reached})
        changed = {
            "setup": setup,
            "evaluations": {**one.report.evaluations, "twin_clean": twins},
        }
        return dataclasses.replace(one, report=one.report.model_copy(update=changed))

    results = tuple(
        near_chance(one, 39.0 if (one.cell.strategy, one.cell.seed) == ("bad", 1) else 41.0)
        for one in found.results
    )
    some = dataclasses.replace(found, results=results)
    assert "The clean twins of bad (1 of 2 seeds) have not learned" in rendered(some)
    assert "**The clean twins of bad (1 of 2 seeds) have" in leaderboard.leaderboard(some, {}, [])


def test_numbers_have_true_minus_signs(found: ComparisonResults) -> None:
    cells = re.findall(r">([^<>]*)</(?:span|td)>", rendered(found))
    assert any(re.match("\u2212[0-9]", one) for one in cells)
    assert not [one for one in cells if re.match(r"\[?-[0-9]", one) or ", -" in one]


def test_without_fedavg_weakness_is_unknown(found: ComparisonResults) -> None:
    ranking = rank(found.poisoning(3))
    judged = attack_weakness(found, ranking, 3)
    assert {one.weak for one in judged} == {None}
    assert "Unknown of flip, noise: fedavg is not among the rules." in weak_note(
        judged, ["flip", "noise"]
    )
    assert "weak?" in rendered(found)


def test_an_attack_that_costs_fedavg_little_is_weak(found: ComparisonResults) -> None:
    for rule, weak in (("good", True), ("bad", False)):
        some = no_backdoor(renamed(found, {rule: "fedavg"}))
        ranking = rank(some.poisoning(3))
        assert {one.weak for one in attack_weakness(some, ranking, 3)} == {weak}
        other = dataclasses.replace(some, weak_below=0.0 if weak else 100.0)
        assert {one.weak for one in attack_weakness(other, ranking, 3)} == {not weak}
    assert "Weak attacks" not in rendered(some)
    assert ">weak</span>" not in rendered(some)


def test_a_backdoor_is_judged_by_its_success(found: ComparisonResults) -> None:
    some = renamed(found, {"bad": "fedavg"})  # large drop, success rate 11.3 %
    judged = attack_weakness(some, rank(some.poisoning(3)), 3)
    assert {one.weak for one in judged} == {True}
    assert judged[0].reason == "success rate against fedavg 11.3 %, below 50 %"
    assert "fedavg 11.3 %, below 50 %" in leaderboard.leaderboard(
        some, leaderboard.rankings_of(some), []
    )


def test_fedavg_without_a_result_leaves_it_unknown(found: ComparisonResults) -> None:
    some = without(renamed(found, {"bad": "fedavg"}), "x", strategy="fedavg", contamination="flip")
    judged = attack_weakness(some, rank(some.poisoning(3)), 3)
    assert [one.weak for one in judged] == [None, True]
    assert judged[0].reason == "fedavg has no result under it"


def made_up(values: list[list[list[float]]]) -> DropTable:
    """values: (rules, attacks, seeds)"""
    drops = torch.tensor(values, dtype=torch.float64)
    seeds = drops.shape[-1]
    return DropTable(
        Replicates(drops, drops[..., None].expand(*drops.shape, 4)), torch.ones(seeds, 4)
    )


def test_average_ranks_by_hand() -> None:
    nan = float("nan")
    table = made_up([[[1.0, 5.0], [2.0, nan]], [[1.0, 4.0], [3.0, 1.0]], [[9.0, 6.0], [1.0, 1.0]]])
    ranked = average_ranks(table, [0, 1, 2])
    # blocks: (1, 1, 9), (5, 4, 6), (2, 3, 1); the fourth lacks a rule
    assert ranked.means == pytest.approx({0: 5.5 / 3, 1: 5.5 / 3, 2: 7 / 3})
    assert (ranked.blocks, ranked.lost) == (3, 1)
    assert average_ranks(table, [2, 1]).means == pytest.approx({2: 6.5 / 4, 1: 5.5 / 4})


def test_groups_are_the_rules_of_each_letter(found: ComparisonResults) -> None:
    ranking = rank(found.poisoning(3))
    names = [[found.rules[rule] for rule in group] for group in ranking.groups]
    assert [sorted(group) for group in names] == [["good", "same"], ["bad"]]


def test_few_blocks_are_named(found: ComparisonResults) -> None:
    figures, missing = share_figures(found, rank(found.poisoning(3)))
    assert missing == ()
    assert "4 blocks are few" in figures[0].caption
    one = dataclasses.replace(
        found,
        attacks=("flip",),
        seeds=(0,),
        results=tuple(o for o in found.results if o.cell.seed == 0),
    )
    figures, missing = share_figures(one, rank(one.poisoning(3)))
    assert len(figures) == 1
    assert "there is 1" in missing[0]


def test_nobody_poisoned(found: ComparisonResults) -> None:
    clean = dataclasses.replace(
        found, results=tuple(one for one in found.results if not one.cell.poisoned)
    )
    text = rendered(clean)
    assert "3 rules without poisoned clients" in text
    assert "Without contamination" in text
    assert "<svg" not in text


def test_the_headline_names_the_best_and_its_equals(found: ComparisonResults) -> None:
    rankings = leaderboard.rankings_of(found)
    text = page.headline(found, rankings)
    assert text.startswith("With 3 of 10 clients (30 %) poisoned, ")
    assert text.endswith(("; same does not differ from it", "; good does not differ from it"))
    lost = without(found, "x", contamination="flip", poisoned=3)
    assert "no rule has a result under every attack" in page.headline(
        lost, leaderboard.rankings_of(lost)
    )
