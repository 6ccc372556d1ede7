import pytest
import torch
from fedrobust.clients.ditto import ditto
from fedrobust.clients.sgd import sgd

from fedrobust.errors import ConfigError
from fedrobust.learning.personal import state_names
from fedrobust.state import Layout, read
from fedrobust.types import Task
from tests.helpers import models

SLOW = {"name": "SGD", "lr": 0.05}


def trained(trainer, personal=None, net=None):
    net = net or models.classifier()
    start = read(net, Layout.of(net))
    plain = models.task(net, models.shard())
    result = trainer(Task(net, plain.data, 1, {}, {}, plain.generator, personal or {}))
    return read(net, Layout.of(net)), start, result


def flat(personal):
    net = models.classifier()
    return torch.cat([personal[name].reshape(-1) for name, _ in Layout.of(net).parameters])


def test_what_is_sent_is_plain_training_bit_by_bit():
    ours, _, result = trained(ditto())
    plain, _, without = trained(sgd())
    assert torch.equal(ours.parameters, plain.parameters)
    assert torch.equal(ours.buffers, plain.buffers)
    assert result.sums == without.sums
    assert set(result.personal) == set(state_names(models.classifier()))
    assert without.personal == {}


def test_the_own_model_takes_a_gradient_step_down_its_loss_and_the_proximal_term():
    # algorithm 1 of the paper: v <- v - lr (gradient of the loss at v + lambda (v - w)). The same
    # step with lambda 0 has the same gradient, so the two differ by -lr lambda (v - w) = -0.1
    one = {"name": "SGD", "lr": 0.05}
    keep = {"steps": 1, "batch_size": 48, "augment": False, "optimizer": one}
    net = models.classifier()
    received = {name: t.detach().clone() for name, t in net.named_parameters()}
    shifted = {name: value + 1 for name, value in received.items()}
    buffers = {name: t.clone() for name, t in net.named_buffers() if name.startswith("backbone")}
    own = {**shifted, **{n: t for n, t in buffers.items() if t.is_floating_point()}}
    alone = trained(ditto(proximal=0.0, **keep), own)[2].personal
    near = trained(ditto(proximal=2.0, **keep), own)[2].personal
    for name, value in received.items():
        expected = -0.05 * 2.0 * (shifted[name] - value)
        assert torch.allclose(near[name] - alone[name], expected, atol=1e-5)


def test_the_larger_lambda_the_nearer_to_the_global_model():
    distances = []
    for weight in (0.0, 1.0, 10.0):
        _, start, result = trained(ditto(proximal=weight, optimizer=SLOW, epochs=5))
        distances.append((flat(result.personal) - start.parameters).norm().item())
    assert distances[0] > distances[1] > distances[2] > 0


def test_the_own_model_goes_on_where_it_was():
    first = trained(ditto(optimizer=SLOW))[2].personal
    again = trained(ditto(optimizer={"name": "SGD", "lr": 0.0}), first)[2].personal
    for name, _ in Layout.of(models.classifier()).parameters:
        assert torch.equal(again[name], first[name])


def test_schedules_of_both_models_last():
    plateau = {"factor": 0.5, "patience": 0}
    result = trained(ditto(lr_plateau=plateau))[2]
    assert {"plateau", "rates", "own"} <= set(result.memory)
    assert {"plateau", "rates"} == set(result.memory["own"])


@pytest.mark.parametrize("value", [-1, "a", None])
def test_wrong_lambda(value):
    with pytest.raises(ConfigError, match=rf"client\.proximal={value}"):
        ditto(proximal=value)
