"""An observer of runs that does nothing."""

from __future__ import annotations

from collections.abc import Sequence

from fedrobust.types import RoundRecord


class Silent:
    """A base for the observers of benchmarks, which want few events."""

    def run_started(self, run: str, rounds: int, num_clients: int) -> None:
        """Say nothing."""

    def round_started(self, run: str, number: int) -> None:
        """Say nothing."""

    def client_done(self, run: str, stage: str, client: int, failed: bool) -> None:
        """Say nothing."""

    def stage(self, run: str, text: str) -> None:
        """Say nothing."""

    def round_finished(self, run: str, record: RoundRecord) -> None:
        """Say nothing."""

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None:
        """Say nothing."""
