"""The words that the screen, the pictures and the page share: names and meanings of metrics and
drops, values as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fedrobust.reporting.report import Report
from fedrobust.reporting.report.attacks import (
    AttackedModel,
    AttackOutcome,
    ClientAttackOutcome,
    ClientEvasion,
    EvasionSection,
    FusedModel,
)
from fedrobust.reporting.report.certificate import CertificateSection
from fedrobust.reporting.report.metrics import (
    ClientsDrop,
    ConditionDrop,
    ConditionMetrics,
    DropsSection,
)
from fedrobust.reporting.report.schedule import LASTING, ScheduleSection
from fedrobust.reporting.report.sections import (
    ClientResult,
    DetectionSection,
    DisclosureSection,
    LabelDetectionSection,
    LeftOutFiles,
    PrivacySection,
    SanitisingSection,
)
from fedrobust.reporting.report.values import KIND_NAMES
from fedrobust.utils.counting import format_count

UNSTABLE_BELOW: Final = 5.0  # percent; a ratio to a normal value below it says little
COMBINED: Final = "Combined"
MEDIANS: Final = "of medians"
SELF_REPORTED: Final = "real sites' results are their own reports and are not verified"

METRIC_NAMES: Final[dict[str, str]] = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced",
    "f1": "F1",
    "precision": "Precision",
    "auroc": "AUROC",
    "ece": "ECE",
}

# where space allows
METRIC_TITLES: Final[dict[str, str]] = METRIC_NAMES | {"balanced_accuracy": "Balanced accuracy"}

METRIC_MEANINGS: Final[dict[str, str]] = {
    "accuracy": "Share of images whose class is named correctly.",
    "balanced_accuracy": (
        "Mean over classes of the share recognised (recall); every class counts alike."
    ),
    "f1": (
        "Mean over the classes that occur of the harmonic mean of precision and "
        "recall (macro F1; 0 for a class never predicted)."
    ),
    "precision": (
        "Mean over the classes that occur of the share of predictions that "
        "are right (macro; 0 for a class never predicted)."
    ),
    "auroc": (
        "Area under the ROC curve, one class against the rest, mean over classes; 50 is chance."
    ),
    "ece": "Expected calibration error: the mean gap between confidence and accuracy; 0 is best.",
}

EVALUATION_MEANINGS: Final[dict[str, str]] = {
    "clean": "This run's model on the clean test images.",
    "corrupted": "This run's model on the same test images, corrupted.",
    "twin_clean": (
        "The clean twin's model (same seed, no contamination) on the clean test images."
    ),
    "twin_corrupted": "The clean twin's model on the corrupted test images.",
    "purified_clean": "This run's model on the clean test images behind the purifier.",
    "purified_corrupted": "This run's model on the corrupted test images behind the purifier.",
}

DROP_MEANINGS: Final[dict[str, str]] = {
    "poisoning": "clean twin → this run, both on clean test images",
    "corruption": "this run's model, clean → corrupted test images",
    "total": "clean twin on clean → this run on corrupted test images",
    "clients": (
        "each client's own test images, clean → under that client's "
        "contamination, mean over clients"
    ),
}

EVALUATION_COLUMNS: Final = ("Model on", *METRIC_NAMES.values(), "Images")
DROP_COLUMNS: Final = ("Drop", "Metric", "normal → attack", "drop", "95 % interval")
# short, and where space allows
CLIENT_COLUMNS: Final[dict[str, str]] = {
    "Client": "Client",
    "Kind": "Kind",
    "Images": "Images",
    "Influence": "Influence",
    "clean": "Balanced, clean",
    "contaminated": "Balanced, contaminated",
    COMBINED: "Combined drop",
}

THREAT_MEANINGS: Final[dict[str, str]] = {
    "oblivious": "the attacker knows the model, but of no purifier",
    "bpda_eot": (
        "the attacker knows the purifier, averages over its noise and takes "
        "its gradient for the identity's"
    ),
    "differentiated": (
        "the attacker knows the purifier, averages over its noise and "
        "goes through it with the gradient"
    ),
}
EVASION_COLUMNS: Final = (
    "Attacker",
    "eps",
    "Purifier",
    "Balanced",
    "95 % interval",
    "Combined",
    "recovered",
)
EVASION_MEANING: Final = (
    "eps: largest change of a value in 255ths of the range; Combined: drop from the "
    "unattacked images; recovered: the share, given back by the purifier, of the balanced accuracy "
    "that the oblivious attack takes from the undefended model, above 100 where the model is "
    "better with the purifier and the attack than without both"
)
MOST_BOUNDS: Final = 5  # columns of the clients' table

DROP_FORMULA: Final = (
    "drop = 100 (normal - attack) / normal for each metric; "
    "Combined is the mean over metrics; a negative drop is a gain"
)
INFLUENCE_MEANING: Final = (
    "The weight that the server gave to a client's update, between 0 and 1, mean over the rounds."
)
ATTACK_SUCCESS_MEANING: Final = (
    "Share of test images of other classes that the backdoor's "
    "trigger turns into the attacker's class."
)
DETECTION_MEANING: Final = (
    "A client counts as flagged when its influence is below half of the smaller of an equal share "
    "and its share of the training images; "
    "precision: flagged clients that are poisoned; recall: poisoned clients that are flagged."
)
NAMED_MEANING: Final = (
    "A client counts as flagged when the rule itself names it; "
    "precision: flagged clients that are poisoned; recall: poisoned clients that are flagged."
)

CERTIFICATE_MEANING: Final = (
    "Share of clean test images for which the majority of the groups' models is right, and stays "
    "right whatever so many clients do in training."
)

MANIFEST_THREADS: Final = (
    "torch_threads: threads of torch in the server's process; client_threads: threads of torch "
    "for each client (engine.threads)."
)


def glossary(report: Report) -> list[tuple[str, str]]:
    """(name, meaning) of everything that this report shows, and of nothing else."""
    found = [(METRIC_TITLES[name], meaning) for name, meaning in METRIC_MEANINGS.items()]
    found += [
        (metric_label(name), meaning)
        for name, meaning in EVALUATION_MEANINGS.items()
        if name in report.evaluations
    ]
    found.append(("drop, Combined", f"{DROP_FORMULA}."))
    found += [(f"{name} drop", DROP_MEANINGS[name]) for name in report.drops.present]
    found.append(("Influence", INFLUENCE_MEANING))
    if report.attack_success_rate is not None:
        found.append(("Attack success rate", ATTACK_SUCCESS_MEANING))
    if report.detection is not None:
        meaning = DETECTION_MEANING if report.detection.by is None else NAMED_MEANING
        found.append(("Poisoned clients found", meaning))
    if report.certificate is not None:
        found.append(("Certified accuracy", CERTIFICATE_MEANING))
    return found


def metric_label(name: str) -> str:
    """A metric's short name, or any other key with blanks instead of underscores."""
    return METRIC_NAMES.get(name, name.replace("_", " "))


