"""A run over real sites: its configuration, who takes part, and how sites are numbered."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment import compose as config
from fedrobust.experiment.experiment import Experiment
from fedrobust.runtime.engines.site_grid import SiteGrid, ask, gather
from fedrobust.runtime.engines.site_numbers import Node, listed, numbered
from fedrobust.runtime.messages.sites import Census
from fedrobust.runtime.server.rule_strategy import Grid
from fedrobust.utils.cli import explain

Tell = Callable[[str], None]


def resuming(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"python -m fedrobust.federation run --resume {shlex.quote(str(folder))}"


def compose(overrides: str, names: tuple[str, ...]) -> dict[str, Any]:
    """The configuration of a run on real sites: their own data unless the words say otherwise, and no clean twin. Raises ConfigError."""
    try:
        words = shlex.split(overrides)
    except ValueError as error:
        raise ConfigError(f"overrides={overrides}: cannot be read ({error}); each quote needs its second one") from error
    first = [] if any(word.startswith("partition=") for word in words) else ["partition=remote"]
    last = [f"num_clients={len(names)}"] if names else []
    try:
        return config.compose(*first, *words, *last, "evaluation.twin=false")
    except Exception as error:
        line, _ = explain(error)
        if line is None:
            raise
        raise ConfigError(line) from error


def assembled(grid: Grid, study: Experiment, names: tuple[str, ...], seconds: float, tell: Tell) -> tuple[SiteGrid, Experiment]:
    """The Grid of the sites by client number, and the experiment with what they say of themselves.

    names: the sites that take part, in the order of their numbers; empty: all that are connected. Waits so many seconds for them.
    Raises RunError where too few come or one cannot take part, ConfigError where they cannot be told apart.
    """
    found = gather(grid, study.num_clients, names, seconds, tell)
    if not names and len(found) > study.num_clients:
        raise ConfigError(f'num_clients={study.num_clients}: {len(found)} nodes are connected; say which take part with sites="..."')
    size, classes = study.dataset.images.shape[-1], study.dataset.class_names
    unnumbered = dict(enumerate(found))
    asked = SiteGrid(grid, unnumbered, [one.name or str(one.id) for one in found], size=size, classes=classes, numbered=False)
    answers = ask(asked, study.text, study.config["server"]["round_timeout"])
    chosen, counts = _numbered(unnumbered, answers, names)
    _check_enough(study, chosen, names)
    sites = {client: node.name for client, node in chosen.items()}
    everyone = names or tuple(sites[client] for client in range(len(sites)))
    for client, name in enumerate(everyone):
        tell(f"client {client}: site {name}: {_told(counts.get(client))}")
    held = tuple(counts[client].counts[0] if client in counts else 0 for client in range(len(everyone)))
    known = replace(study, sites=everyone, held=held)
    return SiteGrid(grid, chosen, everyone, size=size, classes=classes), known


def _numbered(
    nodes: Mapping[int, Node], answers: Mapping[int, Census | str], names: tuple[str, ...]
) -> tuple[dict[int, Node], dict[int, Census]]:
    """The nodes and their answers by client number. Raises RunError for a node that takes part and cannot."""
    told: dict[int, tuple[Node, Census]] = {}
    for place, node in nodes.items():
        answer = answers.get(place, "no answer")
        if isinstance(answer, Census):
            named = replace(node, site=answer.words["site"], partition=answer.partition)
            told[node.id] = named, answer
        elif not names or node.registered in (*names, ""):
            raise RunError(f"site {node.name or node.id} cannot take part: {answer}")
    all_named = [node for node, _ in told.values()]
    chosen = dict(listed(all_named, names)) if names else dict(enumerate(numbered(all_named)))
    return chosen, {client: told[node.id][1] for client, node in chosen.items()}


def _check_enough(study: Experiment, chosen: Mapping[int, Node], names: tuple[str, ...]) -> None:
    """Listed sites may be missing, as many as may fail in a round; where nobody knows who is missing, nobody may."""
    missing, allowed = study.num_clients - len(chosen), study.config["server"]["max_failures"] if names else 0
    if missing > allowed:
        who = ", ".join(name for client, name in enumerate(names) if client not in chosen)
        remedy = f"missing: {who}; server.max_failures={allowed}" if names else "connect the others, or raise wait"
        raise RunError(f"{len(chosen)} of {study.num_clients} sites are connected ({remedy})")


def _told(census: Census | None) -> str:
    if census is None:
        return "not connected"
    train, validation, test = census.counts
    words = ", ".join(f"{name} {census.words[name]}" for name in ("python", "torch", "flwr", "device"))
    return f"{train} training, {validation} validation, {test} test images; {words}"
