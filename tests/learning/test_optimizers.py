"""Settings of optimizers: plain lines for what torch would refuse in Python's words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedrobust.errors import ConfigError
from fedrobust.learning.optimizers import NAMES, check_optimizer, make_optimizer


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"name": "Adam", "lr": "abc"}, "o.lr=abc: must be a number"),
        ({"name": "Adam", "lr": None}, "o.lr=None: must be a number"),
        ({"name": "Adam", "lr": True}, "o.lr=True: must be a number"),
        ({"name": "Adam", "lr": [0.1]}, "o.lr=[0.1]: must be a number"),
        ({"name": "SGD", "momentum": "0.9"}, "o.momentum=0.9: must be a number"),
        ({"name": "SGD", "nesterov": 1}, "o.nesterov=1: must be true or false"),
        ({"name": "Adam", "betas": [0.9]}, "o.betas=[0.9]: must be a list of 2 numbers"),
        ({"name": "Adam", "betas": 0.9}, "o.betas=0.9: must be a list of 2 numbers"),
        ({"name": "Adam", "betas": [0.9, "x"]}, "o.betas=[0.9, 'x']: must be a list of 2 numbers"),
        ({"name": "Adam", "rate": 1}, "o.rate=1: torch.optim.Adam has no such keyword; "),
        ({"name": "Adam", "lr": -1.0}, "torch.optim.Adam refuses its settings (Invalid learning"),
    ],
)
def test_a_wrong_keyword_is_named_in_a_plain_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_optimizer("o", settings)
    assert line in str(caught.value)
    for leak in ("supported between", "unpack", "argument", "Error", "\n"):
        assert leak not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Muon"])
def test_the_defaults_of_every_optimizer_are_accepted(name: str) -> None:
    settings = {"name": name, "lr": 1}
    check_optimizer("o", settings)
    made = make_optimizer(settings, nn.Linear(2, 2).parameters())
    assert (type(made).__name__, made.defaults["lr"]) == (name, 1)


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        ({"name": "Adam"}, True),
        ({"name": "SGD", "momentum": 0.9}, True),
        ({"name": "Adam", "foreach": True}, None),
        ({"name": "Adam", "fused": False}, False),
        ({"name": "Adadelta"}, None),  # torch has none
    ],
)
def test_one_pass_is_taken_where_torch_has_it_and_nothing_else_is_said(
    settings: dict[str, Any], fused: bool | None
) -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    group = make_optimizer(settings, parameters, fused=True).param_groups[0]
    assert group.get("fused") is fused
    assert not make_optimizer(settings, parameters).param_groups[0].get("fused")
