"""The tensors of a client's own model: which they are, and in and out of a model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.learning.personal import (
    batchnorm_names,
    head_names,
    holding,
    read_named,
    state_names,
    training_only,
    write_named,
)
from fedrobust.state import Layout, freeze
from tests.helpers import models

NORM = "backbone.norm."


def test_the_names_of_a_whole_model_are_those_of_its_layout() -> None:
    net = models.classifier()
    layout = Layout.of(net)
    assert state_names(net) == tuple(n for n, _ in (*layout.parameters, *layout.buffers))


def test_heads_and_batchnorm_layers() -> None:
    assert head_names(models.classifier("linear")) == ("last.weight", "last.bias")
    assert head_names(models.classifier("etf")) == ("last.weight",)
    wanted = {NORM + name for name in ("weight", "bias", "running_mean", "running_var")}
    assert set(batchnorm_names(models.classifier())) == wanted
    net = models.classifier()
    freeze(net.backbone)
    assert batchnorm_names(net) == ()


@settings(max_examples=20)
@given(names=st.sets(st.sampled_from(state_names(models.classifier()))))
def test_within_the_context_a_model_holds_the_values_and_then_its_own_again(names) -> None:
    net = models.classifier()
    before = read_named(net, state_names(net))
    values = {name: torch.full_like(before[name], 3.0) for name in names}
    with holding(net, values):
        inside = read_named(net, state_names(net))
    after = read_named(net, state_names(net))
    for name, value in before.items():
        assert torch.equal(inside[name], values.get(name, value))
        assert torch.equal(after[name], value)


@pytest.mark.parametrize("values", [{"no": torch.zeros(1)}, {"last.weight": torch.zeros(1, 2)}])
def test_a_tensor_that_the_model_does_not_have(values) -> None:
    with pytest.raises(ValueError, match="is no tensor of this model"):
        write_named(models.classifier(), values)


def test_only_the_named_parameters_train() -> None:
    net = models.classifier()
    with training_only(net, head_names(net)):
        assert [n for n, p in net.named_parameters() if p.requires_grad] == ["last.weight"]
    assert all(p.requires_grad for p in net.parameters())
