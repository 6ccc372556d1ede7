"""What a run found, in sentences: the head of its page, its warnings and its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from fedrobust.evaluation.fairness import RECALL
from fedrobust.evaluation.statistics import Interval, wilson_interval
from fedrobust.reporting import spreads, text
from fedrobust.reporting.report import Report
from fedrobust.reporting.report.attacks import AttackOutcome, EvasionSection
from fedrobust.reporting.report.details import NamedSettings
from fedrobust.reporting.report.metrics import ClientsDrop, ConditionDrop
from fedrobust.reporting.report.sections import ClientResult, DetectionSection
from fedrobust.utils.counting import format_count

LEARNED: Final = 0.1  # share of the way from chance to 100 % that a model must have gone
NO_INFLUENCE: Final = 0.0005  # below, the tables show 0.000
TWIN_SHARE: Final = "of the clean twin's performance"
MINUS: Final = "\u2212"


def true_minus(words: str) -> str:
    """The same words with a true minus sign before their numbers."""
    return re.sub(r"(?<![\w.-])-(?=[0-9])", MINUS, words)


def percent(value: float | None, digits: int = 1) -> str:
    """A percentage with its unit and a true minus sign; a dash where it is undefined."""
    if value is None:
        return "-"
    return true_minus(text.format_number(value, digits)) + " %"


def interval_text(found: Interval | None) -> str:
    """A 95 % interval in brackets, e.g. "[−3.6, 3.3]"; empty where there is none."""
    if found is None:
        return ""
    return true_minus(f"[{', '.join(text.format_number(end) for end in found)}]")


def settings_text(part: NamedSettings | None, short: bool = False) -> str:
    """A part of the experiment with its settings in brackets; "none" where there is none."""
    if part is None:
        return "none"
    settings = ", ".join(f"{key} {_plain(value)}" for key, value in part.settings.items())
    return f"{part.name} ({settings})" if settings and not short else part.name


def _plain(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def headline_sentence(report: Report) -> str:
    """What was done and what came of it, in one sentence."""
    kinds, total = text.count_kinds(report), report.num_clients
    place = _place(report)
    if not kinds["poisoned"] and not kinds["noisy"]:
        outcome = _outcome(report.drops.corruption, "of the model's performance")
        return f"No hospital of {total} is contaminated{place}; {_corruption(report)} {outcome}."
    who = " and ".join(
        f"{name} {by} {kinds[kind]} of {format_count(total, 'hospital')}"
        for kind, name, by in _contaminations(report)
        if kinds[kind]
    )
    drop = report.drops.poisoning
    if drop is None:
        reached = percent(report.evaluations["clean"].balanced_accuracy)
        return (
            f"{who}{place}: without a clean twin it is unknown what this costs; the balanced "
            f"accuracy on clean test images is {reached}."
        )
    return f"{who}{place} {_outcome(drop, TWIN_SHARE)}."


def _contaminations(report: Report) -> list[tuple[str, str, str]]:
    """(kind, name, by or at) of both contaminations; their names are unknown in old reports."""
    setup = report.setup
    attack = setup.attack.name if setup and setup.attack else "poisoning"
    noise = setup.noise.name if setup and setup.noise else "noise"
    return [("poisoned", attack, "by"), ("noisy", noise, "at")]


def _place(report: Report) -> str:
    """Data, model and strategy."""
    setup = report.setup
    if setup is None:
        return f" under {report.strategy}"
    return f" on {setup.data} ({setup.model.name}, {report.strategy})"


def _corruption(report: Report) -> str:
    name = report.setup.corruption.name if report.setup else "corruption"
    return f"{name} of the test images"


def _outcome(drop: ConditionDrop, whole: str) -> str:
    """What the contamination costs, or gains, with its interval, and whether it can be told from
    nothing."""
    if drop.combined is None:
        return "costs an unknown share, since no metric has a drop"
    if text.format_number(drop.combined).startswith("-"):
        words = f"comes with a gain of {percent(-drop.combined)} {whole}"
        interval = None if drop.ci95 is None else (-drop.ci95[1], -drop.ci95[0])
    else:
        words, interval = f"costs {percent(drop.combined)} {whole}", drop.ci95
    if drop.ci95 is None:
        return f"{words} (no interval was computed)"
    return f"{words} {interval_text(interval)}: {significance(drop.ci95)}"


def significance(ci95: Interval) -> str:
    """Whether a drop with this 95 % interval can be told from none."""
    low, high = ci95
    if low > 0:
        return "a drop"
    return "a gain" if high < 0 else "not distinguishable from no drop"


def further_sentences(report: Report) -> list[str]:
    """That the run ended early and which round was the best, where that is so; what evasion attacks
    and a purifier did, where there were any; a backdoor's success, and a schedule of attacks."""
    ending, best = text.ending_text(report), text.best_round_text(report)
    found = [f"{one}." for one in (ending, best) if one]
    if report.evasion is not None:
        found.append(_evasion_sentence(report.evasion))
    behind = report.evaluations.get("purified_corrupted")
    if behind is not None:
        before = report.evaluations["corrupted"]
        purifier = _purifier(report)
        found.append(
            f"Behind {purifier} the balanced accuracy on corrupted test images is "
            f"{percent(behind.balanced_accuracy)}, without it {percent(before.balanced_accuracy)}."
        )
    if report.attack_success_rate is not None:
        found.append(
            f"The backdoor succeeds on {percent(report.attack_success_rate)} of the triggered test "
            "images."
        )
    if report.schedule is not None:
        line = text.schedule_text(report.schedule, report.rounds)
        found.append(f"{line[0].upper()}{line[1:]}.")
    return found


