"""Flat states, the matrix of updates in RAM and on disk, buffer merging."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn

from fedrobust.aggregation.round import Round, ServerData, make_aggregate, merge_buffers
from fedrobust.aggregation.storage import BUDGET, allocate, is_mapped
from fedrobust.aggregation.updates import Updates, column_strips, normalize, squared_distances
from fedrobust.state import Layout, State, load, read


def net() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3, bias=False)
    )
    model.register_buffer("fixed", torch.ones(4), persistent=False)
    return model


def test_layout_leaves_out_integers_and_the_fixed() -> None:
    layout = Layout.of(net())
    assert [name for name, _ in layout.parameters] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "3.weight",
    ]
    assert [name for name, _ in layout.buffers] == ["1.running_mean", "1.running_var"]
    assert (layout.num_parameters, layout.num_buffers) == (18 + 2 + 2 + 2 + 24, 4)


def test_frozen_parameters_are_not_part_of_a_state() -> None:
    model = net()
    model[3].requires_grad_(False)
    assert "3.weight" not in dict(Layout.of(model).parameters)


def test_read_and_load_are_inverse_and_load_copies() -> None:
    source, target = net(), net()
    layout = Layout.of(source)
    state = read(source, layout)
    load(target, layout, state)
    assert all(
        torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True)
    )
    state.parameters.zero_()
    assert target[0].weight.abs().sum() > 0
    channels_last = net().to(memory_format=torch.channels_last)
    load(channels_last, layout, read(source, layout))
    assert torch.equal(read(channels_last, layout).parameters, read(source, layout).parameters)


def test_named_tensors_are_views() -> None:
    layout = Layout.of(net())
    state = State(torch.zeros(layout.num_parameters), torch.zeros(layout.num_buffers))
    layout.named(state)["0.bias"].fill_(7)
    assert (state.parameters == 7).sum() == 2


def test_load_refuses_other_sizes() -> None:
    model = net()
    layout = Layout.of(model)
    with pytest.raises(ValueError, match="does not fit"):
        load(model, layout, State(torch.zeros(3), torch.zeros(layout.num_buffers)))


matrices = st.integers(1, 5).flatmap(
    lambda n: st.integers(1, 9).flatmap(
        lambda d: st.lists(
            st.lists(st.floats(-9, 9, width=32), min_size=d, max_size=d), min_size=n, max_size=n
        )
    )
)


@settings(max_examples=40)
@given(matrices, st.integers(1, 4))
def test_blocks_cover_the_matrix_and_gram_is_exact(rows: list[list[float]], width: int) -> None:
    matrix = torch.tensor(rows)
    updates = Updates.of(matrix)
    assert torch.equal(torch.cat([block for _, block in updates.blocks(width)], dim=1), matrix)
    wide = matrix.double()
    assert torch.allclose(updates.gram(), wide @ wide.T)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(-1)
    assert torch.allclose(squared_distances(updates.gram()), expected, atol=1e-9)


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_and_blocks_of_chosen_rows(on_disk: bool, tmp_path: Path) -> None:
    matrix = torch.arange(20_000, dtype=torch.float32).view(4, 5000)
    mapped = allocate(4, 5000, 0 if on_disk else BUDGET, str(tmp_path)).copy_(matrix)
    updates, rows = Updates.of(mapped), torch.tensor([3, 1])
    assert torch.equal(updates.row(2), matrix[2])
    assert is_mapped(updates.row(2)) is False
    for width in (None, 700):
        for chosen in (None, rows, rows[:0]):
            seen = [(part, block.clone()) for part, block in updates.blocks(width, chosen)]
            assert torch.equal(
                torch.cat([block for _, block in seen], dim=1),
                matrix if chosen is None else matrix[chosen],
            )
            assert all(block.shape[1] == part.stop - part.start for part, block in seen)
    for _ in updates.blocks(700):
        break  # left early
    assert torch.equal(mapped, matrix)


def test_blocks_are_bounded_in_bytes_whatever_the_number_of_clients() -> None:
    for n in (1, 10, 1000):
        matrix = torch.zeros(1).expand(n, 1 << 22)
        first, block = next(
            Updates(matrix, torch.zeros(n, 0), torch.ones(n), tuple(range(n))).blocks()
        )
        assert block.numel() * 4 <= 256 << 20
        assert first.stop == min(1 << 22, (64 << 20) // n)
        for _, strip in column_strips(block):
            assert strip.numel() * 4 <= 4 << 20
            break
    assert [part.stop for part, _ in column_strips(torch.zeros(2, 5), size=16)] == [2, 4, 5]


def test_combine_leaves_out_rows_without_weight() -> None:
    matrix = torch.tensor([[1.0, 2.0], [torch.inf, -torch.inf]])
    assert Updates.of(matrix).combine(torch.tensor([0.5, 0.0])).tolist() == [0.5, 1.0]
    assert Updates.of(matrix).combine(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_shares() -> None:
    assert normalize(torch.tensor([1.0, 3.0])).tolist() == [0.25, 0.75]
    assert normalize(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_merged_variance_is_that_of_the_mixture() -> None:
    """Means 0 and 4, variances 1 and 3, weights 1/4 and 3/4: mean 3; var = (1 + 9)/4 + 3 (3 + 1)/4
    = 2.5 + 3 = 5.5."""
    model = nn.BatchNorm1d(1)
    merged = merge_buffers(
        Layout.of(model), torch.tensor([[0.0, 1.0], [4.0, 3.0]]), torch.tensor([0.25, 0.75])
    )
    assert merged.tolist() == [3.0, 5.5]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(2, 6), st.floats(-3, 3)), min_size=1, max_size=4))
def test_merged_statistics_equal_pooled_ones(groups: list[tuple[int, float]]) -> None:
    """Oracle: mean and biased variance of all samples together, clients weighted by their size."""
    generator = torch.Generator().manual_seed(0)
    samples = [
        torch.randn(n, generator=generator, dtype=torch.float64) + shift for n, shift in groups
    ]
    rows = torch.stack([torch.stack([s.mean(), s.var(correction=0)]) for s in samples])
    merged = merge_buffers(
        Layout.of(nn.BatchNorm1d(1)), rows, normalize(torch.tensor([float(n) for n, _ in groups]))
    )
    pooled = torch.cat(samples)
    assert torch.allclose(merged, torch.stack([pooled.mean(), pooled.var(correction=0)]))


def test_finish_adds_the_update_and_keeps_buffers_without_influence() -> None:
    reference = State(torch.tensor([1.0, 2.0]), torch.tensor([5.0]))
    updates = Updates(torch.zeros(2, 2), torch.tensor([[1.0], [3.0]]), torch.ones(2), (0, 1))
    task = Round(1, reference, updates, ServerData(None), torch.Generator())
    done = make_aggregate(
        task, torch.tensor([0.5, 0.0]), torch.tensor([2.0, 2.0]), extras={"x": 1.0}
    )
    assert done.state.parameters.tolist() == [1.5, 2.0]
    assert done.state.buffers.tolist() == [2.0]
    assert done.weights_N.tolist() == [0.5, 0.5]
    assert make_aggregate(task, torch.zeros(2), torch.zeros(2)).state.buffers.tolist() == [5.0]
    assert reference.parameters.tolist() == [1.0, 2.0]


def test_further_matrices_share_the_budget(tmp_path: Path) -> None:
    updates = Updates(
        torch.zeros(2, 8), torch.zeros(2, 0), torch.ones(2), (0, 1), None, 128, str(tmp_path)
    )
    assert updates.allocate(2).shape == (2, 8)
    assert not is_mapped(updates.allocate(2))
    assert is_mapped(updates.allocate(3))


def test_a_gram_matrix_is_estimated_at_random_places(tmp_path: Path) -> None:
    columns = 200_000
    rows = torch.randn(4, columns, generator=Generator().manual_seed(0))
    rows[1] = 0.8 * rows[0] + 0.6 * rows[1]  # cosine .8 with the first
    updates = Updates.of(rows)
    assert torch.equal(updates.gram_estimate(columns, Generator().manual_seed(1)), updates.gram())
    drawn = [updates.gram_estimate(64 * 200, Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    # 12,800 columns: a mean of so many products of deviation 1 to 1.4 has one of 1.4 / sqrt(12800)
    # = .0125
    torch.testing.assert_close(drawn[0] / columns, updates.gram() / columns, atol=0.06, rtol=0)
    on_disk = allocate(4, columns, 0, str(tmp_path))
    assert is_mapped(on_disk)
    on_disk.copy_(rows)
    torch.testing.assert_close(
        Updates.of(on_disk).gram_estimate(64 * 200, Generator().manual_seed(1)), drawn[0]
    )
