"""The server's part of one round of etf_dml on N members and n_P proxy images, beside N plain
passes over the same images.

The members are the untrained model with a little noise, so none is suspicious and all act as
teachers and students.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from fedrobust.aggregation.round import Round
from fedrobust.aggregation.updates import Updates
from fedrobust.experiment import build, compose
from fedrobust.learning.inference import predict
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.state import State, load
from fedrobust.types import Task

# what strategy.distillation is set to
VARIANTS = {"trust": "none", "ensemble": "ensemble", "mutual": "mutual"}
NOISE = 1e-4  # of a member's parameters, standard deviation


def configure(given: Mapping[str, Any], variant: str) -> list[str]:
    """The overrides; with min_confidence=0 mutual learning takes all images, as it does with
    trained members."""
    stride = 32 if given["size"] >= 128 or given["model"] == "small" else 16
    return [
        "data=npz",
        f"data.path={given['archive']}",
        f"data.size={given['size']}",
        "partition=iid",
        f"model={given['model']}",
        f"model.options.output_stride={stride}",
        f"num_clients={given['members']}",
        "poisoned=0",
        f"device={given['device']}",
        "strategy=etf_dml",
        f"strategy.distillation={VARIANTS[variant]}",
        "strategy.min_confidence=0",
        f"server.root_per_class={given['root']}",
        f"server.proxy_images={given['proxy']}",
    ]


def run(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: archive, size, model, members, proxy, root, device, repeats, threads. Seconds of each
    call, by variant, as `passes` and as `training` (one local epoch of all members)."""
    servers = {variant: _server(given, variant) for variant in VARIANTS}
    first = servers["trust"]
    initial = first.initial
    states = [_member(initial, number) for number in range(given["members"])]
    seconds: dict[str, list[float]] = {name: [] for name in ("training", "passes", *VARIANTS)}
    kept: dict[str, int] = {}
    _passes(first, states[:1])  # one-time costs fall here
    for repeat in range(given["repeats"]):
        mark(repeat)
        seconds["training"].append(_timed(lambda: _train(first, states)))
        seconds["passes"].append(_timed(lambda: _passes(first, states)))
        for variant, server in servers.items():
            task = _round(server, initial, states)
            weights: list[int] = []
            rule = server.experiment.strategy.rule
            seconds[variant].append(
                _timed(lambda: weights.append(int((rule(task).weights_N > 0).sum())))  # noqa: B023
            )  # called at once
            kept[variant] = weights[0]
    return {"seconds": seconds, "kept": kept, "proxy": len(first.proxy)}


def _server(given: Mapping[str, Any], variant: str) -> ServerContext:
    experiment = build.build_experiment(compose.compose(*configure(given, variant)))
    return build_server_context(experiment)


def _member(initial: State, number: int) -> State:
    noise = torch.randn(len(initial.parameters), generator=torch.Generator().manual_seed(number))
    return replace(initial, parameters=initial.parameters + NOISE * noise)


def _round(server: ServerContext, initial: State, states: list[State]) -> Round:
    matrix_ND = torch.stack([state.parameters - initial.parameters for state in states])
    buffers_NB = torch.stack([state.buffers for state in states])
    counts = torch.full((len(states),), 100.0, dtype=torch.float64)
    updates = Updates(matrix_ND, buffers_NB, counts, tuple(range(len(states))), server.layout)
    return Round(1, initial, updates, server.data_for_rule(), torch.Generator().manual_seed(0))


def _passes(server: ServerContext, states: list[State]) -> None:
    """Every member answers on every proxy image, nothing else."""
    for state in states:
        load(server.model, server.layout, state)
        predict(server.model, server.proxy.images)


def _train(server: ServerContext, states: list[State]) -> None:
    """Every member trains on its images for one epoch, with the default trainer."""
    experiment = server.experiment
    for client, state in enumerate(states):
        load(server.model, server.layout, state)
        shard, generator = experiment.shard(client), experiment.generator("client", client)
        experiment.trainer(Task(server.model, shard, 1, {}, {}, generator))


def _timed(action: Callable[[], Any]) -> float:
    _wait()
    began = time.perf_counter()
    action()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