def _purifier(report: Report) -> str:
    """Its name, which reports of earlier versions have under an evasion attack only."""
    if report.setup is not None and report.setup.purifier is not None:
        return report.setup.purifier.name
    return report.evasion.purifier if report.evasion else "the purifier"


def _evasion_sentence(section: EvasionSection) -> str:
    """The strongest oblivious attack, and the best that the purifier leaves of it."""
    strongest = max(section.attacks, key=lambda one: (one.threat_model == "oblivious", _bound(one)))
    same = [
        one
        for one in section.attacks
        if (one.threat_model, one.eps_255) == (strongest.threat_model, strongest.eps_255)
    ]
    bare = next((one for one in same if one.purifier == "none"), strongest)
    bound = "" if bare.eps_255 is None else f" within {bare.eps_255:g}/255 of every value"
    words = (
        f"{section.attack}{bound} takes the balanced accuracy on "
        f"{format_count(section.images, 'test image')} from "
        f"{percent(section.clean['none'].balanced_accuracy)} to "
        f"{percent(bare.metrics.balanced_accuracy)}"
    )
    kept = [one for one in same if one.purifier != "none"]
    return (
        words
        + "".join(
            f"; behind {one.purifier} it is {percent(one.metrics.balanced_accuracy)}"
            for one in kept
        )
        + "."
    )


def _bound(one: AttackOutcome) -> float:
    return one.eps_255 or 0.0


def warnings(report: Report, classes: int) -> list[str]:
    """What keeps the numbers from meaning what they seem to mean.

    Args:
        report: of the run.
        classes: number of classes; 0: unknown.
    """
    found = [_not_learned(report, classes)]
    found.append(
        text.SELF_REPORTED.capitalize() + "." if report.drops.clients.self_reported else ""
    )
    return [one for one in found if one]


def _not_learned(report: Report, classes: int) -> str:
    """The clean twin, or without one this run's model, is near chance."""
    twin = report.evaluations.get("twin_clean")
    model, name = (twin, "clean twin") if twin else (report.evaluations["clean"], "model")
    reached = model.balanced_accuracy
    if not classes or reached is None:
        return ""
    chance, least = 100 / classes, least_learned(classes)
    if reached >= least:
        return ""
    return (
        f"The {name} has not learned: its balanced accuracy on the clean test images is "
        f"{percent(reached)}, below {percent(least)}. Criterion: at least a tenth of the way from "
        f"chance ({percent(chance)} for {classes} classes) to 100 %. Drops from such a model "
        "say little; train longer (rounds, client.epochs)."
    )


