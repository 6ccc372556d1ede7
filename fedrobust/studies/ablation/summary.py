"""ablation.json: every number of an ablation with its interval; the page and the picture are made
from it (docs/ablation.md lists it)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fedrobust.evaluation.drops import METRICS
from fedrobust.evaluation.statistics import DropTable, Estimate
from fedrobust.reporting.filenames import MANIFEST
from fedrobust.studies.ablation import poster
from fedrobust.studies.ablation.results import CLEAN, NOISE, THRESHOLD, AblationResults, Trained
from fedrobust.studies.comparison.analysis import Ranking, rank

Entry = dict[str, Any]
# what all models share of `client`; the summary keeps the name "plateau"
TRAINING = ("epochs", "batch_size", "optimizer", "early_stopping", "lr_plateau", "augment")


def make_summary(found: AblationResults) -> Entry:
    """Content of ablation.json. All values in %, drops in % of the normal value."""
    families = {
        family: [str(one) for one in members] for family, members in found.plan.families.items()
    }
    under_noise = found.drops([NOISE])
    everywhere = [name for names in families.values() for name in names]
    rankings = {"noise": under_noise}
    rankings |= {"poisonings": found.poisoned()} if found.plan.poisonings else {}
    rankings |= {"scenarios": found.drops(everywhere)} if everywhere else {}
    return {
        "schema": 1,
        "models": {one.name: " ".join(one.words) for one in found.plan.grid.strategies},
        "seeds": list(found.plan.grid.seeds),
        "draws": found.plan.grid.draws,
        **_setting(found.trained[0]),
        "levels": {name: _levels(found, name) for name in (CLEAN, NOISE)},
        "noise": _drops(found, under_noise),
        "grades": {name: _combined(found, found.drops([name])) for name in found.grades()},
        "poisonings": {name: _poisoned(found, name) for name in found.plan.poisonings},
        "scenarios": {family: _family(found, family, names) for family, names in families.items()},
        "comparisons": {name: _comparison(found, rank(one)) for name, one in rankings.items()},
        "training": {model: _training(found, model) for model in found.plan.models},
        "poster": {model: _poster(model) for model in poster.VALUES if model in found.plan.models},
        "failed": {str(cell): reason for cell, reason in found.failed.items()},
    }


def estimate_entry(one: Estimate) -> Entry:
    """A value and its 95 % interval, null where undefined."""
    return {"value": one.value, "low": one.low, "high": one.high}


def _setting(one: Trained) -> Entry:
    settings = one.result.cell.settings
    manifest = json.loads((one.result.folder / MANIFEST).read_text(encoding="utf-8"))
    return {
        "data": {**manifest["data"], "size": settings.data.get("size")},
        "model": {
            key: value
            for key, value in settings.model.written.items()
            if key not in ("_target_", "head") and value is not None
        },
        "training_settings": {
            key.removeprefix("lr_"): settings.client.get(key) for key in TRAINING
        },
        "noise_settings": dict(settings.corruption.written),
        "program": one.result.program,
    }


def _levels(found: AblationResults, condition: str) -> Entry:
    """{model: {metric: estimate}}; AUROC and ECE have no intervals."""
    boards = {metric: found.level(condition, metric) for metric in THRESHOLD}
    entries: Entry = {}
    for place, model in enumerate(found.plan.models):
        plain = {
            name: _mean([one.evaluations[condition].get(name) for one in found.clean(model)])
            for name in ("auroc", "ece")
        }
        entries[model] = {
            metric: estimate_entry(board.one(place, 0)) for metric, board in boards.items()
        }
        entries[model] |= {
            name: {"value": value, "low": None, "high": None} for name, value in plain.items()
        }
    return entries


def _drops(found: AblationResults, board: DropTable) -> Entry:
    """{model: the mean drop of every metric, the combined one with its interval and by seed, and
    minus that of the first model}."""
    entries: Entry = {}
    for place, model in enumerate(found.plan.models):
        drops = [one.drop(NOISE) for one in found.clean(model)]
        entries[model] = {
            **{metric: _mean([one[metric] for one in drops]) for metric in METRICS},
            "combined": estimate_entry(board.one(place, 0)),
            "by_seed": [one["combined"] for one in drops],
            "minus_first": _minus_first(board, place),
        }
    return entries


def _minus_first(board: DropTable, place: int) -> Entry | None:
    return estimate_entry(board.difference(place, 0)) if place else None


def _combined(found: AblationResults, board: DropTable) -> Entry:
    return {
        model: {
            "combined": estimate_entry(board.mean(place)),
            "minus_first": _minus_first(board, place),
        }
        for place, model in enumerate(found.plan.models)
    }


def _poisoned(found: AblationResults, poisoning: str) -> Entry:
    """Strength: its rate or severity, where it has one; family: the same for poisonings that differ
    in nothing else."""
    one = next((one for one in found.trained if one.result.cell.contamination == poisoning), None)
    settings = {} if one is None else dict(one.result.cell.settings.contamination.written)
    key = next(
        (key for key in ("rate", "severity") if isinstance(settings.get(key), int | float)), None
    )
    place, board = found.plan.poisonings.index(poisoning), found.poisoned()
    rest = {name: value for name, value in settings.items() if name != key}
    entries: Entry = {}
    for row, model in enumerate(found.plan.models):
        trained = [
            one
            for seed in found.plan.grid.seeds
            if (one := found.find(model, poisoning, seed)) is not None
        ]
        entries[model] = {
            "combined": estimate_entry(board.one(row, place)),
            **{
                metric: _mean([one.evaluations[CLEAN][metric] for one in trained])
                for metric in THRESHOLD
            },
        }
    return {
        "strength": settings.get(key) if key else None,
        "family": json.dumps(rest, sort_keys=True),
        "unit": key,
        "models": entries,
    }


def _family(found: AblationResults, family: str, names: Sequence[str]) -> Entry:
    """A scenario at each of its severities, and the mean over them."""
    members = {str(one): one.severity for one in found.plan.families[family]}
    steps = [
        {"severity": members[name], "models": _combined(found, found.drops([name]))}
        for name in names
    ]
    return {"steps": steps, "mean": _combined(found, found.drops(names))}


def _comparison(found: AblationResults, ranking: Ranking) -> Entry:
    """All pairs, paired by seed and image: difference of the means of `model` minus `other`; p
    before and after Holm; letters: two models that share one do not differ at 5 %."""
    names = found.plan.models
    pairs = [
        {
            "model": names[one],
            "other": names[other],
            **estimate_entry(difference),
            "p": difference.p,
            "p_holm": ranking.adjusted.get((one, other)),
        }
        for (one, other), difference in ranking.differences.items()
    ]
    means = {names[place]: estimate_entry(ranking.means[place]) for place in ranking.order}
    return {
        "means": means,
        "letters": {names[place]: letter for place, letter in ranking.letters.items()},
        "pairs": pairs,
    }


def _training(found: AblationResults, model: str) -> Entry:
    """Epochs until early stopping ended it (null: not reported) and seconds of the clean trainings,
    by seed."""
    clean = list(found.clean(model))
    return {
        "epochs": [_epochs(one) for one in clean],
        "seconds": [one.result.report.timing.get("run") for one in clean],
    }


def _epochs(one: Trained) -> float | None:
    last = one.result.rounds[-1]
    value = last.clients[0].metrics.get("epochs") if last.clients else None
    return None if value is None else float(value)


def _poster(model: str) -> Entry:
    found = poster.drop(model)
    assert found is not None
    drops = {metric: row["drop"] for metric, row in found.per_metric.items()}
    return {
        "clean": poster.level(model, False),
        "corrupted": poster.level(model, True),
        "drops": drops,
        "combined_by_formula": found.combined,
        "combined_printed": poster.PRINTED[model],
        "combined_in_mixed_units": poster.mixed_units(model),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known else None
