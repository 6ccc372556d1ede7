"""What models get of an experiment's images: features of a frozen backbone, each computed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedrobust.contamination.apply import trigger_samples
from fedrobust.data import TRAIN
from fedrobust.errors import ConfigError
from fedrobust.experiment import features
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.features import Extraction, ModelInputs, changed_places
from fedrobust.learning.inference import predict
from fedrobust.types import Samples
from fedrobust.utils.recent import Recent
from tests.helpers import federations

FROZEN = ("model.freeze=backbone", "model.hidden=[8]", "model.feature_views=3", "data.size=16")
PATCH = ("contamination=backdoor_patch", "contamination.rate=0.4", "poisoned=[1]")


@pytest.fixture(autouse=True)
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A cache of its own, and how many images go through the backbone."""
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    counts: list[int] = []
    plain, views = features.extract_features, features.extract_views

    def count_plain(model: Any, images: Tensor, *more: Any) -> Tensor:
        counts.append(len(images))
        return plain(model, images, *more)

    def count_views(model: Any, images: Tensor, number: int, *more: Any) -> Tensor:
        counts.append(number * len(images))
        return views(model, images, number, *more)

    monkeypatch.setattr(features, "extract_features", count_plain)
    monkeypatch.setattr(features, "extract_views", count_views)
    forget(monkeypatch)
    return counts


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process, which has no entry open."""
    monkeypatch.setattr(features, "_OPEN", Recent[Tensor](features.KEPT))


def build(*words: str) -> ModelInputs:
    return federations.build_server(*FROZEN, *words).inputs


def without_pixels(inputs: ModelInputs) -> ModelInputs:
    """The same, whose data set has no pixels that could be looked at."""
    experiment = inputs.experiment
    images = torch.empty_like(experiment.dataset.images, device="meta")
    blind = replace(experiment, dataset=replace(experiment.dataset, images=images))
    return ModelInputs(blind, inputs._features.model)


def everything(inputs: ModelInputs) -> list[Samples]:
    """All that a run asks for."""
    found = [inputs.root, inputs.proxy, inputs.validation, inputs.test, inputs.corrupted()]
    found += [inputs.corrupted(grade) for grade in inputs.experiment.severities]
    if inputs.experiment.backdoor is not None:
        found.append(inputs.triggered(inputs.experiment.backdoor))
    for client in range(inputs.experiment.num_clients):
        for shard in (inputs.shard(client), inputs.clean_shard(client)):
            found += [shard.train, shard.validation, shard.test]
        found += inputs.client_test_sets(client)
    return found


def images_of(experiment: Experiment) -> list[Samples]:
    """The same as images."""
    test = experiment.samples(experiment.test_rows())
    parts = experiment.root, experiment.proxy, experiment.validation_rows(), experiment.test_rows()
    found = [experiment.samples(rows) for rows in parts]
    found += [experiment.corrupt(test, grade) for grade in ("corrupted", *experiment.severities)]
    if experiment.backdoor is not None:
        found.append(trigger_samples(test, experiment.backdoor))
    for client in range(experiment.num_clients):
        shard = experiment.shard(client)
        found += [shard.train, shard.validation, shard.test]
        found += [experiment.samples(experiment.rows(client, split)) for split in range(3)]
        found += experiment.client_test_sets(client)
    return found


@pytest.mark.parametrize(
    "words",
    [PATCH, ("poisoned=1", "noisy=1", "contamination@corruption=motion_blur"), ("poisoned=0",)],
)
def test_everything_is_what_the_whole_network_makes_of_the_images(words: tuple[str, ...]) -> None:
    inputs = build(*words)
    model = inputs._features.model
    for seen, real in zip(everything(inputs), images_of(inputs.experiment), strict=True):
        assert seen.images.ndim in (2, 3)
        assert torch.equal(seen.labels, real.labels)
        assert torch.allclose(predict(model, seen.images), predict(model, real.images), atol=1e-5)


def test_a_second_run_computes_nothing_and_looks_at_no_image(
    counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = build(*PATCH)
    first = everything(inputs)
    assert sum(counted) > len(inputs.experiment.dataset)
    counted.clear()
    forget(monkeypatch)
    second = everything(without_pixels(inputs))
    assert counted == []
    assert all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


def test_of_contaminated_images_only_the_changed_are_computed(counted: list[int]) -> None:
    inputs = build(*PATCH)
    clean = inputs.clean_shard(1).train
    counted.clear()
    train = inputs.shard(1).train
    changed = (train.images != clean.images).flatten(1).any(dim=1)
    assert 0 < int(changed.sum()) < len(train) // 2
    assert counted[:2] == [int(changed.sum()), 2 * int(changed.sum())]
    labels = build("contamination=label_flip", "contamination.rate=1.0", "poisoned=[1]")
    counted.clear()
    assert torch.equal(labels.shard(1).train.images, clean.images)
    assert not torch.equal(labels.shard(1).train.labels, clean.labels)
    assert sum(counted) == 0


def test_other_seeds_roles_rules_and_heads_share_the_images_features(counted: list[int]) -> None:
    build().shard(0)
    counted.clear()
    for words in (("poisoned=2", "contamination=label_flip"), ("strategy=median", "rounds=3")):
        build("seed=0", *words).shard(0)
    assert sum(counted) == 0
    build("model.hidden=[]", "client.batch_size=4").shard(0)
    assert sum(counted) == 0


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (("contamination.rate=0.5",), "shard"),
        (("seed=1",), "both"),  # other random weights
        (("contamination@corruption=motion_blur",), "corruption"),
        (("data.seed=3",), "both"),
    ],
)
def test_what_decides_the_content_decides_the_entry(
    words: tuple[str, ...], new: str, counted: list[int]
) -> None:
    before = build(*PATCH)
    before.shard(1), before.corrupted()
    counted.clear()
    now = build(*PATCH, *words)
    now.shard(1)
    assert (sum(counted) > 0) == (new in ("shard", "both"))
    counted.clear()
    now.corrupted()
    assert (sum(counted) > 0) == (new in ("corruption", "both"))


def test_an_edited_program_alters_images_anew(
    counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(*PATCH).shard(1)
    counted.clear()
    monkeypatch.setattr(features, "program_digest", lambda plugins: "edited")
    build(*PATCH).shard(1)
    assert 0 < sum(counted) < 300


def test_training_images_have_as_many_views_as_asked_for() -> None:
    inputs = build()
    train = inputs.shard(0).train.images
    assert train.shape[:2] == (len(inputs.experiment.rows(0, TRAIN)), 3)
    assert inputs.root.images.ndim == 3
    assert inputs.proxy.images.ndim == inputs.shard(0).validation.images.ndim == 2
    for words in (("client.augment=false",), ("model.feature_views=1",)):
        plain = build(*words)
        assert torch.equal(plain.shard(0).train.images, train[:, 0])


@pytest.mark.parametrize("words", [("model.feature_cache=false",), ("model.freeze=none",)])
def test_without_cache_or_frozen_backbone_models_get_images(
    words: tuple[str, ...], counted: list[int]
) -> None:
    inputs = build(*PATCH, *words)
    for seen, real in zip(everything(inputs), images_of(inputs.experiment), strict=True):
        assert torch.equal(seen.images, real.images)
    assert counted == []


def test_whoever_shows_progress_is_told_what_is_computed_and_how_far() -> None:
    inputs, found = build(*PATCH), list[Extraction]()
    inputs.on_extraction = found.append
    inputs.prepare()
    dataset, name = inputs.experiment.dataset, inputs.experiment.model.name
    views = 2 * int((dataset.splits == TRAIN).sum())
    for what, total in (("images", len(dataset)), ("augmented views of images", views)):
        one = [event for event in found if event.what == what]
        assert (one[0].done, one[-1].done) == (0, total)
        assert [event.done for event in one] == sorted({event.done for event in one})
        assert {(event.data, event.network, event.total) for event in one} == {
            ("synthetic", name, total)
        }
    found.clear()
    inputs.shard(0)  # all of it is there
    assert len(inputs.validation.labels)
    again = build(*PATCH)
    again.on_extraction = found.append
    again.prepare()
    assert found == []
    inputs.shard(1)
    assert {event.what for event in found} == {"altered images"}


def test_without_features_there_is_nothing_to_prepare(counted: list[int]) -> None:
    build("model.freeze=none").prepare()
    assert counted == []


def test_nothing_is_computed_before_it_is_asked_for(counted: list[int]) -> None:
    assert build().example().shape == (1, 16)
    assert counted == []


def test_changed_images_are_found_across_bytes_and_floats() -> None:
    before = torch.randint(256, (600, 3, 2, 2), dtype=torch.uint8)
    after = before.float() / 255
    assert not len(changed_places(before, after))
    after[[3, 599], 0, 0, 0] += 0.01
    assert changed_places(before, after).tolist() == [3, 599]
    assert not len(changed_places(before, before))
    assert not len(changed_places(before[:0], after[:0]))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("client=adversarial",), "client=adversarial: attacks the images"),
        (("contamination=evasion", "poisoned=1"), "contamination=evasion: crafts images"),
        (("contamination@noise=evasion", "noisy=1"), "noise=evasion: crafts images"),
    ],
)
def test_what_needs_pixels_in_training_is_refused_in_one_line(
    words: tuple[str, ...], text: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{text}.*; set model\.feature_cache=false$") as found:
        build(*words)
    assert "\n" not in str(found.value)
    build(*words, "model.feature_cache=false")


def test_crafting_that_nobody_does_is_not_refused() -> None:
    experiment = build("contamination=evasion", "poisoned=0").experiment
    assert experiment.contaminations["poisoned"].craft is not None
    assert experiment.model.learns_from_features