def least_learned(classes: int) -> float:
    """The balanced accuracy, in %, from which a model of so many classes counts as one that has
    learned."""
    chance = 100 / classes
    return chance + LEARNED * (100 - chance)


def run_facts(
    report: Report, manifest: Mapping[str, Any], uses: Mapping[str, int]
) -> list[tuple[str, str]]:
    """(name, value) of what was run: data, model, partition, contamination and defence.

    Args:
        report: of the run.
        manifest: what manifest.json holds.
        uses: extra information on the server, with its number of images.
    """
    setup, kinds = report.setup, text.count_kinds(report)
    found: list[tuple[str, str]] = []
    if setup is not None:
        train, validation, test = setup.images
        found += [
            (
                "Data",
                f"{setup.data}: {format_count(len(setup.classes), 'class', 'classes')}, images of "
                f"{setup.image_size} px: {train} training, {validation} validation, {test} test",
            ),
            ("Model", settings_text(setup.model)),
            ("Partition", settings_text(setup.partition)),
        ]
    found.append(
        (
            "Federation",
            f"{format_count(report.num_clients, 'hospital')} ({kinds['poisoned']} poisoned, "
            f"{kinds['noisy']} noisy), {format_count(report.rounds, 'round')}, seed {report.seed}",
        )
    )
    found.append(("Strategy", report.strategy))
    if setup is not None:
        found.append(("Attack", settings_text(setup.attack)))
        found += [("Noise", settings_text(setup.noise))] if setup.noise else []
        found.append(("Corruption of test images", settings_text(setup.corruption)))
    if report.evasion is not None:
        found.append(("Evasion attack", report.evasion.attack))
    if setup is not None and setup.purifier is not None:
        found.append(("Purifier", settings_text(setup.purifier)))
    if report.privacy is not None:
        found.append(("Privacy", text.privacy_text(report.privacy)))
    if uses:
        found.append(("Data on the server", text.uses_text(uses)))
    return [
        *found,
        ("Computed", f"{text.computing_text(report)} Started {manifest['started_utc']}."),
    ]


def class_names(report: Report, manifest: Mapping[str, Any]) -> list[str]:
    """Names of the classes; empty where neither file has them."""
    if report.setup is not None:
        return list(report.setup.classes)
    return list(manifest.get("data", {}).get("classes", []))


def accuracy_interval(client: ClientResult, condition: str) -> Interval | None:
    """Wilson's interval of a client's accuracy; None where its counts are rounded or missing."""
    metrics = getattr(client, condition)
    if metrics.accuracy is None or (client.disclosure and client.disclosure.min_cell != 1):
        return None
    return wilson_interval(round(metrics.accuracy * metrics.n / 100), metrics.n)


def class_hits(report: Report, evaluation: str) -> list[tuple[int, int]]:
    """(hits, images) of each class under an evaluation; empty where the report has no confusion
    matrix."""
    details = (report.details or {}).get(evaluation)
    if details is None or details.confusion is None:
        return []
    return [(row[place], sum(row)) for place, row in enumerate(details.confusion)]


def headline_values(report: Report, classes: list[str]) -> list[tuple[str, str, str]]:
    """(title, value with its unit, note) of each number that a reader looks for first, the
    poisoning drop before all others."""
    drops, clean = report.drops.present, report.evaluations["clean"]
    twin = report.evaluations.get("twin_clean")
    found = [
        (f"Combined drop: {name}", *_drop_value(drop))
        for name, drop in drops.items()
        if name == "poisoning"
    ]
    note = f"this run's model, {format_count(clean.n, 'clean test image')}"
    found.append(("Balanced accuracy", percent(clean.balanced_accuracy), note))
    if twin is not None:
        value = percent(twin.balanced_accuracy)
        found.append(
            ("Balanced accuracy, clean twin", value, "same seed, no hospital contaminated")
        )
    found += [
        (f"Combined drop: {name}", *_drop_value(drop))
        for name, drop in drops.items()
        if name != "poisoning"
    ]
    found += _worst_values(report, classes)
    if report.attack_success_rate is not None:
        rate = percent(report.attack_success_rate)
        found.append(("Attack success rate", rate, "triggered images put into the target class"))
    return found + _detection_values(report)