def format_number(value: float | None, digits: int = 1) -> str:
    """A number for people: fixed digits, never "-0.0"; an undefined one is a dash."""
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def format_duration(seconds: float) -> str:
    """A time span for people: "41 s", "6 min", "2 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def count_kinds(report: Report) -> dict[str, int]:
    """Number of clients of each kind."""
    kinds = [client.kind for client in report.clients]
    return {kind: kinds.count(kind) for kind in KIND_NAMES}


def computing_text(report: Report) -> str:
    """Engine of the clients and device of the server, with what their thread counts mean, and the
    user's own packages."""
    found = f"Clients: engine {report.engine}. Server: device {report.device}."
    if "threads" in found:
        found += " Threads are those of torch, for each client and for the server."
    if report.plugins:
        found += f" Plug-ins: {', '.join(f'{name} {one}' for name, one in report.plugins.items())}."
    return found


def headline(report: Report) -> str:
    """One line that says what was run."""
    kinds, total, rounds = count_kinds(report), report.num_clients, report.rounds
    some = "" if report.participants is None else f"; {len(report.participants)} of them train"
    return (
        f"{report.strategy} · {total} hospital{'s' * (total != 1)} "
        f"({kinds['poisoned']} poisoned, {kinds['noisy']} noisy{some})"
        f" · {rounds} round{'s' * (rounds != 1)} · seed {report.seed}"
    )


