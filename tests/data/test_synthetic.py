"""The drawn lesions: the same every time, neither trivial nor hopeless."""

import pytest
import torch
from torch import Tensor

from fedrobust.data import TRAIN, Dataset
from fedrobust.data.synthetic import imbalanced_counts, synthetic
from fedrobust.data.synthetic.lesions import KINDS, draw_lesions
from fedrobust.data.synthetic.scanners import SCANNERS, photograph
from fedrobust.errors import ConfigError
from fedrobust.utils.seeding import generator


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic().load()


def test_shape_classes_sites_and_splits(data: Dataset) -> None:
    assert data.images.shape == (2400, 3, 32, 32)
    assert data.images.dtype == torch.uint8
    assert data.num_classes == 7
    shares = torch.bincount(data.sites) / 2400
    assert shares.tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.03)
    assert (torch.bincount(data.splits.long()) / 2400).tolist() == pytest.approx(
        [0.7, 0.2, 0.1], abs=0.01
    )
    assert data.skipped == {}


def test_class_counts_by_hand() -> None:
    # ratio 64 over 7 classes: each class has half of the one before: 64 32 16 8 4 2 1, sum 127; 3
    # images each on top
    assert imbalanced_counts(127 + 21, 64).tolist() == [67, 35, 19, 11, 7, 5, 4]
    assert imbalanced_counts(700, 1).tolist() == [100] * 7


def test_the_same_settings_give_the_same_digest_without_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    digests = []
    for _ in range(2):
        monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path_factory.mktemp("fresh")))
        digests.append(synthetic(num_images=120, size=24).load().digest)
    assert digests[0] == digests[1]
    assert synthetic(num_images=120, size=24, seed=1).load().digest != digests[0]


def test_some_lesions_were_photographed_twice_by_one_site(data: Dataset) -> None:
    _, first, counts = torch.unique(data.groups, return_inverse=True, return_counts=True)
    assert counts.max() == 2
    assert 0.1 < (counts == 2).float().mean() < 0.2
    pairs = first.argsort(stable=True)[
        torch.isin(first.sort().values, (counts == 2).nonzero())
    ].reshape(-1, 2)
    one, two = pairs.unbind(1)
    for column in (data.labels, data.sites, data.splits):
        assert torch.equal(column[one], column[two])
    # upside down they look alike: nearer than two lesions of the same kind
    twin = (data.images[one].float() - data.images[two].flip(2, 3).float()).abs().mean()
    stranger = (data.images[one].float() - data.images[two.roll(1)].flip(2, 3).float()).abs().mean()
    assert twin < 0.6 * stranger


def nearest_mean(features: Tensor, data: Dataset) -> float:
    """Balanced accuracy of the nearest class mean, fitted on train, evaluated on the rest."""
    train = data.splits == TRAIN
    means = torch.stack(
        [features[train & (data.labels == k)].mean(0) for k in range(data.num_classes)]
    )
    guesses, truth = torch.cdist(features[~train], means).argmin(1), data.labels[~train]
    return (
        sum((guesses[truth == k] == k).float().mean().item() for k in range(data.num_classes))
        / data.num_classes
    )


def test_class_means_do_not_solve_it(data: Dataset) -> None:
    pixels = data.images.float()
    assert nearest_mean(pixels.flatten(1), data) <= 0.5
    assert nearest_mean(pixels.mean((2, 3)), data) <= 0.5


def test_every_kind_and_camera_makes_clean_pictures_of_any_size() -> None:
    for size in (16, 33):
        for kind in KINDS:
            scenes = draw_lesions(kind, 3, size, generator(0, kind.name))
            assert scenes.shape == (3, 3, size, size)
            assert 0 <= scenes.min() < scenes.max() <= 1
        for scanner in SCANNERS:
            before = scenes.clone()
            images = photograph(scenes, scanner, generator(0, scanner.name))
            assert images.shape == scenes.shape
            assert 0 <= images.min() < images.max() <= 1
            assert torch.equal(scenes, before)


def test_sites_differ_in_colour(data: Dataset) -> None:
    colour = torch.stack(
        [data.images[data.sites == site].float().mean((0, 2, 3)) for site in range(4)]
    )
    distances = torch.cdist(colour, colour) + 999 * torch.eye(4)
    assert distances.min() > 5  # of 255


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 8),
        ("size", "big"),
        ("num_images", 10),
        ("imbalance", 0.5),
        ("seed", -1),
        ("seed", 1.5),
    ],
)
def test_wrong_settings_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"data.{key}={value}"):
        synthetic(**{key: value})  # type: ignore[arg-type]
