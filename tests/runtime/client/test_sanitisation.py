"""A hospital that sanitises its own images, as Flower calls it."""

from __future__ import annotations

import pytest
import torch
from fedrobust.clients.app import app

from fedrobust.runtime.server.rule_strategy import ServerContext
from tests.helpers import federations
from tests.helpers.federations import MEAN
from tests.runtime.client.test_handlers import context, message, trained

FLIP = ("poisoned=[1]", "contamination=label_flip", "contamination.rate=0.25", "rounds=3")
SPHERE = ("sanitiser=sphere_etf", "sanitiser.warmup=1", "sanitiser.quantile=0.3")


def reply(server: ServerContext, client: int, number: int, **node):
    return trained(server, app(message(server, client, number), context(client, **node)))


def test_nothing_is_left_out_before_the_warm_up_ends_and_a_share_after_it() -> None:
    server = federations.build_server(*MEAN, *FLIP, *SPHERE)
    images = len(server.experiment.rows(1, 0))
    first, second = (reply(server, 1, number) for number in (1, 2))
    wrong = float(round(0.25 * images))
    assert first.num_examples == images
    assert {name: first.metrics[name] for name in ("dropped", "altered", "found")} == {
        "dropped": 0.0,
        "altered": wrong,
        "found": 0.0,
    }
    assert second.metrics["altered"] == wrong
    assert 0 < second.metrics["dropped"] <= 0.3 * images
    assert second.num_examples == images - second.metrics["dropped"]
    assert second.metrics["found"] <= min(wrong, second.metrics["dropped"])
    clean = reply(server, 0, 2)
    assert clean.metrics["altered"] == clean.metrics["found"] == 0.0
    assert clean.metrics["dropped"] > 0


@pytest.mark.parametrize("sanitiser", ["sphere", "slab", "sphere_etf", "slab_etf"])
def test_equal_messages_give_equal_bits_and_leaving_out_changes_them(sanitiser: str) -> None:
    server = federations.build_server(*MEAN, *FLIP, f"sanitiser={sanitiser}", "sanitiser.warmup=0")
    plain = federations.build_server(*MEAN, *FLIP)
    one, two, other = (reply(which, 1, 1) for which in (server, server, plain))
    assert torch.equal(one.state.parameters, two.state.parameters)
    assert not torch.equal(one.state.parameters, other.state.parameters)
    assert set(other.metrics) == {"loss", "correct"}


def test_an_attacker_that_owns_its_client_sanitises_nothing() -> None:
    server = federations.build_server(
        *MEAN, "poisoned=[1]", "contamination=sign_flip", *SPHERE, "sanitiser.warmup=0", "rounds=3"
    )
    plain = federations.build_server(*MEAN, "poisoned=[1]", "contamination=sign_flip", "rounds=3")
    attacker, honest = reply(server, 1, 1), reply(server, 0, 1)
    assert "dropped" not in attacker.metrics
    assert torch.equal(attacker.state.parameters, reply(plain, 1, 1).state.parameters)
    assert honest.metrics["dropped"] > 0


def test_a_triggered_image_counts_as_altered_and_a_noisy_one_does_not() -> None:
    words = (
        "contamination=backdoor_patch",
        "contamination.rate=0.5",
        "contamination@noise=gaussian_noise",
        "noise.std=0.1",
    )
    server = federations.build_server(
        *MEAN, *words, "poisoned=[1]", "noisy=[2]", *SPHERE, "rounds=3"
    )
    images = len(server.experiment.rows(1, 0))
    assert reply(server, 1, 2).metrics["altered"] == round(0.5 * images)
    assert reply(server, 2, 2).metrics["altered"] == 0.0


def test_outside_a_simulation_nobody_knows_what_was_altered() -> None:
    server = federations.build_server(*MEAN, "poisoned=0", *SPHERE, "rounds=3")
    found = reply(server, 0, 2, simulation=False).metrics
    assert set(found) == {"loss", "correct", "dropped"}
    assert found["dropped"] > 0