def ending_text(report: Report) -> str:
    """That and why the run ended before its last round; empty where it did not."""
    if report.stopping is None:
        return ""
    planned = report.stopping.planned_rounds
    return f"Ended after round {report.rounds} of {planned}: {report.stopping.reason}"


def best_round_text(report: Report) -> str:
    """The best round, where its model was wanted; empty otherwise."""
    if report.best is None:
        return ""
    name = f"{report.best.metric} of the validation images"
    if report.best.round is None:
        return f"No best round: {name} was never defined"
    return (
        f"Best round {report.best.round} of {report.rounds}: {format_number(report.best.value)} % "
        f"{name} (best.safetensors; all else is of the last round)"
    )


def privacy_text(privacy: PrivacySection | None) -> str:
    """The privacy mechanism and its guarantee; empty without one."""
    if privacy is None:
        return ""
    text = f"privacy={privacy.name}: updates no longer than {privacy.clip:g}"
    if privacy.threshold is not None:
        asked = format_count(privacy.participants or 0, "hospital")
        opened = f"of at least {privacy.threshold} of {asked} a round"
        return (
            f"{text}, of which the server saw only sums, {opened}; left out or "
            f"lost: {privacy.dropped}"
        )
    if privacy.epsilon is None:
        return f"{text}, no noise, no guarantee"
    spent = (
        f"epsilon {privacy.epsilon:.3g} after {format_count(privacy.replies, 'reply', 'replies')}, "
        f"{privacy.epsilon_per_reply:.3g} for one"
    )
    return (
        f"{text}, noise {privacy.noise_multiplier:g} x 2 x that; {spent}, at "
        f"delta {privacy.delta:g}"
    )


def uses_text(uses: Mapping[str, int] | None) -> str:
    """The strategy's data beyond the clients' replies, e.g. "root (84 images)"; empty without
    any."""
    return ", ".join(
        f"{name} ({format_count(size, 'image')})" for name, size in sorted((uses or {}).items())
    )


def left_out_text(files: LeftOutFiles | None) -> str:
    """How many files of the data folder are not in the data set, and the first of them; empty where
    there are none."""
    if files is None:
        return ""
    name, reason = next(iter(files.first.items()))
    return f"files left out of the data set: {files.count}, the first is {name} ({reason})"


def drop_text(value: float | None) -> str:
    """A drop; a negative one is called a gain and has no sign."""
    text = format_number(value)
    return f"gain {text.removeprefix('-')}" if text.startswith("-") and value is not None else text


def format_interval(ci95: Sequence[float] | None) -> str:
    """Both ends, or a dash where no interval was computed."""
    return "-" if ci95 is None else f"{format_number(ci95[0])} to {format_number(ci95[1])}"


def drop_rows(drops: DropsSection) -> list[tuple[str, ...]]:
    """Rows under DROP_COLUMNS: of each drop every metric, of the clients' the drop of the medians,
    then COMBINED with its interval."""
    rows: list[tuple[str, ...]] = []
    for name, drop in drops.present.items():
        for place, (metric, one) in enumerate(drop.per_metric.items()):
            change = f"{format_number(one.normal)} → {format_number(one.attack)}"
            rows.append(
                ("" if place else name, metric_label(metric), change, drop_text(one.drop), "")
            )
        if isinstance(drop, ClientsDrop):
            rows.append(("", MEDIANS, "", drop_text(drop.median), ""))
        rows.append(("", COMBINED, "", drop_text(drop.combined), format_interval(drop.ci95)))
    return rows


