"""The attack made for the flagship rule: what it may not see, how far it goes, and what it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fedrobust.clients.app import app
from fedrobust.strategies.etf_dml import etf_dml
from torch import Generator, Tensor

from fedrobust.contamination.apply import contaminate
from fedrobust.contamination.base import Contamination
from fedrobust.contamination.updates.adaptive_etf import (
    adaptive_etf,
    guess_root,
    interpolate,
    largest_step,
)
from fedrobust.learning.alignment import alignment, root_loss
from fedrobust.runtime.client.stealth import make_probe, stealth_training_set
from fedrobust.runtime.messages import records
from fedrobust.state import Layout, State, read
from fedrobust.types import Samples
from tests.helpers import clusters, federations
from tests.helpers.attacked_federations import LARGE, client, federate, only
from tests.helpers.federations import MEAN
from tests.runtime.client.test_handlers import context, message


def trigger(**settings: Any) -> Contamination:
    return adaptive_etf(num_classes=clusters.CLASSES, **{"size": 0.4, **settings})


@pytest.mark.slow
def test_the_adaptive_attack_plants_its_trigger_in_the_mean_and_keeps_clean_accuracy() -> None:
    planted, honest_ones = (
        federate(trigger(**some), world=LARGE) for some in ({"epsilon": 1.0}, {"factor": 0.0})
    )
    assert planted.success > honest_ones.success + 0.5
    assert planted.accuracy > honest_ones.accuracy - 0.02


def test_the_adaptive_attack_flips_a_class_in_the_mean() -> None:
    flip = trigger(goal="flip", source=1, rate=1.0, epsilon=100.0)
    harmed, whole = (federate(flip, who, rounds=2).accuracy for who in ((0, 1, 2, 3), ()))
    assert harmed < whole - 0.03


def test_an_attacker_learns_from_no_image_under_two_labels() -> None:
    # the second image changed its look and its label, the third its label only
    images = torch.tensor([0.0, 0.25, 0.5]).view(3, 1, 1, 1).expand(3, 3, 1, 1)
    clean = Samples(images, torch.tensor([0, 1, 2]))
    changed = Samples(images + torch.tensor([0, 0.5, 0]).view(3, 1, 1, 1), torch.tensor([0, 3, 3]))
    both = stealth_training_set(clean, changed)
    assert both.labels.tolist() == [0, 1, 0, 3, 3]
    assert both.images[:, 0, 0, 0].tolist() == [0, 0.25, 0, 0.75, 0.5]


class Glass:
    """A mirror of two images in which a state of one number looks as aligned as that number."""

    samples = Samples(torch.zeros(2, 3, 1, 1), torch.tensor([0, 1]))
    head, scale = "etf", 1.0

    @staticmethod
    def scores(state: State, images: Tensor) -> Tensor:
        return state.parameters[0] * torch.eye(2)


@pytest.mark.parametrize(
    ("epsilon", "expected"), [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (2.0, 1.0)]
)
def test_the_largest_step_that_keeps_alignment_golden(epsilon: float, expected: float) -> None:
    # alignment 1 at the honest end and 0 at the poisoned one: 1 - s; the loss log(1 + e^-(1 - s))
    # rises by less
    blend = trigger(epsilon=epsilon).stealth
    assert blend is not None
    ends = (State(torch.tensor([value]), torch.tensor([10 * value])) for value in (1.0, 0.0))
    sent = blend(*ends, Glass, Generator())  # type: ignore[arg-type]
    assert 1 - float(sent.parameters) == pytest.approx(expected, abs=2**-8)
    assert float(sent.buffers) == pytest.approx(10 * float(sent.parameters), abs=1e-5)


def test_steps_and_blends() -> None:
    one, other = State(torch.zeros(1), torch.zeros(1)), State(torch.ones(1), torch.ones(1))
    assert interpolate(one, other, 0.0) is one
    beyond = interpolate(one, other, 3.0)
    assert (beyond.parameters.tolist(), beyond.buffers.tolist()) == ([3], [1])
    assert largest_step(lambda step: step <= 1.3, 2.0) == pytest.approx(1.3, abs=2 * 2**-8)
    assert largest_step(lambda step: False, 2.0) == 0
    guess = guess_root(
        Samples(torch.zeros(9, 3, 1, 1), torch.tensor([0] * 7 + [2, 1])), 3, Generator()
    )
    assert guess.labels.tolist() == [0, 0, 0, 1, 2]


def test_a_disguised_model_is_as_aligned_as_its_attacker_dares() -> None:
    model, clean = clusters.make_model(), clusters.make_samples(10, 40)
    layout = Layout.of(model)
    start = client(None, read(model, layout), clusters.make_samples(60, 48), clean, number=0)
    flip = {"goal": "flip", "source": 1, "rate": 1.0, "per_class": 100}
    damage, rash = trigger(epsilon=0.02, **flip), trigger(epsilon=100.0, **flip)
    poisoned = contaminate(clean, damage, Generator().manual_seed(0))
    look = make_probe(model, layout, only(clean))

    def worth(state: State) -> tuple[float, float]:
        scores = look.scores(state, clean.images)
        return float(alignment(scores, clean.labels, "etf")), float(
            root_loss(scores, clean.labels, 16.0)
        )

    learnt, sly, open_one = (
        client(one, start, poisoned if one else clean, clean) for one in (None, damage, rash)
    )
    assert worth(open_one)[0] < worth(learnt)[0] - 0.02
    assert worth(sly)[0] >= worth(learnt)[0] - 0.02 - 1e-6
    assert worth(sly)[1] <= worth(learnt)[1] + 0.02 + 1e-6
    assert not torch.equal(sly.parameters, learnt.parameters)


def test_on_a_client_no_step_is_what_an_honest_client_sends() -> None:
    states = []
    for words in (
        ("poisoned=0",),
        ("poisoned=[1]", "contamination.factor=0.0"),
        ("poisoned=[1]", "contamination.epsilon=1000"),
    ):
        server = federations.build_server(*MEAN, "contamination=adaptive_etf", *words)
        reply = app(message(server, 1), context(1)).content
        states.append(
            records.read_train_reply(
                reply, (server.layout.num_parameters, server.layout.num_buffers)
            )
        )
    assert torch.equal(states[0].state.parameters, states[1].state.parameters)
    assert torch.equal(states[0].state.buffers, states[1].state.buffers)
    assert not torch.equal(states[0].state.parameters, states[2].state.parameters)
    assert states[0].num_examples == states[1].num_examples == states[2].num_examples
    assert states[0].metrics == states[2].metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attackers", "epsilon", "planted"), [(3, 1.0, False), (4, 0.05, False), (5, 0.05, True)]
)
def test_the_flagship_against_the_attack_made_for_it(
    attackers: int, epsilon: float, planted: bool
) -> None:
    """Claim of docs/model_poisoning.md: here the trigger stays out up to four attackers of
    ten, and gets in with five."""
    attacked = federate(
        trigger(epsilon=epsilon), range(attackers), etf_dml(epochs=1), rounds=10, world=LARGE
    )
    assert attacked.success > 0.8 if planted else attacked.success < 0.1
    assert attacked.accuracy > 0.95
