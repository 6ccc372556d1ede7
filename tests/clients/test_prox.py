import pytest
import torch
from fedrobust.clients.prox import prox, proximity
from fedrobust.clients.sgd import sgd
from torch import nn

from fedrobust.errors import ConfigError
from fedrobust.state import Layout, read
from tests.helpers import models

SLOW = {"name": "SGD", "lr": 0.05}


def trained(trainer):
    net = models.classifier()
    layout = Layout.of(net)
    start = read(net, layout).parameters
    result = trainer(models.task(net, models.shard()))
    return read(net, layout).parameters, start, result


def test_proximity_by_hand():
    # mu/2 |w - r|^2 = 4/2 ((1 - 0)^2 + (2 - 4)^2 + (3 - 3)^2) = 2 * 5 = 10; gradient mu (w - r)
    parameters = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([[3.0]]))]
    loss = proximity(parameters, [torch.tensor([0.0, 4.0]), torch.tensor([[3.0]])], 4.0)
    loss.backward()
    assert loss.item() == 10.0
    assert parameters[0].grad.tolist() == [4.0, -8.0]
    assert parameters[1].grad.tolist() == [[0.0]]


def test_the_larger_mu_the_nearer_to_the_received_model():
    distances = []
    for mu in (0.0, 1.0, 10.0):
        end, start, result = trained(prox(mu=mu, optimizer=SLOW, epochs=5))
        distances.append((end - start).norm().item())
        assert result.sums["extra_loss"] >= 0
    assert distances[0] > distances[1] > distances[2] > 0


def test_mu_zero_is_plain_training_bit_by_bit():
    assert torch.equal(trained(prox(mu=0.0))[0], trained(sgd())[0])


def test_a_model_that_does_not_move_pays_nothing():
    end, start, result = trained(prox(mu=100.0, optimizer={"name": "SGD", "lr": 0.0}))
    assert torch.equal(end, start)
    assert result.sums["extra_loss"] == 0.0


@pytest.mark.parametrize("mu", [-1, "a", None])
def test_wrong_mu(mu):
    with pytest.raises(ConfigError, match=rf"client\.mu={mu}"):
        prox(mu=mu)
