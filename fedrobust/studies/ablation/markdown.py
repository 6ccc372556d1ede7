"""ablation.md: the poster's three tables for our data, the poster's own numbers beside them, and
what the poster left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrobust.evaluation.drops import METRICS
from fedrobust.reporting.text import METRIC_TITLES, format_number, metric_label
from fedrobust.studies.ablation.summary import Entry
from fedrobust.studies.comparison.leaderboard import markdown_table
from fedrobust.utils.counting import format_count

FORMULA = (
    "Drop = 100 (normal - attack) / normal for each metric; Combined: mean of "
    "the three; negative: a gain; mean over seeds."
)
POSTER_NOTE = (
    "Poster: its clean and noisy values are the only numbers of three decimals that agree with "
    "what is known of its tables. *By its formula* is what its formula gives for them; *printed* "
    "is its combined column, which mixes units (docs/drops.md)."
)


def page(entries: Entry, pictures: Sequence[str]) -> str:
    """The whole page from what stands in ablation.json; pictures: their file names."""
    parts = [
        heading(entries),
        experiment_1(entries),
        experiment_2(entries),
        drops(entries),
        others(entries),
    ]
    parts += [grades(entries)] if entries["grades"] else []
    parts += [poisonings(entries)] if entries["poisonings"] else []
    parts += [scenarios(entries)] if entries["scenarios"] else []
    parts += [
        *(f"![{name}]({name})" for name in pictures),
        pairs(entries),
        training(entries),
        *failures(entries),
    ]
    return "\n\n".join(parts) + "\n"


def value(one: Mapping[str, Any] | None) -> str:
    """12.3 [10.1, 14.8], a dash where undefined, nothing where there is nothing to say."""
    if one is None:
        return ""
    return format_number(one["value"]) + (
        ""
        if one["low"] is None
        else f" [{format_number(one['low'])}, {format_number(one['high'])}]"
    )


def heading(entries: Entry) -> str:
    """Heading: models, data, and how to read the tables."""
    data, shared, seeds = entries["data"], entries["training_settings"], entries["seeds"]
    sizes = " : ".join(str(size) for size in data["splits"])
    pixels = f", {data['size']} x {data['size']} pixels" if data["size"] else ""
    stop = (
        f", early stopping after {format_count(shared['early_stopping'], 'epoch')}"
        if shared["early_stopping"]
        else ""
    )
    over = (
        "seeds and test images"
        if len(seeds) > 1
        else "**test images only: one seed says nothing about other seeds**"
    )
    lines = [
        "# Ablation, trained centrally",
        "",
        f"{backbone(entries['model'])} on {data['name']}{pixels}: {sizes} images for training, "
        f"validation and test; {len(data['classes'])} classes; seeds {', '.join(map(str, seeds))}. "
        f"{shared['optimizer']['name']}, learning rate {shared['optimizer'].get('lr')}, batches of "
        f"{shared['batch_size']}, at most {format_count(shared['epochs'], 'epoch')}{stop}.",
        "",
        (
            f"All values in %. In brackets: 95 % intervals from {entries['draws']} paired "
            f"bootstrap replicates over {over}."
        ),
        "",
        markdown_table(
            ["Model", "Settings"],
            [[model, f"`{words}`"] for model, words in entries["models"].items()],
        ),
    ]
    return "\n".join(lines)


def backbone(model: Mapping[str, Any]) -> str:
    """Its name, and the keywords that make it another network than timm's of that name."""
    options = ", ".join(f"{key} {value}" for key, value in (model.get("options") or {}).items())
    return (
        str(model.get("name", "the model"))
        + (f" ({options})" if options else "")
        + (", pretrained," if model.get("pretrained") else "")
    )


def experiment_1(entries: Entry) -> str:
    """The poster's first table."""
    return _level_table(entries, "## Experiment 1: clean test images", "clean", "")


def experiment_2(entries: Entry) -> str:
    """The poster's second table."""
    chosen = {
        key: value
        for key, value in entries["noise_settings"].items()
        if key != "_target_" and value is not None
    }
    name = entries["noise_settings"]["_target_"].rpartition(".")[2]
    words = ", ".join(f"{key} {value}" for key, value in chosen.items())
    note = (
        f"The same images under `{name}` ({words}; in units of the image range [0, "
        "1], before any normalisation)."
    )
    return _level_table(entries, "## Experiment 2: noisy test images", "corrupted", note)


def _level_table(entries: Entry, title: str, condition: str, note: str) -> str:
    rows = []
    for model in entries["models"]:
        own = [value(entries["levels"][condition][model][metric]) for metric in METRICS]
        printed = entries["poster"].get(model)
        rows.append(
            [
                model,
                *own,
                *(
                    format_number(printed[condition][metric]) if printed else ""
                    for metric in METRICS
                ),
            ]
        )
    columns = [
        "Model",
        *(METRIC_TITLES[metric] for metric in METRICS),
        *(f"poster: {METRIC_TITLES[metric]}" for metric in METRICS),
    ]
    return "\n".join([title, "", *([note, ""] if note else []), markdown_table(columns, rows)])


