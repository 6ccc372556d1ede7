"""The configuration as typed, checked values (each setting once: type, range, default and meaning),
and as canonical text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
)

from fedrobust.errors import ConfigError
from fedrobust.evaluation.settings import ValidationMetric
from fedrobust.experiment.old_names import rename_config
from fedrobust.utils import strict_json
from fedrobust.utils.names import did_you_mean
from fedrobust.utils.plugins import PLUGINS, named_in
from fedrobust.utils.validation import (
    REQUIRED,
    Count,
    PositiveCount,
    PositiveShare,
    Words,
    check,
)

MOST_CLIENTS = 1_000_000  # lists of all clients must fit into memory for any configured number
MOST = 2**64 - 1  # of any whole number: what floats can hold and arrays be counted in
# Settings that cannot change a clean run's weights: who computes does not matter, only the device
# and the threads do.
_IRRELEVANT = frozenset(
    {
        *("contamination", "noise", "corruption", "evaluation", "evasion", "purifier", "engine"),
        *("tracker", "stop_when", "schedule", "certificate"),
        PLUGINS,  # which of them a setting needs, that setting says
    }
)
_IRRELEVANT_OF_THE_SERVER = frozenset({"checkpoint_every", "keep_checkpoints", "max_share"})

Whole = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(ge=1, le=MOST)]


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """One group of the configuration: `_target_`, the factory, and that factory's own settings."""

    written: Mapping[str, Any]

    @property
    def target(self) -> str:
        """The factory with its module."""
        return str(self.written["_target_"])

    @property
    def factory(self) -> str:
        """The factory's name."""
        return self.target.rpartition(".")[2]

    def get(self, name: str, default: Any = None) -> Any:
        """One of its settings; `default` where it was not written."""
        return self.written.get(name, default)


def _as_group(written: Any, info: ValidationInfo) -> GroupSettings:
    if not isinstance(written, Mapping) or "_target_" not in written:
        raise ConfigError(
            f"{info.field_name}={written}: must be a group with a _target_; "
            f"see configs/{info.field_name}"
        )
    return GroupSettings(written)


def _as_clients(written: Any, info: ValidationInfo) -> int | tuple[int, ...]:
    """A number of clients, or their ids without doubles."""
    key = str(info.field_name)
    if not isinstance(written, list):
        return int(check(key, written, Count))
    for client in written:
        check(key, client, Count)
    if len(set(written)) != len(written):
        raise ConfigError(f"{key}={written}: names a client twice; name each once")
    return tuple(written)


def _as_participation(written: Any, info: ValidationInfo) -> int | float | None:
    """A share of the clients, a number of them, or all."""
    key = str(info.field_name)
    if isinstance(written, float):
        return float(check(key, written, PositiveShare))
    return None if written is None else int(check(key, written, PositiveCount))


def _as_participants(written: Any, info: ValidationInfo) -> tuple[int, ...] | None:
    """Ids of clients in ascending order, at least one; None: all."""
    key = str(info.field_name)
    if written is None:
        return None
    if not isinstance(written, list) or not written:
        raise ConfigError(f"{key}={written}: must be a list of at least one id, or null for all")
    found = _as_clients(written, info)
    assert isinstance(found, tuple)
    return tuple(sorted(found))


def _as_plugins(written: Any) -> tuple[str, ...]:
    names = named_in(written)
    for name in names:
        if not name.isidentifier():
            raise ConfigError(
                f"{PLUGINS}={written}: must be names of packages, without dots, e.g. mylab"
            )
    return tuple(names)


Group = Annotated[GroupSettings, BeforeValidator(_as_group)]
Clients = Annotated[
    int | tuple[int, ...],
    PlainValidator(_as_clients),
    Words("whole number from 0 to num_clients, or list of ids"),
]
Participation = Annotated[
    int | float | None,
    PlainValidator(_as_participation),
    Words("whole number from 1 to num_clients, share in (0, 1]"),
]
Participants = Annotated[
    tuple[int, ...] | None, PlainValidator(_as_participants), Words("list of ids, or null")
]
PluginNames = Annotated[
    tuple[str, ...],
    PlainValidator(_as_plugins),
    Words("list of packages that can be imported"),
]


