"""Trackers of experiments as observers of a run: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

from fedrobust.reporting.trackers.base import NO_TRACKER, Tracker


def none() -> Tracker:
    """No tracker: the run's own files hold everything (`configs/tracker/none.yaml`).

    Returns:
        A tracker that writes nothing.
    """
    return NO_TRACKER
