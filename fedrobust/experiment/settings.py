"""The settings outside the groups: checks, and a configuration as canonical text."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.experiment.factories import FACTORY_PACKAGES
from fedrobust.experiment.old_names import rename_config
from fedrobust.utils import strict_json
from fedrobust.utils.validation import choice, number

SERVER_KEYS = {
    *(
        "root_per_class",
        "proxy_images",
        "batchnorm",
        "max_failures",
        "round_timeout",
        "max_updates_mb",
        "scratch_dir",
    ),
    *("checkpoint_every", "keep_checkpoints", "max_examples"),
}
MOST_CLIENTS = 1_000_000  # lists of all clients must fit into memory, whoever wrote the number
PLAIN_KEYS = {
    "num_clients",
    "clients_per_round",
    "poisoned",
    "noisy",
    "rounds",
    "seed",
    "device",
    "server",
}


def check_settings(config: Mapping[str, Any]) -> None:
    """The settings outside the groups, and what no group can see alone. Raises ConfigError."""
    for key in config:
        if key not in PLAIN_KEYS and key not in FACTORY_PACKAGES:
            raise ConfigError(
                f"{key}={config[key]}: unknown key; known are "
                f"{', '.join(sorted(PLAIN_KEYS | set(FACTORY_PACKAGES)))}"
            )
    _require(config, PLAIN_KEYS | set(FACTORY_PACKAGES))
    number("num_clients", config["num_clients"], low=1, high=MOST_CLIENTS, integer=True)
    number("rounds", config["rounds"], low=1, integer=True)
    number("seed", config["seed"], low=0, integer=True)
    choice("device", config["device"], ("auto", "cpu", "cuda"))
    _check_server(config["server"])
    clients_per_round(config)
    contaminated_clients(config)


def _require(config: Mapping[str, Any], keys: Collection[str], path: str = "") -> None:
    for key in sorted(keys):
        if key not in config:
            raise ConfigError(f"{path}{key}: is missing; set {path}{key}=...")


def _check_server(server: Any) -> None:
    if not isinstance(server, Mapping):
        raise ConfigError(
            f"server={server}: must hold {', '.join(sorted(SERVER_KEYS))}; set one of "
            "them, e.g. server.proxy_images=128"
        )
    for key in server:
        if key not in SERVER_KEYS:
            raise ConfigError(
                f"server.{key}={server[key]}: unknown key; known are "
                f"{', '.join(sorted(SERVER_KEYS))}"
            )
    _require(server, SERVER_KEYS, "server.")
    number("server.root_per_class", server["root_per_class"], low=0, integer=True)
    number("server.proxy_images", server["proxy_images"], low=0, integer=True)
    number("server.max_failures", server["max_failures"], low=0, integer=True)
    number("server.max_examples", server["max_examples"], low=1, integer=True)
    number("server.round_timeout", server["round_timeout"], low=0, open_low=True)
    number("server.max_updates_mb", server["max_updates_mb"], low=0, integer=True)
    if server["scratch_dir"] is not None and not isinstance(server["scratch_dir"], str):
        raise ConfigError(
            f"server.scratch_dir={server['scratch_dir']}: must be a folder, or null for the "
            "system's temporary one"
        )
    number("server.checkpoint_every", server["checkpoint_every"], low=0, integer=True)
    number("server.keep_checkpoints", server["keep_checkpoints"], low=1, integer=True)
    choice("server.batchnorm", server["batchnorm"], ("mean", "local", "recalibrate"))
    if server["batchnorm"] == "recalibrate" and server["proxy_images"] < 2:
        raise ConfigError(
            "server.batchnorm=recalibrate: needs proxy images, "
            f"server.proxy_images={server['proxy_images']}; raise it or set server.batchnorm=mean"
        )


def clients_per_round(config: Mapping[str, Any]) -> int:
    """How many clients train in a round: clients_per_round as a whole number, as a share in (0, 1]
    (at least one client), or null: all."""
    wanted, total = config["clients_per_round"], int(config["num_clients"])
    if wanted is None:
        return total
    if isinstance(wanted, float):
        number("clients_per_round", wanted, low=0, high=1, open_low=True)
        return max(1, round(wanted * total))
    number("clients_per_round", wanted, low=1, integer=True)
    if wanted > total:
        raise ConfigError(
            f"clients_per_round={wanted}: more than num_clients={total}; lower it or "
            "raise num_clients"
        )
    return int(wanted)


def contaminated_clients(config: Mapping[str, Any]) -> tuple[int | list[int], int | list[int]]:
    """The checked (poisoned, noisy) settings: how many, or which ids."""
    total = 0
    for key in ("poisoned", "noisy"):
        total += _check_contaminated(key, config[key], config["num_clients"])
    if total > config["num_clients"]:
        raise ConfigError(
            f"poisoned={config['poisoned']} noisy={config['noisy']}: together more "
            f"than num_clients={config['num_clients']}; lower one"
        )
    if (
        isinstance(config["poisoned"], list)
        and isinstance(config["noisy"], list)
        and set(config["poisoned"]) & set(config["noisy"])
    ):
        raise ConfigError(
            f"noisy={config['noisy']}: a client cannot be both poisoned and noisy; "
            "take it out of one list"
        )
    return config["poisoned"], config["noisy"]


def _check_contaminated(key: str, value: Any, num_clients: int) -> int:
    if not isinstance(value, list):
        number(key, value, low=0, integer=True)
        if value > num_clients:
            raise ConfigError(
                f"{key}={value}: more than num_clients={num_clients}; lower it or raise num_clients"
            )
        return int(value)
    for client in value:
        number(key, client, low=0, high=num_clients - 1, integer=True)
    if len(set(value)) != len(value):
        raise ConfigError(f"{key}={value}: names a client twice; name each once")
    return len(value)


def without_contamination(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same run without any contamination."""
    return {**config, "poisoned": 0, "noisy": 0}


def to_json(config: Mapping[str, Any]) -> str:
    """The canonical text of a configuration: equal configurations give equal text."""
    try:
        return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ConfigError(f"{'; '.join(_not_finite(config, ''))}: give a finite number") from error


def from_json(text: str) -> dict[str, Any]:
    """The configuration in a text that somebody else may have written, with today's names. Raises
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
