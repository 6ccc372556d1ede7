"""Cost of secure aggregation for a hospital and the server in a round, apart from training and the
network; one hospital is lost.

OMP_NUM_THREADS=1 python -m benchmarks.secure_aggregation --hospitals 30
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.common import report
from fedrobust.privacy.mechanisms import secure_aggregation
from fedrobust.privacy.secure import Session, fixed_point
from fedrobust.privacy.secure import client as hospital
from fedrobust.privacy.secure.server import RevealedSecrets, ServerSession, recover_secrets
from fedrobust.state import State

T = TypeVar("T")
# for privacy.clip=1.0 and the default of server.max_examples
SCALE = fixed_point.scale(1.0, 1_000_000)
FEWEST = 3  # of two, one alone would be left


class Stopwatch:
    """Mean seconds by name."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def run(self, name: str, action: Callable[..., T], *arguments: Any) -> T:
        """Result of the action; its seconds are kept."""
        started = time.perf_counter()
        result = action(*arguments)
        self._seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def means(self) -> dict[str, float]:
        """Seconds of each name's runs."""
        return {name: sum(values) / len(values) for name, values in self._seconds.items()}


def measure(hospitals: int, parameters: int) -> dict[str, float]:
    """Seconds by step (the mean over hospitals), and the MiB that masking and adding needed beside
    the trained model and the sum."""
    watch, everybody, least = Stopwatch(), range(hospitals), secure_aggregation().least(hospitals)
    sessions = [Session("benchmark", 1, client, least) for client in everybody]
    drawn = [
        watch.run("hospital: keys", hospital.make_keys, session, {}, os.urandom)
        for session in sessions
    ]
    keys = {client: public for client, (_, public) in enumerate(drawn)}
    shared = [
        watch.run(
            "hospital: shares", hospital.make_shares, sessions[one], drawn[one][0], keys, os.urandom
        )
        for one in everybody
    ]
    letters = {
        client: {sender: shared[sender][1][client] for sender in everybody if sender != client}
        for client in everybody
    }
    total, survivors = torch.zeros(parameters + 1, dtype=torch.int64), everybody[:-1]
    before = _peak()
    update_D = torch.randn(parameters, generator=torch.Generator().manual_seed(0))
    kept = {
        client: _add(watch, sessions[client], shared[client][0], letters[client], (update_D, total))
        for client in survivors
    }
    needed = _peak() - before - update_D.nbytes / (1 << 20)
    told = {
        client: watch.run(
            "hospital: unmask", hospital.reveal_shares, sessions[client], kept[client], survivors
        )
        for client in survivors
    }
    answers = {client: RevealedSecrets(seeds, masks) for client, (_, seeds, masks) in told.items()}
    watch.run(
        "server: take masks off",
        recover_secrets,
        total,
        ServerSession("benchmark", least, keys, everybody, survivors),
        answers,
    )
    watch.run("server: decode", fixed_point.decode, total, SCALE)
    return {**watch.means(), "MiB": needed}


def _add(
    watch: Stopwatch,
    session: Session,
    kept: Mapping[str, Any],
    letters: Mapping[int, bytes],
    vectors: tuple[Tensor, Tensor],
) -> Mapping[str, Any]:
    """One hospital's masked update, added to the sum."""
    update_D, total = vectors
    clipped_D = watch.run("hospital: clip", _clipped, update_D)
    vector = watch.run("hospital: encode", fixed_point.encode, clipped_D, 1000, SCALE)
    now: Mapping[str, Any] = watch.run(
        "hospital: mask", hospital.mask, session, kept, letters, vector
    )
    watch.run("server: add a reply", total.add_, vector)
    return now


def _clipped(update_D: Tensor) -> Tensor:
    nothing = torch.zeros(0)
    return secure_aggregation().clip_update(
        State(update_D, nothing), State(torch.zeros(1), nothing)
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The checked command line; exits with code 2."""
    parser = report.parser("secure_aggregation", __doc__)
    parser.add_argument("--hospitals", type=report.count, default=10, help="3 or more (10)")
    parser.add_argument(
        "--parameters",
        type=report.count,
        default=23_500_000,
        help="of the model (23500000, a ResNet-50)",
    )
    options = parser.parse_args(words)
    report.check_writable("--json", options.json)
    if options.hospitals < FEWEST:
        report.refuse(
            f"--hospitals={options.hospitals}: must be {FEWEST} or more, since one is lost"
        )
    if options.quick:
        options.hospitals, options.parameters = FEWEST, 1000
    return options


def main(words: Sequence[str]) -> int:
    """The command line."""
    options, facts = parse(words), report.machine()
    found = measure(options.hospitals, options.parameters)
    title = (
        f"{options.hospitals} hospitals, {options.parameters} parameters, torch "
        f"threads: {torch.get_num_threads()}"
    )
    rows = [
        [name, f"{value:.0f}" if name == "MiB" else f"{value:.4f} s"]
        for name, value in found.items()
    ]
    report.show(title, ["", "mean"], rows, "One hospital is lost after its shares.")
    if options.json is not None:
        report.write_json(
            options.json,
            report.document("secure_aggregation", words, facts, title=title, measured=found),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
