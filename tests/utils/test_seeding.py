"""Randomness by name."""

import torch

from fedrobust.utils.seeding import generator, isolated


def draw(*words: str | int, seed: int = 0) -> float:
    return torch.rand(1, generator=generator(seed, *words)).item()


def test_same_words_same_numbers_others_differ() -> None:
    assert draw("a", 1) == draw("a", 1)
    values = [
        draw("a", 1),
        draw("a", "1"),
        draw("a", 2),
        draw("a"),
        draw("a1"),
        draw("a", 1, seed=1),
        draw("1", "a"),
        draw(),
    ]
    assert len(set(values)) == len(values)


def test_golden() -> None:
    """Frozen, so that a change of the derivation (and with it of every published run) cannot pass
    unseen."""
    assert torch.randint(2**62, (1,), generator=generator(0, "init")).item() == 792566978890148216


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw("x")
    assert torch.equal(before, torch.get_rng_state())


def test_isolated_code_draws_from_the_source_alone() -> None:
    before = torch.get_rng_state()
    draws = []
    for purpose in ("a", "a", "b"):
        with isolated(generator(0, purpose)):
            draws.append(torch.rand(1).item())
        torch.rand(1)  # the world outside goes on
    torch.set_rng_state(before)
    assert draws[0] == draws[1] != draws[2]
    with isolated(generator(0, "a")):
        torch.rand(1)
    assert torch.equal(before, torch.get_rng_state())