def _drop_value(drop: ConditionDrop) -> tuple[str, str]:
    note = f"95 % interval {interval_text(drop.ci95)}" if drop.ci95 else "no interval"
    if isinstance(drop, ClientsDrop):
        note += f"; {text.MEDIANS} {text.drop_text(drop.median)} %"
        note += "; the sites' own reports" if drop.self_reported else ""
    value = text.drop_text(drop.combined)
    return (value if drop.combined is None else f"{value} %"), note


def _worst_values(report: Report, classes: list[str]) -> list[tuple[str, str, str]]:
    """The worst hospital and class on clean test images, with their drop to the clean twin."""
    section = report.fairness
    spread_by = {} if section is None else section.evaluations["clean"]
    drops = {} if section is None else section.drops.get("poisoning", {})
    found = []
    for quantity, title, metric in (
        ("site_accuracy", "Worst hospital", "accuracy at hospital"),
        (RECALL, "Worst class", "recall of"),
    ):
        spread = spread_by.get(quantity)
        if spread is None or (quantity != RECALL and report.num_clients == 1):
            continue
        who = spreads.member_label(report, quantity, spread, classes)
        note = f"{metric} {who} {interval_text(spread.worst.ci95)}".rstrip()
        lost = drops[quantity].worst if quantity in drops else None
        if lost is not None and lost.value is not None:
            shown, within = text.drop_text(lost.value), interval_text(lost.ci95)
            note += f"; drop to the clean twin's worst {shown} % {within}".rstrip()
        found.append((title, percent(spread.worst.value), note))
    return found


def _detection_values(report: Report) -> list[tuple[str, str, str]]:
    found = []
    if report.detection is not None:
        found.append(
            (
                "Poisoned clients found: recall",
                percent(report.detection.recall),
                _detection_note(report.detection, len(report.poisoned)),
            )
        )
    if report.sanitising is not None:
        part = report.sanitising
        note = (
            f"{part.found} of {format_count(part.altered, 'altered image')} left out; precision "
            f"{percent(part.precision)}: of {part.dropped} left out"
        )
        found.append(("Altered images left out: recall", percent(part.recall), note))
    if report.label_detection is not None:
        labels = report.label_detection
        note = (
            f"{labels.found} of {format_count(labels.mislabelled, 'wrong label')} suspected, "
            f"{labels.corrected} corrected; precision {percent(labels.precision)}: of "
            f"{labels.suspected} suspected"
        )
        found.append(("Wrong labels suspected: recall", percent(labels.recall), note))
    return found


def _detection_note(found: DetectionSection, poisoned: int) -> str:
    hits = round((found.recall or 0.0) * poisoned / 100)
    how = "by their influence" if found.by is None else "by the rule"
    note = f"{hits} of {poisoned} poisoned flagged {how}; precision "
    if found.precision is None:
        return note + "undefined: nobody is flagged"
    flagged = round(100 * hits / found.precision) if found.precision else 0
    if not flagged:
        return note + percent(found.precision)
    return note + f"{percent(found.precision)}: {hits} of {flagged} flagged are poisoned"


def influence_notes(report: Report) -> list[str]:
    """Whom the rule considers contaminated, and why an honest client may have no influence, where
    one has none."""
    named = text.named_text(report)
    first = [f"{named[0].upper()}{named[1:]}."] if report.named is not None else []
    return first + _no_influence(report)


def _no_influence(report: Report) -> list[str]:
    silent = [
        text.client_name(one)
        for one in report.clients
        if one.kind == "clean" and one.weight < NO_INFLUENCE
    ]
    if not silent:
        return []
    who, whose = ("hospital", "its") if len(silent) == 1 else ("hospitals", "their")
    them = "it as a false alarm" if len(silent) == 1 else "them as false alarms"
    alarm = f" The detection counts {them}, which lowers precision."
    by_influence = report.detection is not None and report.named is None
    return [
        f"Influence 0 of honest {who} {', '.join(silent)}: {report.strategy} used none of {whose} "
        f"updates. This says nothing against {whose} data: a rule may need a few updates only or "
        "take one for an outlier, or a hospital did not reply or was not asked."
        + (alarm if by_influence else "")
    ]