def drop_notes(drops: DropsSection) -> list[str]:
    """Metrics that were left out or say little, and the clients' drop by kind."""
    notes = [
        f"{name}: left out of Combined: {', '.join(map(metric_label, drop.skipped))}"
        for name, drop in drops.present.items()
        if drop.skipped
    ]
    shaky = {name: ", ".join(unstable_metrics(drop)) for name, drop in drops.present.items()}
    notes += [
        f"{name}: unstable, a ratio to less than {UNSTABLE_BELOW:.0f}: {metrics}"
        for name, metrics in shaky.items()
        if metrics
    ]
    kinds = ", ".join(
        f"{kind} {drop_text(one.combined)} ({one.num_clients})"
        for kind, one in drops.clients.by_kind.items()
    )
    notes.append(f"clients by kind: {kinds}")
    notes.append(f"{MEDIANS}: Combined of the metrics' medians over the clients")
    return [*notes, SELF_REPORTED] if drops.clients.self_reported else notes


def unstable_metrics(drop: ConditionDrop) -> list[str]:
    """Metrics whose normal value is so small that the ratio says little."""
    return [
        metric_label(metric)
        for metric, one in drop.per_metric.items()
        if 0 < (one.normal or 0) < UNSTABLE_BELOW
    ]


def evaluation_names(evaluations: Mapping[str, ConditionMetrics]) -> list[str]:
    """The evaluations, the well-known ones first."""
    names = [name for name in EVALUATION_MEANINGS if name in evaluations]
    return names + sorted(set(evaluations) - set(EVALUATION_MEANINGS))


def evaluation_rows(evaluations: Mapping[str, ConditionMetrics]) -> list[tuple[str, ...]]:
    """A row an evaluation under EVALUATION_COLUMNS."""
    return [
        (
            metric_label(name),
            *(format_number(value) for value in evaluations[name].values.values()),
            str(evaluations[name].n),
        )
        for name in evaluation_names(evaluations)
    ]


def client_name(client: ClientResult) -> str:
    """Its number and, where it stands for sites, their names."""
    sites = client.sites or ((client.site,) if client.site else ())
    return f"{client.id} {' + '.join(sites)}".rstrip()


def client_rows(clients: Sequence[ClientResult]) -> list[tuple[str, ...]]:
    """A row a client under CLIENT_COLUMNS; the second cell is its kind."""
    return [
        (
            client_name(one),
            one.kind,
            str(one.num_examples),
            format_number(one.weight, 3),
            format_number(one.clean.balanced_accuracy),
            format_number(one.contaminated.balanced_accuracy),
            drop_text(one.combined_drop),
        )
        for one in clients
    ]