class _Settings(BaseModel):
    """Strict: no value is turned into another type. Frozen: nothing changes while a run lasts."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ServerSettings(_Settings):
    """Settings of the server besides its rule: `server.*`."""

    root_per_class: Whole = Field(
        8, description="trusted labelled images per class, taken from the training images"
    )
    proxy_images: Whole = Field(
        64, description="images for distillation and BatchNorm statistics, taken likewise"
    )
    batchnorm: Literal["mean", "local", "recalibrate"] = Field(
        "recalibrate",
        description="BatchNorm statistics of the global model; recalibrate: on the proxy images",
    )
    max_failures: Whole = Field(
        0, description="a round may lose this many clients before the run is ended"
    )
    max_examples: Positive = Field(
        1_000_000, description="a client that claims more training images counts as having so many"
    )
    max_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of all real sites' training images, as they say, that one site counts "
        "for at most; null: twice an equal share, at least a half; 1: no limit",
    )
    round_timeout: float = Field(
        3600, gt=0, description="seconds after which a client without a reply counts as failed"
    )
    checkpoint_every: Whole = Field(
        1, description="rounds between two checkpoints, from which a run is resumed; 0: none"
    )
    keep_checkpoints: Positive = Field(2, description="how many are kept while the run lasts")
    max_updates_mb: Whole = Field(
        2048, description="MiB above which the matrix of updates lies in a file, not in RAM"
    )
    scratch_dir: str | None = Field(
        None, description="a folder for that file, or null for the system's temporary one"
    )


class StopSettings(_Settings):
    """When a run ends before its last round: `stop_when.*`. Null: never for that reason."""

    metric: ValidationMetric | None = Field(
        None, description="of the validation images; ends the run once it improves no longer"
    )
    patience: Positive = Field(
        10, description="rounds without an improvement after which the run ends"
    )
    min_delta: float = Field(
        0.0, ge=0, description="percentage points; a smaller improvement counts as none"
    )
    seconds: float | None = Field(
        None, gt=0, description="of all rounds together, those before a resumption included"
    )
    epsilon: float | None = Field(
        None, gt=0, description="of privacy=local_dp; no round that would exceed it is begun"
    )


NEVER = StopSettings()  # type: ignore[call-arg]  # every field has a default


class ScheduleSettings(_Settings):
    """In which rounds poisoned clients attack: `schedule.*`. In all others they are honest, with
    clean images."""

    from_round: Positive = Field(1, description="first round in which poisoned clients attack")
    until_round: int | None = Field(
        None, ge=1, description="last round in which they attack; null: the last of the run"
    )
    trusted_at: float | None = Field(
        None,
        gt=0,
        description="they wait until the rule's weights for them, after a round, reach this share "
        "of what clients of their number and images get of a mean; null: they do not wait",
    )
    distrusted: Literal["attack", "behave"] = Field(
        "attack",
        description="what they do where those weights fall below trusted_at again; behave: as "
        "honest clients until they are trusted again",
    )
    afterwards: Literal["behave", "leave"] = Field(
        "behave",
        description="what they do after until_round; behave: as honest clients; leave: they take "
        "no further part",
    )

    def has_left(self, number: int) -> bool:
        """Whether poisoned clients take no part in this round any longer."""
        last = self.until_round
        return self.afterwards == "leave" and last is not None and number > last


class CertificateSettings(_Settings):
    """Certified answers of an ensemble of groups of clients: `certificate.*`."""

    groups: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="number of groups, each of which trains a global model of its own after the "
        "run; null: no certificate",
    )
    group_size: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="clients in a group, drawn anew for each; null: disjoint groups of all clients",
    )
    alpha: float = Field(
        0.001,
        gt=0,
        lt=1,
        description="chance that any certificate of drawn groups does not hold; those of disjoint "
        "groups are certain",
    )


ALWAYS = ScheduleSettings()  # type: ignore[call-arg]  # every field has a default


class Settings(_Settings):
    """A whole resolved configuration: the plain settings, and every group unbuilt."""

    num_clients: int = Field(10, ge=1, le=MOST_CLIENTS, description="hospitals that take part")
    clients_per_round: Participation = Field(
        None,
        description="how many of them train in a round, drawn by the seed; null: all",
    )
    participants: Participants = Field(
        None, description="ids of the clients that train at all; the others are only evaluated"
    )
    poisoned: Clients = Field(
        0, description="clients that are poisoned; a number of them is drawn by the seed"
    )
    noisy: Clients = Field(0, description="others that are noisy")
    rounds: Positive = Field(5, description="rounds of federated training")
    seed: Whole = Field(0, description="start of all randomness; equal seeds give equal results")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the server computes; clients use their worker's device"
    )
    plugins: PluginNames = Field(
        (), description="packages of your own with rules, attacks, data sets, ... (docs/plugins.md)"
    )
    stop_when: StopSettings = Field(description="what ends the run before its last round")
    schedule: ScheduleSettings = Field(description="in which rounds poisoned clients attack")
    certificate: CertificateSettings = Field(
        description="answers that hold whatever some clients do"
    )
    server: ServerSettings = Field(description="what the server does besides its rule")

    data: Group = Field(description="the data set")
    partition: Group = Field(description="how its images are shared out among the hospitals")
    model: Group = Field(description="what is trained")
    client: Group = Field(description="how a hospital trains")
    strategy: Group = Field(description="the server's rule")
    preaggregation: Group = Field(
        description="what happens to the updates before the rule sees them"
    )
    server_optimizer: Group = Field(description="what the server makes of the rule's result")
    sanitiser: Group = Field(description="which training images hospitals leave out of a round")
    engine: Group = Field(description="in which processes hospitals train")
    tracker: Group = Field(description="which tracker of experiments gets the run's numbers, too")
    evaluation: Group = Field(description="what is measured at the end")
    evasion: Group = Field(description="how trained models are attacked at test time")
    purifier: Group = Field(
        description="what images go through at test time before a model sees them"
    )
    privacy: Group = Field(description="privacy mechanism applied to an update before it is sent")
    contamination: Group = Field(description="what poisoned clients do")
    noise: Group = Field(description="what noisy clients suffer")
    corruption: Group = Field(description="what happens to the test images for the corruption drop")

    @property
    def num_participants(self) -> int:
        """Number of clients that train in a round, at least one."""
        total = self.num_clients if self.participants is None else len(self.participants)
        if self.clients_per_round is None:
            return total
        if isinstance(self.clients_per_round, float):
            return max(1, round(self.clients_per_round * total))
        return self.clients_per_round

    @property
    def participants_key(self) -> str:
        """The setting that says how many train in a round."""
        if self.clients_per_round is not None:
            return "clients_per_round"
        return "num_clients" if self.participants is None else "participants"


# settings with a name in front that are no groups
BLOCKS: Mapping[str, tuple[type[BaseModel], str]] = {
    "server": (ServerSettings, "proxy_images=128"),
    "stop_when": (StopSettings, "seconds=3600"),
    "schedule": (ScheduleSettings, "from_round=3"),
    "certificate": (CertificateSettings, "groups=5"),
}


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The typed form of a resolved configuration. Groups are not built.

    Raises:
        ConfigError: for an unknown, missing or wrong setting, with its key, its value, the reason
            and the remedy.
    """
    _check_keys(Settings, config)
    for name, (kind, example) in BLOCKS.items():
        if not isinstance(config[name], Mapping):
            raise ConfigError(
                f"{name}={config[name]}: must hold {', '.join(sorted(kind.model_fields))}"
                f"; set one of them, e.g. {name}.{example}"
            )
        _check_keys(kind, config[name], f"{name}.")
    try:
        found = Settings.model_validate(config)
    except ValidationError as error:
        raise ConfigError(_refusal(error)) from error
    _check_clients(found)
    _check_server(found.server)
    _check_schedule(found)
    return found


