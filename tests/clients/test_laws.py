"""The laws of `fedrobust.testing` for every client trainer; a new yaml in configs/client is tested
by being there."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from torch import nn

from fedrobust import configs
from fedrobust.experiment.compose import compose
from fedrobust.experiment.factories import build_group
from fedrobust.learning.classifier import ModelFactory, timm_model
from fedrobust.learning.etf import simplex_etf
from fedrobust.testing import TRAINER_LAWS, TrainerCase
from fedrobust.utils.seeding import generator

FILES = sorted((Path(configs.__file__).parent / "client").glob("*.yaml"))
HEADS = {"fedloge": "linear"}  # of trainers that need another one than the ETF


def factory_of(head: str) -> ModelFactory:
    narrow = {"layers": [1] * 4, "channels": [4] * 4}
    return timm_model("resnet18", head=head, dimension=4, options=narrow)


@functools.cache
def case_of(name: str) -> TrainerCase:
    head = HEADS.get(name, "etf")
    factory = factory_of(head)
    written = compose(f"client={name}", "client.epochs=1")["client"]
    trainer = build_group({"client": written}, "client", model=factory)

    def model(seed: int) -> nn.Module:
        anchors = simplex_etf(4, 3, generator(seed, "etf")) if head == "etf" else None
        return factory.build(3, anchors, generator(seed, "init"))

    return TrainerCase(trainer, model)


@pytest.mark.parametrize("law", TRAINER_LAWS)
@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_every_trainer_keeps_the_laws(name: str, law: str) -> None:
    TRAINER_LAWS[law](case_of(name), 0)
