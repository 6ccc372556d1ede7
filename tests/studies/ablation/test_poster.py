"""The poster's own numbers."""

import pytest

from fedrobust.studies.ablation import poster
from tests.evaluation.test_drops import POSTER, PRINTED


def test_they_are_those_of_the_documentation() -> None:
    assert poster.VALUES == POSTER
    assert poster.PRINTED == PRINTED


@pytest.mark.parametrize(
    ("model", "formula", "mixed"),
    [
        # (.384-.240)/.384 = 37.500 %, (.314-.171)/.314 = 45.541 %, (.288-.260)/.288 = 9.722 %: mean
        # 30.921 (37.5 + .143 + .028) / 3 = 12.557
        ("baseline", 30.921, 12.557),
        ("ETF", 14.388, 9.724),
        ("ETF+Rect", 29.160, 9.512),
        ("ETF+Rect+DML", 29.204, 10.934),
    ],
)
def test_golden(model: str, formula: float, mixed: float) -> None:
    drop = poster.drop(model)
    assert drop is not None
    assert drop.combined == pytest.approx(formula, abs=5e-4)
    assert poster.mixed_units(model) == pytest.approx(mixed, abs=1e-3)
    assert poster.level(model, True)["accuracy"] == pytest.approx(100 * POSTER[model][0][1])  # type: ignore[index]


def test_a_model_of_our_own_has_none() -> None:
    assert poster.level("mine", False) is poster.drop("mine") is poster.mixed_units("mine") is None
