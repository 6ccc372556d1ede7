"""Models in flat vectors: the same values under the same names, on every way in and out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fedrobust.state import (
    Layout,
    State,
    flat,
    load,
    read,
    replica,
    show,
    state_digest,
    take,
    views,
    writable_state,
)


def network() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, (3, 2)), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(8, 2))
    return model.to(memory_format=torch.channels_last)


def some_state(layout: Layout, start: float = 0.0) -> State:
    return State(
        start + torch.arange(layout.num_parameters).float(),
        1000 + start + torch.arange(layout.num_buffers).float(),
    )


def test_a_convolution_lies_channels_last() -> None:
    # (out, in, height, width) = (1, 2, 1, 2): the vector holds for each pixel its channels
    line = torch.tensor([1.0, 2.0, 3.0, 4.0])
    tensor = views((("w", torch.Size([1, 2, 1, 2])),), line)["w"]
    assert tensor[0, :, 0, 0].tolist() == [1, 2]
    assert tensor[0, :, 0, 1].tolist() == [3, 4]
    assert torch.equal(flat([tensor]), line)


def test_what_was_loaded_is_read_taken_and_named() -> None:
    model = network()
    layout = Layout.of(model)
    state = some_state(layout)
    load(model, layout, state)
    for got in (read(model, layout), take(model, layout)):
        assert torch.equal(got.parameters, state.parameters)
        assert torch.equal(got.buffers, state.buffers)
    named = layout.named(state)
    for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        if name in named:
            assert torch.equal(tensor.detach(), named[name]), name
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]


def test_the_loaded_state_is_a_copy_and_what_was_taken_is_safe_from_the_next_load() -> None:
    model = network()
    layout = Layout.of(model)
    first, second = some_state(layout), some_state(layout, 5.0)
    load(model, layout, first)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert torch.equal(first.parameters, some_state(layout).parameters)
    kept = [take(model, layout)]
    for _ in range(8):  # more than the pool keeps
        load(model, layout, second)
        with torch.no_grad():
            next(model.parameters()).zero_()
        kept.append(take(model, layout))
    size = model[0].weight.numel()  # type: ignore[union-attr, operator]
    assert torch.equal(kept[0].parameters[:size], first.parameters[:size] + 1)
    assert all(one.parameters[:size].eq(0).all() for one in kept[1:])
    assert len({one.parameters.data_ptr() for one in kept}) == len(kept)


def test_taking_copies_nothing_and_memory_is_used_again() -> None:
    model = network()
    layout = Layout.of(model)
    load(model, layout, some_state(layout))
    taken = take(model, layout)
    assert taken.parameters.data_ptr() == model[0].weight.data_ptr()  # type: ignore[union-attr, operator]
    places = set()
    for _ in range(20):
        load(model, layout, some_state(layout))
        places.add(next(model.parameters()).data_ptr())
    assert len(places) <= 4


def test_a_model_that_nobody_took_anything_from_is_loaded_where_it_lies() -> None:
    model = network()
    layout = Layout.of(model)
    places = set()
    for scale in range(5):
        load(model, layout, some_state(layout, float(scale)))
        places.add(next(model.parameters()).data_ptr())
        assert torch.equal(read(model, layout).parameters, some_state(layout, scale).parameters)
    load(model, layout, take(model, layout))
    assert torch.equal(read(model, layout).parameters, some_state(layout, 4.0).parameters)
    assert len(places) == 1


@pytest.mark.parametrize("break_up", ["fresh", "replaced", "copied"])
def test_a_model_that_does_not_lie_in_one_vector_is_copied(break_up: str) -> None:
    model = network()
    layout = Layout.of(model)
    if break_up != "fresh":
        load(model, layout, some_state(layout))
    if break_up == "replaced":
        model[3].weight.data = torch.ones_like(model[3].weight)  # type: ignore[union-attr, arg-type]
    if break_up == "copied":
        model = copy.deepcopy(model)
    got, want = take(model, layout), read(model, layout)
    assert torch.equal(got.parameters, want.parameters)
    assert torch.equal(got.buffers, want.buffers)


def test_training_a_loaded_model_is_training_any_other() -> None:
    torch.manual_seed(0)
    one = network()
    other = copy.deepcopy(one)
    layout = Layout.of(one)
    load(one, layout, read(one, layout))
    images = torch.rand(5, 3, 3, 3)

    def step(model: nn.Module) -> Tensor:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
        return read(model, layout).parameters

    assert torch.equal(step(one), step(other))
    assert torch.equal(take(one, layout).parameters, read(one, layout).parameters)


def test_a_state_of_another_size_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="does not fit"):
        load(model, Layout.of(model), State(torch.zeros(3), torch.zeros(8)))


def test_a_model_without_buffers() -> None:
    model = nn.Linear(2, 1)
    layout = Layout.of(model)
    load(model, layout, State(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(0)))
    assert take(model, layout).parameters.tolist() == [1, 2, 3]
    assert take(model, layout).buffers.numel() == 0


def test_a_shown_state_is_the_state_itself() -> None:
    model = network()
    layout = Layout.of(model)
    state = some_state(layout)
    show(model, layout, state)
    assert model[0].weight.data_ptr() == state.parameters.data_ptr()  # type: ignore[union-attr, operator]
    assert torch.equal(read(model, layout).buffers, state.buffers)
    load(model, layout, some_state(layout, 7.0))
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert torch.equal(state.parameters, some_state(layout).parameters)


def test_a_digest_tells_states_apart_bit_by_bit() -> None:
    one = State(torch.tensor([1.0, 0.0]), torch.tensor([2.0]))
    others = [
        State(torch.tensor([1.0, -0.0]), torch.tensor([2.0])),
        State(torch.tensor([1.0]), torch.tensor([0.0, 2.0])),
        State(torch.tensor([1.0, 0.0, 2.0]), torch.zeros(0)),
        State(torch.tensor([0.0, 1.0]), torch.tensor([2.0])),
    ]
    assert len({state_digest(state) for state in (one, *others)}) == 5
    assert state_digest(one) == state_digest(State(one.parameters.clone(), one.buffers.clone()))
    assert state_digest(
        State(torch.stack([one.parameters] * 2)[:, 0], one.buffers)
    ) == state_digest(State(torch.ones(2), one.buffers))


def test_what_is_written_into_the_memory_of_a_model_is_what_it_holds() -> None:
    model = network()
    layout = Layout.of(model)
    load(model, layout, some_state(layout))
    kept = take(model, layout)
    held, state = writable_state(model, layout), some_state(layout, 5.0)
    held.parameters.copy_(state.parameters)
    held.buffers.copy_(state.buffers)
    assert state_digest(read(model, layout)) == state_digest(state)
    assert state_digest(kept) == state_digest(some_state(layout))


def test_a_replica_answers_alike_and_what_it_loads_changes_no_other_model() -> None:
    model = network().eval()
    layout = Layout.of(model)
    load(model, layout, some_state(layout))
    images = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    second = replica(model)
    assert torch.equal(second(images), model(images))
    for one, other in zip(model.parameters(), second.parameters(), strict=True):
        assert one is not other
        assert one.data_ptr() == other.data_ptr()  # no memory of its own yet
    load(second, layout, some_state(layout, 5.0))
    assert state_digest(read(model, layout)) == state_digest(some_state(layout))
    assert state_digest(read(second, layout)) == state_digest(some_state(layout, 5.0))
