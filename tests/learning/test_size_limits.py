"""Limits on the size of a model and on timm's keywords in a configuration."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from fedrobust.errors import LONGEST, ConfigError
from fedrobust.learning import size_limits as module
from fedrobust.learning.classifier import timm_model
from fedrobust.learning.size_limits import (
    LARGEST,
    OutOfBoundsError,
    check_options,
    limit_model_size,
)


@pytest.mark.parametrize(
    "options",
    [
        *(
            {name: "x"}
            for name in (
                "checkpoint_path",
                "cache_dir",
                "pretrained",
                "pretrained_cfg",
                "pretrained_cfg_overlay",
                "device",
            )
        ),
        {"features_only": True},
        {3: 4},
        {"layers": [2, 2, LARGEST + 1]},
        {"channels": -LARGEST - 1},
        {"a": {"b": [{"c": 2**40}]}},
    ],
)
def test_keywords_that_are_not_the_configuration_s_to_give(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"^model\.options"):
        timm_model("resnet18", options=options)


def test_what_timm_knows_stays_possible() -> None:
    check_options(
        "model.options",
        {
            "layers": [2, 2, 2, 2],
            "output_stride": 16,
            "drop_rate": 0.5,
            "act_layer": "silu",
            "img_size": LARGEST,
        },
    )
    small = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "output_stride": 16}
    assert timm_model("resnet18", options=small).name == "resnet18"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"layers": [LARGEST] * 4, "channels": [4, 4, 8, 8]}, "more than 10000 modules"),
        ({"channels": [LARGEST] * 4}, "more than 1073741824 parameters"),
        ({"channels": [0, 4, 8, 8]}, "a weight without numbers"),
    ],
)
def test_a_model_without_end_is_refused_in_one_line(
    options: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        timm_model("resnet18", options=options)


def test_the_bounds_hold_inside_only_and_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PARAMETERS", 20)
    with limit_model_size():
        nn.Linear(4, 4)  # 16 weights and 4 biases
        with pytest.raises(OutOfBoundsError, match="more than 20 parameters"):
            nn.Linear(1, 1)
    nn.Linear(100, 100)
    with pytest.raises(ZeroDivisionError), limit_model_size():
        raise ZeroDivisionError
    nn.Linear(100, 100)


def test_every_common_family_is_far_within_the_bounds() -> None:
    for name in (
        "resnet152",
        "efficientnet_b0",
        "vit_small_patch16_224",
        "convnext_tiny",
        "mobilenetv3_small_050",
    ):
        with limit_model_size(), torch.device("cpu"):
            assert (
                sum(1 for _ in timm.create_model(name, num_classes=0).modules())
                < module.MOST_MODULES / 5
            )


def test_a_line_about_a_setting_has_an_end() -> None:
    line = str(ConfigError(f"model.name={'x' * 10**6}: no such model; try resnet50"))
    assert len(line) <= LONGEST + 5
    assert line.startswith("model.name=xx")
    assert line.endswith("no such model; try resnet50")
