"""One rule on one random matrix of updates: seconds of each call, and the memory that a call adds
at its peak."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Rule = Callable[[], Any]
WARM = 1000  # parameters of the call before the first one
# share of the parameters in the last layer that is trained, as in a ResNet-18 without classifier
LAST = 0.2


def run(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: rule, by (ours, numpy, torch or byzfl), clients, parameters, f, repeats, threads."""
    matrix_ND = torch.randn(
        given["clients"], given["parameters"], generator=torch.Generator().manual_seed(0)
    )
    make = MAKERS[given["by"]]
    # so that imports count for nothing
    make(given["rule"], torch.randn(given["clients"], WARM), given["f"])()
    call = make(given["rule"], matrix_ND, given["f"])
    mark(0)
    read = min(_timed(matrix_ND.sum)[0] for _ in range(3))
    seconds, cpu, extra = [], [], 0.0
    for _ in range(given["repeats"]):
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        spent, worked, answer = _timed(call)
        seconds.append(spent)
        cpu.append(worked)
        extra = max(extra, _status("VmHWM") - before)
        del answer
    return {"seconds": seconds, "cpu": cpu, "extra_mb": extra, "read": read}


def _timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """(seconds, CPU seconds of all threads, answer)."""
    began, before = time.perf_counter(), time.process_time()
    answer = call()
    return time.perf_counter() - began, time.process_time() - before, answer


def _status(key: str) -> float:
    """Megabytes (10^6 bytes) of this process in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))


def ours(rule: str, matrix_ND: Tensor, f: int) -> Rule:
    """Our own rule on the matrix that the server has filled while the replies came."""
    from fedrobust.aggregation.round import Round, ServerData
    from fedrobust.aggregation.updates import Updates
    from fedrobust.experiment import compose, factories
    from fedrobust.state import Layout, State

    limit = [f"strategy.f={f}"] if "f" in compose.compose(f"strategy={rule}")["strategy"] else []
    chosen = factories.build_group(compose.compose(f"strategy={rule}", *limit), "strategy").rule
    columns = matrix_ND.shape[1]
    last = round(LAST * columns)
    layout = Layout((("trunk", torch.Size([columns - last])), ("last", torch.Size([1, last]))), ())
    reference = State(torch.zeros(columns), torch.zeros(0))
    task = Round(
        1,
        reference,
        replace(Updates.of(matrix_ND), layout=layout),
        ServerData(None),
        torch.Generator(),
    )
    return lambda: chosen(task)


def by_numpy(rule: str, matrix_ND: Tensor, f: int) -> Rule:
    """Straightforward implementation on N separate vectors."""
    import numpy as np

    rows = [row.numpy() for row in matrix_ND]
    return {
        "fedavg": lambda: np.mean(rows, axis=0),
        "median": lambda: np.median(rows, axis=0),
        "trimmed_mean": lambda: np.sort(rows, axis=0)[f : len(rows) - f].mean(axis=0),
    }[rule]


def by_torch(rule: str, matrix_ND: Tensor, f: int) -> Rule:
    """Straightforward implementation on N separate vectors. torch's median of an even number is the
    lower one of the two in the middle."""
    rows = list(matrix_ND)
    return {
        "fedavg": lambda: torch.stack(rows).mean(dim=0),
        "median": lambda: torch.stack(rows).median(dim=0).values,
        "trimmed_mean": lambda: torch.stack(rows).sort(dim=0).values[f : len(rows) - f].mean(dim=0),
        "krum": lambda: _krum(torch.stack(rows), f, 1),
        "multi_krum": lambda: _krum(torch.stack(rows), f, len(rows) - f),
    }[rule]


def _krum(matrix_ND: Tensor, f: int, kept: int) -> Tensor:
    """The mean of the rows with the least sums of squared distances to their N - f - 2 nearest."""
    distances_NN = torch.cdist(matrix_ND[None], matrix_ND[None])[0].square()
    near_N = distances_NN.sort(dim=1).values[:, 1 : len(matrix_ND) - f - 1].sum(dim=1)
    return matrix_ND[near_N.argsort()[:kept]].mean(dim=0)


def by_byzfl(rule: str, matrix_ND: Tensor, f: int) -> Rule:
    """ByzFL's rule on N separate vectors, with its own defaults but for f. It stops the geometric
    median after 3 steps and centered clipping after 1."""
    from byzfl.aggregators import aggregators, preaggregators

    rows = list(matrix_ND)
    if rule == "norm_clipping":
        bound = float(torch.stack([row.norm() for row in rows]).quantile(0.5))
        return lambda: aggregators.Average()(preaggregators.Clipping(bound)(rows))
    name, tolerant = BYZFL[rule]
    chosen = getattr(aggregators, name)(**({"f": f} if tolerant else {}))
    return lambda: chosen(rows)


BYZFL = {  # the name there, and whether it takes f
    "fedavg": ("Average", False),
    "median": ("Median", False),
    "geometric_median": ("GeometricMedian", False),
    "centered_clipping": ("CenteredClipping", False),
    "trimmed_mean": ("TrMean", True),
    "meamed": ("Meamed", True),
    "krum": ("Krum", True),
    "multi_krum": ("MultiKrum", True),
    "mda": ("MDA", True),
    "monna": ("MoNNA", True),
    "caf": ("CAF", True),
}

MAKERS: dict[str, Callable[[str, Tensor, int], Rule]] = {
    "ours": ours,
    "numpy": by_numpy,
    "torch": by_torch,
    "byzfl": by_byzfl,
}