def settings_from_text(text: str) -> Settings:
    """The typed form of a configuration that came as text. Raises ConfigError."""
    return read_settings(from_json(text))


def _check_keys(kind: type[BaseModel], given: Mapping[str, Any], path: str = "") -> None:
    for key in given:
        if key not in kind.model_fields:
            raise ConfigError(
                f"{path}{key}={given[key]}: unknown key; "
                f"{did_you_mean(key, kind.model_fields)}known are "
                f"{', '.join(sorted(kind.model_fields))}"
            )
    for key in sorted(kind.model_fields):
        if key not in given or given[key] == REQUIRED:
            raise ConfigError(f"{path}{key}: is missing; set {path}{key}=...")


def _refusal(error: ValidationError) -> str:
    """One line for the first of the things that are wrong."""
    first = error.errors(include_url=False)[0]
    key, value = ".".join(str(part) for part in first["loc"]), first["input"]
    if isinstance(value, int) and value.bit_length() > 64:
        return f"{key}: must be a number of at most 64 bits"
    reason = {
        "greater_than": "greater than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than_equal": "at most {le}",
        "literal_error": "one of {expected}",
        "string_type": str(ServerSettings.model_fields[str(first["loc"][-1])].description)
        if first["loc"][0] == "server"
        else "text",
    }.get(first["type"], "a whole number" if first["type"].startswith("int_") else "a number")
    words = {
        name: f"{one:g}" if isinstance(one, float) else str(one)
        for name, one in first.get("ctx", {}).items()
    }
    words["expected"] = words.get("expected", "").replace("'", "").replace(" or ", ", ")
    return f"{key}={value}: must be {reason.format(**words)}"


