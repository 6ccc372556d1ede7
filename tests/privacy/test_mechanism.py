"""Updates leave a hospital clipped and noisy, and nothing else leaves it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest

from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment import build
from fedrobust.privacy import mechanisms
from fedrobust.privacy.noise import secret_noise, seeded_noise
from fedrobust.state import State
from fedrobust.utils.seeding import generator
from tests.helpers import federations

REFERENCE = State(torch.tensor([1.0, -1.0, 0.0]), torch.tensor([5.0]))
SENT = State(torch.tensor([4.0, 3.0, 0.0]), torch.tensor([7.0]))  # update (3, 4, 0), of length 5


def zeros(number: int) -> torch.Tensor:
    return torch.zeros(number)


def test_none_gives_the_very_same_state() -> None:
    assert mechanisms.none().release(SENT, REFERENCE, zeros) is SENT
    assert mechanisms.none().reply_statistics(7, {"loss": 1.0}, {"x": 1}) == (
        7,
        {"loss": 1.0},
        {"x": 1},
    )
    assert mechanisms.none().spent(3) is None


def test_clipping_by_hand() -> None:
    # (3, 4, 0) times 2/5 = (1.2, 1.6, 0)
    clipped = mechanisms.clipping(2.0).release(SENT, REFERENCE, zeros)
    assert torch.allclose(clipped.parameters, torch.tensor([2.2, 0.6, 0.0]))
    assert clipped.buffers is SENT.buffers
    assert torch.equal(
        mechanisms.clipping(5.0).release(SENT, REFERENCE, zeros).parameters, SENT.parameters
    )
    assert torch.equal(SENT.parameters, torch.tensor([4.0, 3.0, 0.0]))
    assert torch.equal(REFERENCE.parameters, torch.tensor([1.0, -1.0, 0.0]))
    assert mechanisms.clipping(2.0).spent(3) is None


def test_noise_is_added_to_the_clipped_update_and_nothing_else_is_told() -> None:
    mechanism = mechanisms.local_dp(clip=2.0, noise_multiplier=0.5)
    noise = torch.tensor([1.0, -1.0, 2.0])
    released = mechanism.release(SENT, REFERENCE, lambda number: noise[:number].clone())
    # standard deviation 2 * 2 * 0.5 = 2
    assert torch.allclose(released.parameters, torch.tensor([2.2, 0.6, 0.0]) + 2 * noise)
    assert torch.equal(released.buffers, REFERENCE.buffers)
    assert mechanism.reply_statistics(700, {"loss": 1.0}, {"x": 1}) == (1, {}, {})


def test_the_noise_has_the_length_that_epsilon_is_told_for() -> None:
    mechanism, number = mechanisms.local_dp(clip=0.5, noise_multiplier=1.5), 200_000
    start = State(torch.zeros(number), torch.zeros(0))
    released = mechanism.release(
        State(torch.full((number,), 9.0), torch.zeros(0)), start, seeded_noise(generator(0, "x"))
    )
    # variance (2 * 0.5 * 1.5)^2 = 2.25; the clipped update adds 0.5^2 / number; the estimate's own
    # error is 2.25 sqrt(2 / number) = 0.7 %
    assert float(released.parameters.var()) == pytest.approx(2.25, rel=0.03)
    assert mechanism.spent(10) > mechanism.spent(1) > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_cannot_be_clipped_is_not_sent(bad: float) -> None:
    spoilt = State(torch.tensor([bad, 3.0, 0.0]), SENT.buffers)
    for mechanism in (mechanisms.clipping(1.0), mechanisms.local_dp()):
        with pytest.raises(RunError, match="not finite; nothing is sent"):
            mechanism.release(spoilt, REFERENCE, zeros)


def test_secret_noise_is_normal_and_never_twice_the_same() -> None:
    one, two = secret_noise(50_001), secret_noise(50_001)
    assert one.dtype == torch.float32
    assert len(one) == 50_001
    assert not torch.equal(one, two)
    assert kstest(one.double().numpy(), "norm").pvalue > 1e-6  # fails once in a million
    # Box and Muller's pairs: six sigma
    assert abs(float(torch.corrcoef(torch.stack([one[:25_000], one[25_001:50_001]]))[0, 1])) < 0.04
    assert secret_noise(0).shape == (0,)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("privacy=local_dp", "privacy.clip=0"), "privacy.clip=0: must be greater than 0"),
        (
            ("privacy=local_dp", "privacy.noise_multiplier=0"),
            "privacy.noise_multiplier=0: must be greater than 0",
        ),
        (("privacy=local_dp", "privacy.delta=0"), "privacy.delta=0: must be greater than 0"),
        (("privacy=clipping", "privacy.clip=-1"), "privacy.clip=-1"),
        (
            ("privacy=local_dp", "server.batchnorm=mean"),
            "server.batchnorm=mean: averages the hospitals' BatchNorm statistics",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    words: tuple[str, ...], line: str
) -> None:
    with pytest.raises(ConfigError) as error:
        build.build_experiment(federations.compose_settings(*words))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_how_often_the_hospital_asked_most_often_replies() -> None:
    everybody, some = (
        federations.build_experiment(),
        federations.build_experiment("num_clients=6", "clients_per_round=2", "rounds=5"),
    )
    assert [everybody.max_replies(number) for number in (1, 2)] == [1, 2]
    asked = [client for number in range(1, 6) for client in some.participants(number)]
    assert some.max_replies(5) == max(asked.count(client) for client in range(6))
