import torch

from fedrobust.utils.two_groups import higher_group


def test_two_clear_groups_and_their_order_does_not_matter():
    points = torch.tensor([[0.1, 0.0], [0.0, 0.1], [0.9, 1.0], [0.05, 0.0], [1.0, 0.8]])
    high = torch.tensor([False, False, True, False, True])
    for seeds in ((0,), range(9)):
        assert torch.equal(higher_group(points, seeds), high)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(higher_group(points[order]), high[order])


def test_without_two_points_that_differ_nobody_is_higher():
    for points in (torch.zeros(0, 3), torch.ones(1, 3), torch.ones(4, 2)):
        assert not higher_group(points).any()
    assert higher_group(torch.tensor([[0.0], [1.0]])).tolist() == [False, True]