def drops(entries: Entry) -> str:
    """The poster's third table, with its combined column by its formula and as it was
    printed."""
    rows = []
    for model, one in entries["noise"].items():
        printed = entries["poster"].get(model)
        theirs = (
            [
                format_number(printed["combined_by_formula"]),
                format_number(printed["combined_printed"], 2),
            ]
            if printed
            else ["", ""]
        )
        own = [format_number(one[metric]) for metric in METRICS]
        rows.append(
            [model, *own, f"**{value(one['combined'])}**", value(one["minus_first"]), *theirs]
        )
    first = next(iter(entries["models"]))
    names = [METRIC_TITLES[metric] for metric in METRICS]
    columns = [
        "Model",
        *names,
        "Combined",
        f"minus {first}'s",
        "poster: by its formula",
        "poster: printed",
    ]
    return "\n".join(
        [
            "## Drop from Experiment 1 to Experiment 2",
            "",
            f"{FORMULA} {POSTER_NOTE}",
            "",
            markdown_table(columns, rows),
        ]
    )


def others(entries: Entry) -> str:
    """Metrics that the poster has not."""
    rows = []
    for model in entries["models"]:
        cells = [entries["levels"][condition][model] for condition in ("clean", "corrupted")]
        rows.append(
            [
                model,
                *(
                    value(one[metric])
                    for metric in ("balanced_accuracy", "auroc", "ece")
                    for one in cells
                ),
            ]
        )
    columns = [
        "Model",
        *(
            f"{metric_label(metric)}, {word}"
            for metric in ("balanced_accuracy", "auroc", "ece")
            for word in ("clean", "noisy")
        ),
    ]
    return "\n".join(
        [
            "## Other metrics",
            "",
            "AUROC and ECE: mean over seeds, without an interval.",
            "",
            markdown_table(columns, rows),
        ]
    )


def grades(entries: Entry) -> str:
    """Combined drops under noise of rising severity."""
    names = list(entries["grades"])
    rows = [
        [model, *(value(entries["grades"][name][model]["combined"]) for name in names)]
        for model in entries["models"]
    ]
    columns = ["Model", *(f"severity {name.rpartition('_s')[2]}" for name in names)]
    return "\n".join(
        [
            "## Graded noise",
            "",
            "Combined drop from clean test images.",
            "",
            markdown_table(columns, rows),
        ]
    )


def poisonings(entries: Entry) -> str:
    """Drops on clean test images after poisoned training."""
    names = list(entries["poisonings"])
    rows = [
        [
            model,
            *(value(entries["poisonings"][name]["models"][model]["combined"]) for name in names),
        ]
        for model in entries["models"]
    ]
    kept = [
        [
            model,
            *(
                format_number(entries["poisonings"][name]["models"][model]["balanced_accuracy"])
                for name in names
            ),
        ]
        for model in entries["models"]
    ]
    note = (
        "Combined drop from the clean training to the poisoned one of the same "
        "seed, both on clean test images. Validation data are too."
    )
    lines = ["## Poisoned training data", "", note, "", markdown_table(["Model", *names], rows), ""]
    return "\n".join(
        [
            *lines,
            "Balanced accuracy that is left, mean over seeds:",
            "",
            markdown_table(["Model", *names], kept),
        ]
    )


def scenarios(entries: Entry) -> str:
    """Drops under clinical scenarios at test time: the mean over severities of each, then each
    severity."""
    families = entries["scenarios"]
    lines = [
        "## Scenarios at test time",
        "",
        "Combined drop from clean test images, mean over the severities below.",
        "",
    ]
    rows = [
        [model, *(value(one["mean"][model]["combined"]) for one in families.values())]
        for model in entries["models"]
    ]
    lines += [
        markdown_table(["Model", *families], rows),
        "",
        "By severity, without intervals (ablation.json has them):",
        "",
    ]
    steps = [(family, step) for family, one in families.items() for step in one["steps"]]
    columns = [
        family if step["severity"] is None else f"{family} {step['severity']}"
        for family, step in steps
    ]
    by_step = [
        [model, *(format_number(step["models"][model]["combined"]["value"]) for _, step in steps)]
        for model in entries["models"]
    ]
    return "\n".join([*lines, markdown_table(["Model", *columns], by_step)])


def pairs(entries: Entry) -> str:
    """Pairs of models whose drops differ."""
    lines = ["## Which models differ", ""]
    lines += [
        (
            "Models that share a letter do not differ in their mean drop (paired "
            "bootstrap, Holm over all pairs, 5 %)."
        )
    ]
    lines += ["Sharing a letter does not show that they are equally good.", ""]
    named = entries["comparisons"]
    rows = [
        [
            model,
            *(
                f"{value(one['means'][model])} {one['letters'].get(model, '-')}"
                for one in named.values()
            ),
        ]
        for model in entries["models"]
    ]
    return "\n".join(
        [*lines, markdown_table(["Model", *(f"mean drop: {name}" for name in named)], rows)]
    )


def training(entries: Entry) -> str:
    """Duration of the clean trainings."""
    rows = []
    for model, one in entries["training"].items():
        epochs = ", ".join(format_number(count, 0) for count in one["epochs"])
        rows.append(
            [model, epochs, ", ".join(format_number(seconds, 0) for seconds in one["seconds"])]
        )
    note = (
        "Clean trainings by seed. A cohort's epochs and seconds are those of all "
        "its members together."
    )
    return "\n".join(
        ["## Training", "", note, "", markdown_table(["Model", "Epochs", "Seconds"], rows)]
    )


def failures(entries: Entry) -> list[str]:
    """Trainings without a result, and why."""
    if not entries["failed"]:
        return []
    return [
        "\n".join(
            [
                "## Failed",
                "",
                markdown_table(
                    ["Training", "Reason"], [list(one) for one in entries["failed"].items()]
                ),
            ]
        )
    ]
