"""From the words of a command line to what an ablation does: models by poisonings by seeds to
train, scenarios to evaluate them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fedrobust.errors import ConfigError
from fedrobust.experiment import compose as settings
from fedrobust.studies.comparison.grid import (
    NOBODY,
    Choices,
    Grid,
    GridSettings,
    Numbers,
    Variant,
    as_list,
    config_digest,
    make_grid,
    own_engine,
    sort_words,
    variants,
)
from fedrobust.utils.validation import Words, check_settings, make_settings

BLOCK = "ablation"
REPLACEMENTS = {"seed": "seeds=[...]", "contamination": "poisonings=[...]"}
NOT_CENTRAL = {
    *(
        "num_clients",
        "clients_per_round",
        "participants",
        "poisoned",
        "noisy",
        "noise",
        "rounds",
        "partition",
        "strategy",
    ),
    *("preaggregation", "server_optimizer", "server", "stop_when", "schedule", "certificate"),
}
# Central training is a federation of one site with all the data, which trains once and whose model
# is the global one.
CENTRAL = (
    *(
        "num_clients=1",
        "clients_per_round=null",
        "noisy=0",
        "rounds=1",
        "partition=iid",
        "strategy=fedavg",
    ),
    *(
        "preaggregation=none",
        "server_optimizer=none",
        "server.root_per_class=0",
        "server.proxy_images=0",
        "server.batchnorm=mean",
    ),
    *("server.checkpoint_every=0", "server.round_timeout=31536000"),
)
CORRUPTION = "contamination@corruption"
OptionalChoices = Annotated[
    str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None,
    Words("a list of choices, or of {a name: the settings that it stands for}"),
]
RESERVED = ("clean", "corrupted", "twin_")  # first words of the names of a run's own conditions


@check_settings("")
@dataclass(frozen=True, slots=True, kw_only=True)
class AblationSettings(GridSettings):
    """The block `ablation` of a configuration.

    Attributes:
        models: what is trained, the first being what the others are compared with; a choice of
            model, or as in {ETF: 'client.rect=false'}. Names of the poster get its values beside
            their own
        poisonings: what is done to training and validation data: choices of contamination, or as
            in {wrong: 'contamination=label_error contamination.rate=0.1'}; []: nothing
        scenarios: what is done to test images beside the noise of Experiment 2, which is
            contamination@corruption: likewise; []: nothing
        severities: of the scenarios that have one
    """

    models: Choices
    poisonings: OptionalChoices
    scenarios: OptionalChoices
    severities: Numbers


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing done to test images. family: its name in the plan; severity: None where it has
    none; settings: of the contamination."""

    family: str
    severity: int | None
    settings: Mapping[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return self.family if self.severity is None else f"{self.family} {self.severity}"

    @property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return config_digest(self.settings)


@dataclass(frozen=True, slots=True)
class Plan:
    """grid: its strategies are the models, its contaminations the poisonings."""

    grid: Grid
    scenarios: tuple[Scenario, ...]

    @property
    def models(self) -> list[str]:
        return [one.name for one in self.grid.strategies]

    @property
    def poisonings(self) -> list[str]:
        return [one.name for one in self.grid.contaminations]

    @property
    def families(self) -> dict[str, list[Scenario]]:
        """The scenarios by family, in the order of the plan."""
        found: dict[str, list[Scenario]] = {}
        for one in self.scenarios:
            found.setdefault(one.family, []).append(one)
        return found


def read_plan(words: Sequence[str]) -> Plan:
    """The plan of a command line, its own settings checked, those of the trainings not. Raises
    ConfigError."""
    own, others = sort_words(words, BLOCK, AblationSettings, REPLACEMENTS)
    _refuse_federated(others)
    settings.check_command_line(words)
    _, block = settings.compose_comparison(*others, *own, name=BLOCK)
    asked = make_settings(BLOCK, block, AblationSettings)
    poisonings = _optional("poisonings", "contamination", asked.poisonings)
    if NOBODY in [one.name for one in poisonings]:
        raise ConfigError(
            f"poisonings: {NOBODY} is the name of clean trainings; choose another name"
        )
    models = variants("models", "model", asked.models)
    _refuse_federated([word for one in (*models, *poisonings) for word in one.words])
    given = (
        others
        if any(word.startswith("experiment=") for word in others)
        else ["experiment=poster", *others]
    )
    grid = make_grid(
        asked,
        strategies=models,
        contaminations=poisonings,
        poisoned=(0, 1) if poisonings else (0,),
        words=(*own_engine(others, asked.threads), *given, *CENTRAL),
    )
    return Plan(grid, _scenarios(grid, asked))


def _refuse_federated(words: Sequence[str]) -> None:
    for word in words:
        if word.lstrip("+~").partition("=")[0].split(".")[0].split("@")[-1] in NOT_CENTRAL:
            raise ConfigError(
                f"{word}: belongs to a federation, and an ablation trains centrally; leave it out"
            )


def _optional(key: str, group: str, value: Any) -> tuple[Variant, ...]:
    return () if value is None or value == [] else variants(key, group, value)


def _scenarios(grid: Grid, asked: AblationSettings) -> tuple[Scenario, ...]:
    """Every scenario at every severity, those that have none once. Raises ConfigError and Hydra's
    errors."""
    graded = sorted(as_list(asked.severities))
    found = []
    for variant in _optional("scenarios", CORRUPTION, asked.scenarios):
        chosen = settings.compose(*grid.words, *variant.words)["corruption"]
        steps = graded if "severity" in chosen else [None]
        found += [
            Scenario(variant.name, step, chosen if step is None else {**chosen, "severity": step})
            for step in steps
        ]
    names = [str(one) for one in found]
    if twice := {name for name in names if names.count(name) > 1} | {
        name for name in names if name.startswith(RESERVED)
    }:
        raise ConfigError(
            f"scenarios: {twice.pop()} is the name of something else; choose another name"
        )
    return tuple(found)