def _check_clients(settings: Settings) -> None:
    """Numbers and ids of clients, as many as there are."""
    total = settings.num_clients
    for client in settings.participants or ():
        check("participants", client, Annotated[int, Field(le=total - 1)])
    allowed = settings.participants
    most, key, remedy = total, f"num_clients={total}", "lower it or raise num_clients"
    if allowed is not None:
        most, key, remedy = len(allowed), f"participants={list(allowed)}", "lower it"
    if settings.num_participants > most:
        raise ConfigError(
            f"clients_per_round={settings.clients_per_round}: more than {key}; {remedy}"
        )
    _check_groups(settings)
    wanted = {"poisoned": settings.poisoned, "noisy": settings.noisy}
    for key, which in wanted.items():
        if isinstance(which, int) and which > total:
            raise ConfigError(
                f"{key}={which}: more than num_clients={total}; lower it or raise num_clients"
            )
        for client in () if isinstance(which, int) else which:
            check(key, client, Annotated[int, Field(le=total - 1)])
    if sum(one if isinstance(one, int) else len(one) for one in wanted.values()) > total:
        both = " ".join(f"{key}={_as_written(which)}" for key, which in wanted.items())
        raise ConfigError(f"{both}: together more than num_clients={total}; lower one")
    lists = [set(one) for one in wanted.values() if not isinstance(one, int)]
    if len(lists) == 2 and lists[0] & lists[1]:
        raise ConfigError(
            f"noisy={_as_written(settings.noisy)}: a client cannot be both poisoned and noisy; "
            "take it out of one list"
        )


def _check_groups(settings: Settings) -> None:
    """A group of a certificate holds a client, and no more than there are."""
    asked, total = settings.certificate, settings.num_clients
    for key, value in (("group_size", asked.group_size), ("groups", asked.groups)):
        if value is not None and value > total and (key == "group_size" or not asked.group_size):
            raise ConfigError(
                f"certificate.{key}={value}: more than num_clients={total}; lower it or raise "
                "num_clients"
            )


def _as_written(which: int | tuple[int, ...]) -> int | list[int]:
    return which if isinstance(which, int) else list(which)


def _check_server(server: ServerSettings) -> None:
    if server.batchnorm == "recalibrate" and server.proxy_images < 2:
        raise ConfigError(
            "server.batchnorm=recalibrate: needs proxy images, "
            f"server.proxy_images={server.proxy_images}; raise it or set server.batchnorm=mean"
        )


def _check_schedule(settings: Settings) -> None:
    """An attack that can never take place is a mistake, where anybody is to attack."""
    schedule, rounds = settings.schedule, settings.rounds
    if not settings.poisoned:
        return
    waits = schedule.trusted_at is not None
    first = max(schedule.from_round, 2 if waits else 1)
    last = rounds if schedule.until_round is None else schedule.until_round
    if schedule.afterwards == "leave" and last >= rounds:
        raise ConfigError(
            f"schedule.afterwards=leave: nobody leaves before the last of rounds={rounds}; set "
            f"schedule.until_round={max(1, rounds - 1)}"
        )
    if first > rounds:
        key, value = ("trusted_at", schedule.trusted_at) if waits else ("from_round", first)
        raise ConfigError(
            f"schedule.{key}={value}: nobody would attack in rounds={rounds}; lower it or raise "
            "rounds"
        )
    if last < first:
        raise ConfigError(
            f"schedule.until_round={last}: the first attack is in round {first} at the earliest; "
            "raise it"
        )


def without_contamination(config: Mapping[str, Any], rounds: int | None = None) -> dict[str, Any]:
    """The configuration of the same run without any contamination.

    Args:
        config: of the run.
        rounds: how many the run had; None: as many as the configuration says. Of a run that was
            ended before, the twin has as many, whatever its own metrics are.
    """
    clean = {**config, "poisoned": 0, "noisy": 0}
    if rounds in (None, config["rounds"]):
        return clean
    return {**clean, "rounds": rounds, "stop_when": NEVER.model_dump()}


def twin_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a clean twin's configuration that decides its weights. config: the twin's."""
    twin = read_settings(config)
    kept = {name: value for name, value in config.items() if name not in _IRRELEVANT}
    kept["server"] = {
        name: value
        for name, value in config["server"].items()
        if name not in _IRRELEVANT_OF_THE_SERVER
    }
    kept["validation_images"] = twin.evaluation.get("validation_images")
    kept["gpus_per_worker"] = twin.engine.get("gpus_per_worker")
    return kept


def to_json(config: Mapping[str, Any]) -> str:
    """The canonical text of a configuration: equal configurations give equal text."""
    try:
        return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ConfigError(f"{'; '.join(_not_finite(config, ''))}: give a finite number") from error


def from_json(text: str) -> dict[str, Any]:
    """The configuration in a text from a possibly foreign source, with today's names. Raises
    ConfigError."""
    return rename_config(strict_json.read_object(text, "experiment"))


def _not_finite(value: Any, path: str) -> Iterator[str]:
    """The key and value of everything in a configuration that is nan or inf."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _not_finite(inner, path)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path}={value}"
