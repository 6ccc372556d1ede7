"""Rules against values that their authors' programs gave for the same updates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fedrobust.strategies.alignins import alignins
from fedrobust.strategies.dos import dos
from fedrobust.strategies.fednoro import distance_aware_weights
from fedrobust.strategies.fldetector import fldetector
from fedrobust.strategies.lasa import lasa
from torch import Tensor

from fedrobust.aggregation.updates import Updates
from fedrobust.state import Layout
from tests.helpers.rounds import apply_rule, matrix_round
from tests.helpers.waves import waves


def five_updates(seed: int, width: int) -> Tensor:
    """The first one points elsewhere."""
    rows = waves(seed, 5, width).float() + 0.4
    rows[0] *= -2
    return rows


def test_alignins() -> None:
    reference = waves(2, 10).float() + 0.3
    rule = alignins(direction_radius=1.2, sign_radius=1.9)
    result = apply_rule(rule, five_updates(1, 10), reference_D=reference)
    assert (result.weights_N > 0).tolist() == [False, False, True, True, True]
    wanted = [0.6432987, 0.9873136, 0.4310314, 0.1675173, 0.5204306]
    wanted += [-0.1473003, 0.0991254, 0.2645253, -0.5044218, 0.1382121]
    found = result.state.parameters - reference
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_lasa() -> None:
    layout = Layout((("weight", torch.Size([2, 5])), ("bias", torch.Size([2]))), ())
    updates = replace(Updates.of(five_updates(3, 12)), layout=layout)
    # at their sparsity of 0.3 seven of ten weights are to be kept, and six are
    rule = lasa(sparsity=0.4, length_radius=1.5, sign_radius=1.5)
    wanted = [0.4520416, 0.7755632, 0.2043405, 0.1508929, 0.6155698, 0.3901811]
    wanted += [0.3676417, 0.4410756, 0.7284425, 0.7416282, 0.2878753, 0.6812412]
    found = rule.rule(matrix_round(updates)).state.parameters
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_dos() -> None:
    rows = waves(4, 6, 8)
    rows[0] *= 3
    wanted = [0.0598034, 0.1057185, 0.2819159, 0.2316176, 0.07831, 0.2426346]
    assert apply_rule(dos(), rows).weights_N.tolist() == pytest.approx(wanted, abs=1e-6)


def test_fednoro_weighs_by_distance() -> None:
    rows = waves(5, 5, 6).float()
    noisy = torch.tensor([False, True, False, False, True])
    found = distance_aware_weights(matrix_round(rows), noisy).float() @ rows
    wanted = [0.0996592, -0.4104033, 0.1250097, -0.1121717, -0.1785571, -0.2077153]
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_fldetector_with_three_movements() -> None:
    """Four clients with quadratic losses of one curvature, that do not quite follow them."""
    curvature, targets = 0.5 + waves(7, 6).square(), [waves(8 + n, 6) for n in range(4)]
    rule, memory, model, scores = fldetector(window=2).rule, {}, waves(6, 6), []
    for number in range(8):
        rows = [
            curvature * (model - target) + 0.05 * waves(50 + 10 * number + n, 6)
            for n, target in enumerate(targets)
        ]
        result = rule(matrix_round(-0.3 * torch.stack(rows), model, memory))
        scores.append(result.extras["inconsistency"])
        memory = {**result.memory, "found": []}
        model = result.state.parameters
    assert scores[5] == pytest.approx([0.3008687, 0.3225035, 0.2093602, 0.1672676], abs=1e-6)
    assert scores[6] == pytest.approx([0.3177918, 0.2775003, 0.2043641, 0.2003439], abs=1e-6)
    assert scores[7] == pytest.approx([0.2634451, 0.2210476, 0.2667575, 0.2487498], abs=1e-6)
