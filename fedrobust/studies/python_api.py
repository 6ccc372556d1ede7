"""Runs and comparisons from Python: `fedrobust.run(...)`, `fedrobust.compare(...)`, and
`fedrobust.load(folder)` for a finished run."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fedrobust.errors import ConfigError, DataError
from fedrobust.experiment import compose
from fedrobust.experiment.callables import named_functions
from fedrobust.experiment.factories import build_group
from fedrobust.experiment.old_names import rename_config
from fedrobust.experiment.overrides import settings_among
from fedrobust.experiment.own_choices import check_plugins, foreign_packages
from fedrobust.experiment.run_options import NAMES, RunOptions, split_options
from fedrobust.reporting.console import ResultConsole, make_console
from fedrobust.reporting.filenames import MANIFEST, PAGE, REPORT
from fedrobust.reporting.predictions import Predictions, read_predictions
from fedrobust.reporting.records import read_rounds, round_line
from fedrobust.reporting.report import Report, read_report
from fedrobust.reporting.report.sections import ClientResult
from fedrobust.reporting.spreads import MEASURES
from fedrobust.runtime import resume as resumption
from fedrobust.runtime.simulation import (
    explain_interruption,
    resume_job,
    run_job,
    show_result,
    used_images,
)
from fedrobust.studies.comparison.grid import read_grid
from fedrobust.studies.comparison.page import PAGE_FILE
from fedrobust.studies.comparison.run import DIFFERENCES, LEADERBOARD, RESULTS, read_ranking
from fedrobust.studies.comparison.run import compare as run_comparison
from fedrobust.studies.model_export import export_model
from fedrobust.studies.trained_model import TrainedModel, load_model
from fedrobust.utils.locking import is_empty
from fedrobust.utils.notices import hold_lines
from fedrobust.utils.plugins import PLUGINS

Table = Literal["clients", "rounds", "metrics", "drops", "fairness"]
CALLED = "fedrobust.run"  # what a manifest says was called


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: its output folder.
        report: the content of report.json, typed.
        plugins: packages that were named for it, in which the factory of its model may lie.
    """

    folder: Path
    report: Report
    plugins: tuple[str, ...] = ()

    def frame(self, table: Table = "clients") -> pd.DataFrame:
        """One of the run's tables.

        Args:
            table: clients: one row a client, its metrics clean and contaminated, those of its own
                model where it has one (own_clean_accuracy, ...), its drop and its weight. rounds:
                one row a round, the global model's metrics and seconds. metrics: one row an
                evaluation of the final models on the test images. drops: one row a drop, with its
                interval. fairness: one row an evaluation (or drop), quantity and measure: worst
                case and spread over hospitals and classes (docs/drops.md). All metrics and drops in
                percent, spreads in percentage points.

        Raises:
            ConfigError: there is no such table.
        """
        make = {
            "clients": self._clients,
            "rounds": self._rounds,
            "metrics": self._metrics,
            "drops": self._drops,
            "fairness": self._fairness,
        }
        if table not in make:
            raise ConfigError(f"table={table}: must be one of {', '.join(make)}")
        return make[table]()

    def _clients(self) -> pd.DataFrame:
        rows = [
            {
                "client": one.id,
                "kind": one.kind,
                "sites": " + ".join(one.sites or ()) or None,
                "num_examples": one.num_examples,
                **_named("clean", one.clean.values),
                **_named("contaminated", one.contaminated.values),
                **_own_model(one),
                "combined_drop": one.combined_drop,
                "weight": one.weight,
            }
            for one in self.report.clients
        ]
        return pd.DataFrame(rows).set_index("client")

    def _rounds(self) -> pd.DataFrame:
        lines = [round_line("run", record) for record in read_rounds(self.folder)]
        rows = [
            {
                "round": line["round"],
                **line["metrics"],
                **{f"seconds_{stage}": value for stage, value in line["seconds"].items()},
            }
            for line in lines
        ]
        return pd.DataFrame(rows).set_index("round")

    def _metrics(self) -> pd.DataFrame:
        rows = {
            name: {**found.values, "n": found.n} for name, found in self.report.evaluations.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("evaluation")

    def _drops(self) -> pd.DataFrame:
        rows = {}
        for name, drop in self.report.drops.present.items():
            low, high = drop.ci95 or (None, None)
            parts = {metric: one.drop for metric, one in drop.per_metric.items()}
            rows[name] = {**parts, "combined": drop.combined, "low": low, "high": high}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("drop")

    def _fairness(self) -> pd.DataFrame:
        section = self.report.fairness
        parts: dict[str, Mapping[str, Any]] = {}
        if section is not None:
            parts |= section.evaluations
            parts |= {f"drop {name}": one for name, one in section.drops.items()}
        rows = [
            {
                "of": name,
                "quantity": quantity,
                "measure": measure,
                "value": getattr(spread, measure).value,
                "low": (getattr(spread, measure).ci95 or (None, None))[0],
                "high": (getattr(spread, measure).ci95 or (None, None))[1],
                "worst_member": getattr(spread, "worst_member", None),
            }
            for name, quantities in parts.items()
            for quantity, spread in quantities.items()
            for measure in MEASURES
        ]
        columns = ["of", "quantity", "measure", "value", "low", "high", "worst_member"]
        return pd.DataFrame(rows, columns=columns).set_index(columns[:3])

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json: configuration, seed, versions, facts of the data."""
        found = _read_json(self.folder / MANIFEST)
        assert isinstance(found, dict)
        return found

    @cached_property
    def predictions(self) -> Predictions:
        """Class probabilities of the test images, of all together and of every client's own."""
        return read_predictions(self.folder)

    def model(self, *, best: bool = False) -> TrainedModel:
        """The global model, a torch module that turns images into class probabilities.

        Args:
            best: that of the best round (`report.best`) instead of the last one; needs a run with
                evaluation.best_metric.

        Raises:
            DataError: the model's file is missing or damaged.
            ConfigError: the model is a plug-in's that was not named (`load(..., plugins=...)`).
        """
        return load_model(self.folder, self.manifest, self.plugins, best=best)

    def export(
        self, form: Literal["onnx", "timm"], path: str | Path | None = None, *, best: bool = False
    ) -> Path:
        """Write the global model for other programs.

        Args:
            form: onnx: images (B, 3, S, S), floats in [0, 1], to class probabilities; needs the
                extra `onnx`. timm: the backbone's weights under timm's names, a safetensors file.
            path: of the file; None: model.onnx or model_timm.safetensors in the run's folder, of
                the best round best.onnx or best_timm.safetensors.
            best: the model of the best round, as of `model`.

        Returns:
            The path.

        Raises:
            DataError: there is no model of a best round, or its file is damaged.
            ConfigError: the form is unknown, the extra is missing, or the model is no single timm
                backbone.
        """
        place = self.folder if path is None else Path(path)
        return export_model(self.model(best=best), form, place, "best" if best else "model")

    def show(self) -> None:
        """Print the tables that ended the run, and where its page is."""
        show_result(ResultConsole(), self.report, self.used_images, self.folder)

    @cached_property
    def used_images(self) -> dict[str, int]:
        """The server's extra images that the run used, e.g. {"root": 84, "proxy": 300}."""
        config, data = rename_config(self.manifest["config"]), self.manifest["data"]
        strategy = build_group(self._with_known_plugins(config), "strategy")
        sizes = {name: int(data[name]) for name in ("root", "proxy")}
        return used_images(strategy, config["server"]["batchnorm"], sizes)

    def _with_known_plugins(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The strategy with the plug-ins that it needs. Raises ConfigError where one is not
        named."""
        strategy = {"strategy": config["strategy"]}
        needed = {PLUGINS: sorted(foreign_packages(strategy))}
        check_plugins(needed, self.plugins, self.folder / MANIFEST)
        return strategy | needed

    def open_page(self) -> bool:
        """Open report.html in the browser. Returns whether one could be started."""
        return webbrowser.open((self.folder / PAGE).resolve().as_uri())

    def __repr__(self) -> str:
        drop = self.report.drops.present.get("poisoning") or self.report.drops.corruption
        return (
            f"Run({str(self.folder)!r}, strategy={self.report.strategy}, "
            f"num_clients={self.report.num_clients}, poisoned={len(self.report.poisoned)}, "
            f"combined drop={drop.combined})"
        )


@dataclass(frozen=True)
class Comparison:
    """A comparison of strategies.

    Attributes:
        folder: its output folder.
        failed: cells that failed, with the reasons; they are in no ranking.
    """

    folder: Path
    failed: Mapping[str, str]

    def frame(self) -> pd.DataFrame:
        """results.csv: one row a cell and metric."""
        return pd.read_csv(self.folder / RESULTS)

    def leaderboard(self, poisoned: int | None = None) -> pd.DataFrame:
        """The rules, the best first: combined poisoning drop in percent, by attack, its mean over
        attacks with the 95 % interval, the worst attack, and the group of rules that do not differ.

        Args:
            poisoned: number of poisoned clients; None: the largest of the comparison.

        Raises:
            ConfigError: the comparison has no cell with so many.
        """
        table = read_ranking(self.folder)
        counts = sorted(table["poisoned"].unique())
        wanted = (counts or [0])[-1] if poisoned is None else poisoned
        if wanted not in counts:
            found = ", ".join(map(str, counts)) or "none, since no client was poisoned"
            raise ConfigError(f"poisoned={wanted}: has no ranking; those that do: {found}")
        return table[table["poisoned"] == wanted].set_index("rule")

    def differences(self) -> pd.DataFrame:
        """Every pair of rules: the difference of their means, its interval, p, and p after Holm."""
        return pd.read_csv(self.folder / DIFFERENCES)

    def open_page(self) -> bool:
        """Open leaderboard.html in the browser. Returns whether one could be started."""
        return webbrowser.open((self.folder / PAGE_FILE).resolve().as_uri())

    def show(self) -> None:
        """Print leaderboard.md."""
        print((self.folder / LEADERBOARD).read_text(encoding="utf-8"))


@hold_lines()
def compare(*overrides: str, out: str | Path | None = None, **settings: Any) -> Comparison:
    """Run strategies under contaminations and rank them, as `python -m fedrobust.compare` does.

    `fedrobust.compare("experiment=quick", strategies=["fedavg", "krum"], poisoned=3)`.
    What is finished in the folder is not run again, so the same call resumes.

    Args:
        overrides: as on the command line.
        out: output folder; None: that of the settings.
        settings: further overrides by name; the lists may hold functions of your own (see `run`).

    Returns:
        The comparison; cells that failed are named in it.

    Raises:
        ConfigError: a setting is wrong; nothing was written.
        DataError: the data cannot be used.
    """
    if out is not None:
        settings = {**settings, "out": str(out)}
    options, overrides, settings = _split_options(overrides, settings)
    with named_functions(overrides, settings) as (words, plain):
        grid = read_grid([*words, *(override(key, one) for key, one in plain.items())])
        failed = run_comparison(grid, make_console(quiet=options.quiet))
    return Comparison(grid.out, {str(cell): reason for cell, reason in failed.items()})


@hold_lines()
def run(*overrides: str, folder: str | Path | None = None, **settings: Any) -> Run:
    """Train and evaluate one federation, as `python -m fedrobust.simulate` does.

    `fedrobust.run("experiment=quick", "client.epochs=3", num_clients=10, poisoned=3)`. Progress is
    shown. An interrupted run can be resumed: `fedrobust.run(resume=folder)`.

    Args:
        overrides: as on the command line, e.g. "contamination=backdoor_patch".
        folder: output folder, new or empty; None: outputs/<date>/<time>.
        settings: further overrides by name, e.g. poisoned=[0, 4], strategy="krum". For a group
            also a function of your own that makes what the group holds, strategy=my_rule; it must
            stand in a module that workers and a resumed run can import.

    Returns:
        The finished run.

    Raises:
        ConfigError: a setting is wrong; nothing was written.
        DataError: the data cannot be used.
        RunError: the run failed.
    """
    options, overrides, settings = _split_options(overrides, settings)
    if resumption.is_resume_requested([*overrides, *(f"{key}=" for key in settings)]):
        words = [f"{key}={_resumed(one)}" for key, one in settings.items()]
        return _resume([*overrides, *words], folder, quiet=options.quiet)
    with named_functions(overrides, settings) as (given, plain):
        words = [*given, *(override(key, one) for key, one in plain.items())]
        words = compose.check_command_line(words)
        if strange := sorted(set(words) - set(settings_among(words))):
            raise ConfigError(f"{strange[0]}: is an option of the command line; give settings only")
        config = compose.compose(*words)
    place = Path(folder).expanduser() if folder is not None else _new_folder()
    if place.exists() and not is_empty(place):
        raise ConfigError(f"folder={place}: already holds files; nothing was written over")
    with explain_interruption(place):
        run_job(config, place, [CALLED, *words], quiet=options.quiet)
    return load(place, config[PLUGINS])


def _split_options(
    overrides: Sequence[str], settings: Mapping[str, Any]
) -> tuple[RunOptions, tuple[str, ...], dict[str, Any]]:
    """How a call runs, and what is left of its words and settings. Raises ConfigError."""
    given = [override(name, settings[name]) for name in NAMES if name in settings]
    options, words = split_options([*overrides, *given])
    if options.dry_run:
        raise ConfigError("dry_run=true: is for the command line; leave it out")
    left = {key: one for key, one in settings.items() if key not in NAMES}
    return options, tuple(words), left


def load(folder: str | Path, plugins: Sequence[str] = ()) -> Run:
    """A finished run.

    Args:
        folder: its output folder.
        plugins: your own packages that its model needs: a folder alone makes no code run.

    Raises:
        DataError: the folder holds no finished run, or a damaged one.
    """
    place = Path(folder).expanduser()
    if not (place / REPORT).is_file():
        unfinished = (place / MANIFEST).is_file()
        remedy = (
            f"its run is not finished; resume it with {resumption.resume_command(place)}"
            if unfinished
            else "give the output folder of a finished run"
        )
        raise DataError(f"{place}: holds no {REPORT}; {remedy}")
    return Run(place, read_report(place), tuple(plugins))


def override(key: str, value: Any) -> str:
    """A setting as a word of the command line.

    Args:
        key: e.g. "poisoned".
        value: None, a truth value, a number, a text, or lists and mappings of these.

    Raises:
        ConfigError: the value is of another type.
    """
    return f"{key}={_literal(key, value)}"


def _literal(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, Path)):
        return compose.quote_text(str(value))
    if isinstance(value, Mapping):
        inner = (f"{name}: {_literal(key, one)}" for name, one in value.items())
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_literal(key, one) for one in value) + "]"
    raise ConfigError(
        f"{key}={value!r}: must be None, a truth value, a number, a text, a list or a mapping"
    )


def _resumed(value: Any) -> str:
    """A value beside resume, where a path stands as it is."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _resume(words: Sequence[str], folder: str | Path | None, *, quiet: bool) -> Run:
    if folder is not None:
        raise ConfigError(f"folder={folder}: cannot be given beside resume, which names the folder")
    asked = resumption.read_request(words)
    with explain_interruption(asked.folder):
        resume_job(asked, quiet=quiet)
    return load(asked.folder, asked.manifest["config"].get(PLUGINS, []))


def _new_folder() -> Path:
    """The folder of now, as the command line has it; of two in one second the later is numbered."""
    base = Path(f"{datetime.now():outputs/%Y-%m-%d/%H-%M-%S}")
    place, number = base, 1
    while place.exists() and not is_empty(place):
        place, number = base.with_name(f"{base.name}-{number}"), number + 1
    return place


def _named(condition: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{condition}_{name}": value for name, value in values.items()}


def _own_model(client: ClientResult) -> dict[str, Any]:
    """Metrics of the client's own model, and of its own of the clean twin; none without one."""
    own = client.personal
    if own is None:
        return {}
    found = {name: getattr(own, name) for name in type(own).model_fields}
    return {
        key: value
        for name, metrics in found.items()
        if metrics is not None
        for key, value in _named(f"own_{name}", metrics.values).items()
    }


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