def disclosure_notes(clients: Sequence[ClientResult]) -> list[str]:
    """What real sites report in the place of their predictions, and what that means for metrics."""
    found: dict[str, list[str]] = {}
    for client in clients:
        if client.disclosure is not None:
            name = str(client.id) if client.site is None else f"{client.id} {client.site}"
            found.setdefault(_disclosure_text(client.disclosure), []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def _disclosure_text(one: DisclosureSection) -> str:
    if one.form == "nothing":
        return f"no result, {one.reason}"
    missing = "no AUROC and no ECE, which need each image's probabilities"
    cell = one.min_cell or 1
    if cell == 1:
        return f"metrics from exact counts; {missing}"
    return (
        f"metrics are estimates from counts in multiples of {format_count(cell, 'image')}, "
        f"undefined where these hold less than half of the images; {missing}; the interval of the "
        "clients' drop does not cover the rounding"
    )


def attack_lines(report: Report) -> list[str]:
    """Attack success rate, detection, and what a sanitiser or a trainer found, where they
    exist."""
    lines = []
    if report.attack_success_rate is not None:
        lines.append(f"attack success rate: {format_number(report.attack_success_rate)}")
    if report.schedule is not None:
        lines.append(schedule_text(report.schedule, report.rounds))
    if report.detection is not None:
        lines.append(
            f"detection of poisoned clients{by_rule(report.detection)}: precision "
            f"{format_number(report.detection.precision)}, recall "
            f"{format_number(report.detection.recall)}"
        )
    if report.named is not None:
        lines.append(named_text(report))
    if report.sanitising is not None:
        lines.append(sanitising_text(report.sanitising))
    lines += certificate_lines(report.certificate)
    if report.label_detection is not None:
        lines.append(label_detection_text(report.label_detection))
    return lines


def named_text(report: Report) -> str:
    """Whom the rule considers contaminated, in one line."""
    by_number = {one.id: one for one in report.clients}
    who = [client_name(by_number[number]) for number in report.named or () if number in by_number]
    return f"considered contaminated by {report.strategy}: {', '.join(who) or 'nobody'}"


def attacked_rounds(found: ScheduleSection) -> str:
    """The rounds in which poisoned clients attacked, e.g. `attacks in rounds 2 to 4, 7`."""
    if not found.attacked:
        return "attacks in no round"
    runs: list[list[int]] = []
    for number in found.attacked:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    named = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    noun = "round" if len(found.attacked) == 1 else "rounds"
    return f"attacks in {noun} {', '.join(named)}"


def schedule_text(found: ScheduleSection, rounds: int) -> str:
    """When poisoned clients attacked, and how long their backdoor lasted, in one line.

    Args:
        found: the report's section.
        rounds: of the run.
    """
    line = f"poisoned clients: {attacked_rounds(found)} of {rounds}"
    if found.durability is None:
        return line
    rates = found.durability.success_rates
    after = format_count(len(rates) - 1, "round")
    lifespan = found.durability.lifespan
    lasted = (
        f"above {LASTING:g} % for the last time {format_count(lifespan, 'round')} after it"
        if lifespan
        else f"never above {LASTING:g} % after it"
    )
    return (
        f"{line}; attack success rate {format_number(rates[0])} % after the last attack, "
        f"{format_number(rates[-1])} % {after} later, {lasted}"
    )


def by_rule(found: DetectionSection) -> str:
    """Words for clients that the rule itself names; empty where their influence tells."""
    return "" if found.by is None else ", which the rule names"


def certificate_lines(found: CertificateSection | None) -> list[str]:
    """The ensemble's accuracy, and its certified accuracy by number of malicious clients; none
    without a certificate."""
    if found is None:
        return []
    kind = "disjoint groups" if found.group_size is None else f"groups of {found.group_size}"
    numbers = ", ".join(
        f"{format_number(one)} ({m})" for m, one in enumerate(found.certified_accuracy)
    )
    return [
        f"ensemble of {found.groups} {kind}: accuracy {format_number(found.accuracy)}; certified "
        f"accuracy against so many malicious clients: {numbers}"
    ]


def sanitising_text(found: SanitisingSection) -> str:
    """The report's section `sanitising` in one line, with what chance would reach."""
    images = max(found.images, 1)
    by_chance = (
        f"by chance {format_number(100 * found.altered / images)} and "
        f"{format_number(100 * found.dropped / images)}"
    )
    outcome = (
        f"precision {format_number(found.precision)}, recall "
        f"{format_number(found.recall)} ({by_chance})"
    )
    left_out = (
        f"{found.dropped} of {format_count(found.images, 'image')}, {found.found} of "
        f"{found.altered} altered"
    )
    return f"sanitising left out {left_out}: {outcome}"


def label_detection_text(found: LabelDetectionSection) -> str:
    """The report's section `label_detection` in one line, with what chance would reach."""
    images = max(found.images, 1)
    by_chance = (
        f"by chance {format_number(100 * found.mislabelled / images)} and "
        f"{format_number(100 * found.suspected / images)}"
    )
    return (
        f"labels suspected: {found.suspected} of {found.images}, {found.found} of "
        f"{found.mislabelled} wrong ones, {found.corrected} corrected: precision "
        f"{format_number(found.precision)}, recall {format_number(found.recall)} ({by_chance})"
    )


def evasion_title(section: EvasionSection) -> str:
    """The heading of the report's section `evasion`."""
    return f"{section.attack} on the global model, {format_count(section.images, 'test image')}"


def evasion_rows(section: AttackedModel) -> list[tuple[str, ...]]:
    """The model's rows under EVASION_COLUMNS, of the report's section `evasion` or its part
    `fusion`: those without an attack first, then by what the attacker knows, by bound and by
    purifier, the undefended model first."""
    cost = None if section.purifier_drop is None else section.purifier_drop.combined
    rows: list[tuple[str, ...]] = [
        (
            "none",
            "-",
            name,
            format_number(one.balanced_accuracy),
            "-",
            "-" if name == "none" else drop_text(cost),
            "-",
        )
        for name, one in sorted(section.clean.items(), key=lambda item: _purifier_rank(item[0]))
    ]
    rows += [
        (
            metric_label(one.threat_model),
            format_eps(one.eps_255),
            one.purifier,
            format_number(one.metrics.balanced_accuracy),
            format_interval(one.balanced_ci95),
            drop_text(one.drop.combined),
            "-" if one.recovered is None else format_number(one.recovered.percent),
        )
        for one in sorted(section.attacks, key=_attack_rank)
    ]
    return rows


def _purifier_rank(name: str) -> tuple[bool, str]:
    return name != "none", name


def _attack_rank(one: AttackOutcome) -> tuple[int, float, tuple[bool, str]]:
    place = list(THREAT_MEANINGS).index(one.threat_model)
    return place, one.eps_255 or 0.0, _purifier_rank(one.purifier)


def fusion_title(section: EvasionSection, fused: FusedModel) -> str:
    """Title of the table on the clients' models fused into one."""
    return (
        f"Evasion: {section.attack} on the "
        f"{format_count(fused.members, 'client model')} fused (MEFF), "
        f"{format_count(section.images, 'test image')}"
    )


def format_eps(eps_255: float | None) -> str:
    """The largest change that an attack may make, in 255ths; a dash for an attack without a
    bound."""
    return "-" if eps_255 is None else f"{eps_255:g}"


def evasion_meanings(section: EvasionSection) -> list[str]:
    """Explanations of the section's attackers and columns."""
    found = {one.threat_model for one in section.attacks}
    return [
        f"{metric_label(name)}: {meaning}"
        for name, meaning in THREAT_MEANINGS.items()
        if name in found
    ] + [EVASION_MEANING]


def member_columns(section: EvasionSection) -> tuple[str, ...]:
    """The columns of the clients' own models: balanced accuracy by bound, without a purifier."""
    return (
        "Client",
        "Kind",
        "no attack",
        *(f"eps {format_eps(one.eps_255)}" for one in _bare(section.clients[0])),
    )


def member_rows(section: EvasionSection, clients: Sequence[ClientResult]) -> list[tuple[str, ...]]:
    """A row a client under `member_columns`. clients: all of the report, for their names."""
    names = {one.id: client_name(one) for one in clients}
    return [
        (
            names.get(one.id, str(one.id)),
            one.kind,
            format_number(one.clean["none"].balanced_accuracy),
            *(format_number(attack.metrics.balanced_accuracy) for attack in _bare(one)),
        )
        for one in section.clients
    ]


def _bare(client: ClientEvasion) -> list[ClientAttackOutcome]:
    return [one for one in client.attacks if one.purifier == "none"][:MOST_BOUNDS]
