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
from fedrobust.experiment.local_settings import without_local_settings
from fedrobust.experiment.settings import to_json
from fedrobust.federation.flower_commands import unpack_words
from fedrobust.runtime.engines.site_grid import FederationGrid, ask, collect_site_info
from fedrobust.runtime.engines.site_numbers import Node, list_nodes, number_sites
from fedrobust.runtime.messages.sites import SiteInfo
from fedrobust.runtime.server.rule_strategy import Grid
from fedrobust.utils.counting import format_count

OnProgress = Callable[[str], None]
NOT_SAID = None, None, None


def federation_resume_command(folder: Path) -> str:
    """The command that resumes a run."""
    return f"python -m fedrobust.federation run --resume {shlex.quote(str(folder))}"


def compose_for_sites(overrides: str, names: tuple[str, ...]) -> dict[str, Any]:
    """The configuration of a run on real sites: their own data unless the words say otherwise, and
    no clean twin. Raises ConfigError."""
    words = config.check_command_line(unpack_words(overrides))
    first = [] if any(word.startswith("partition=") for word in words) else ["partition=remote"]
    last = [f"num_clients={len(names)}"] if names else []
    return config.compose(*first, *words, *last, "evaluation.twin=false")


def assemble(
    grid: Grid,
    experiment: Experiment,
    names: tuple[str, ...],
    seconds: float,
    on_progress: OnProgress,
) -> tuple[FederationGrid, Experiment]:
    """The Grid of the sites by client number, and the experiment with what they say of themselves.

    names: the sites that take part, in the order of their numbers; empty: all that are connected.
    Waits so many seconds for them. Raises RunError where too few come or one cannot take part,
    ConfigError where they cannot be distinguished.
    """
    found = collect_site_info(grid, experiment.num_clients, names, seconds, on_progress)
    if not names and len(found) > experiment.num_clients:
        raise ConfigError(
            f"num_clients={experiment.num_clients}: "
            f"{format_count(len(found), 'node is', 'nodes are')} connected; "
            'say which take part with sites="..."'
        )
    size, classes = experiment.dataset.images.shape[-1], experiment.dataset.class_names
    unnumbered = dict(enumerate(found))
    asked = FederationGrid(
        grid,
        unnumbered,
        [one.name or str(one.id) for one in found],
        size=size,
        classes=classes,
        numbered=False,
    )
    sent = to_json(without_local_settings(experiment.config))
    answers = ask(asked, sent, experiment.settings.server.round_timeout)
    chosen, counts = _number_sites(unnumbered, answers, names)
    _check_enough(experiment, chosen, names)
    sites = {client: node.name for client, node in chosen.items()}
    everyone = names or tuple(sites[client] for client in range(len(sites)))
    for client, name in enumerate(everyone):
        on_progress(f"client {client}: site {name}: {_describe_site(counts.get(client))}")
    train, _, test = zip(
        *(
            counts[client].counts if client in counts else NOT_SAID
            for client in range(len(everyone))
        ),
        strict=True,
    )
    known = replace(experiment, sites=everyone, reported_sizes=train, reported_test_sizes=test)
    for client, said in enumerate(train):
        limit = known.claim_limit(client)
        if said is not None and limit.count < said:
            on_progress(
                f"client {client}: counts as {limit.count} of its {said} training images "
                f"({limit.why})"
            )
    return FederationGrid(grid, chosen, everyone, size=size, classes=classes), known


def _number_sites(
    nodes: Mapping[int, Node], answers: Mapping[int, SiteInfo | str], names: tuple[str, ...]
) -> tuple[dict[int, Node], dict[int, SiteInfo]]:
    """The nodes and their answers by client number. Raises RunError for a node that takes part and
    cannot."""
    told: dict[int, tuple[Node, SiteInfo]] = {}
    for place, node in nodes.items():
        answer = answers.get(place, "no answer")
        if isinstance(answer, SiteInfo):
            named = replace(node, site=answer.words["site"], partition=answer.partition)
            told[node.id] = named, answer
        elif not names or node.registered in (*names, ""):
            raise RunError(f"site {node.name or node.id} cannot take part: {answer}")
    all_named = [node for node, _ in told.values()]
    chosen = (
        dict(list_nodes(all_named, names)) if names else dict(enumerate(number_sites(all_named)))
    )
    return chosen, {client: told[node.id][1] for client, node in chosen.items()}


def _check_enough(
    experiment: Experiment, chosen: Mapping[int, Node], names: tuple[str, ...]
) -> None:
    """Listed sites may be missing, as many as may fail in a round; where the missing ones cannot be
    identified, none may be missing."""
    missing, allowed = (
        experiment.num_clients - len(chosen),
        experiment.settings.server.max_failures if names else 0,
    )
    if missing > allowed:
        who = ", ".join(name for client, name in enumerate(names) if client not in chosen)
        remedy = (
            f"missing: {who}; server.max_failures={allowed}"
            if names
            else "connect the others, or raise wait"
        )
        raise RunError(
            f"connected: {len(chosen)} of {format_count(experiment.num_clients, 'site')} ({remedy})"
        )


def _describe_site(site_info: SiteInfo | None) -> str:
    if site_info is None:
        return "not connected"
    train, validation, test = site_info.counts
    words = ", ".join(
        f"{name} {site_info.words[name]}" for name in ("python", "torch", "flwr", "device")
    )
    return f"{train} training, {validation} validation, {format_count(test, 'test image')}; {words}"
