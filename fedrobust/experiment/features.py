"""What a model gets of an experiment's images: the images, or where a frozen backbone makes them
needless its features of them, each computed once and kept on disk.

An entry is known by what decides its content: the data set and its rows, the frozen weights, how
images are prepared, the versions of torch and timm, and of altered images also the settings of what
alters them, its seed and its purpose, and the program. So a second run neither looks at an image
nor alters one again. Weights that train, rules, trainers and most other settings decide nothing
here: runs that differ in those share all entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import timm
import torch
from torch import Tensor

from fedrobust.contamination.apply import put_trigger, trigger_samples, victim_rows
from fedrobust.contamination.base import Backdoor
from fedrobust.data import TEST, TRAIN, VALIDATION, tensor_cache
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.classifier import Classifier, ModelFactory
from fedrobust.learning.feature_extraction import extract_features, extract_views
from fedrobust.types import Samples, Shard
from fedrobust.utils.images import as_unit
from fedrobust.utils.program import program_digest
from fedrobust.utils.recent import Recent

KEPT = 4  # entries of whole data sets that a process keeps open
COMPARED = 256  # images whose old and new pixels are compared at once
Alter = Callable[[Samples], Samples]


@dataclass(frozen=True, slots=True)
class Extraction:
    """How far the backbone is with images whose features are not on disk.

    data and network: the data set and the backbone, as settings name them. what: which images. done
    and total: numbers of images; each view of an image counts.
    """

    data: str
    network: str
    what: str
    done: int
    total: int


OnExtraction = Callable[[Extraction], None]


def _ignore(_: Extraction) -> None:
    pass


class ModelInputs:
    """An experiment's images as its models get them: `Samples.images` are images (N, 3, H, W), or
    with `model.freeze=backbone` and `model.feature_cache` features (N, F), of training images those
    of several views (N, V, F).

    Everything is read or computed when it is asked for. model: one of the experiment's; its frozen
    part is used, which is the same in all of them. Whoever shows progress sets `on_extraction`,
    which is called before features are computed and after each batch of images.
    """

    def __init__(self, experiment: Experiment, model: Classifier) -> None:
        self.experiment, self.device = experiment, next(model.parameters()).device
        self.on_extraction: OnExtraction = _ignore
        self._triggered: tuple[Backdoor, Samples] | None = None
        self._features = (
            _Features(experiment, model, self._tell)
            if experiment.model.learns_from_features
            else None
        )

    @property
    def key(self) -> tuple[str, str, torch.device]:
        """What tells whether two give the same; the files of one text may have changed."""
        return self.experiment.text, self.experiment.dataset.digest, self.device

    def prepare(self) -> None:
        """Compute the features that every process of a simulation asks for, those of all images and
        of all views of the training images, before any of them has to wait for another."""
        if self._features is not None and not self.experiment.remote:
            self._features.compute_whole()

    @cached_property
    def root(self) -> Samples:
        """The server's root images, for training too."""
        return self._training_samples(self.experiment.root)

    @cached_property
    def proxy(self) -> Samples:
        """The server's proxy images."""
        return self._samples(self.experiment.proxy)

    @cached_property
    def validation(self) -> Samples:
        """The validation images on which rounds are compared."""
        return self._samples(self.experiment.validation_rows())

    @cached_property
    def test(self) -> Samples:
        """All test images."""
        return self._samples(self.experiment.test_rows())

    def corrupted(self, grade: str = "corrupted") -> Samples:
        """All test images under the test-time corruption, or a grade of it."""
        experiment = self.experiment
        if self._features is None:
            return experiment.corrupt(self.test, grade)
        written = dict(experiment.settings.corruption.written)
        if grade in experiment.severities:
            written["severity"] = int(grade.removeprefix("corrupted_s"))
        return self._features.altered(
            experiment.test_rows(),
            lambda samples: experiment.corrupt(samples, grade),
            {"settings": written, "purpose": ["corruption"]},
        )

    def triggered(self, backdoor: Backdoor) -> Samples:
        """The test images of a backdoor's victims with its trigger; kept for the next call."""
        if self._triggered is None or self._triggered[0] is not backdoor:
            self._triggered = backdoor, self._put_trigger(backdoor)
        return self._triggered[1]

    def _put_trigger(self, backdoor: Backdoor) -> Samples:
        experiment = self.experiment
        if self._features is None:
            return trigger_samples(self.test, backdoor)
        rows, labels = experiment.test_rows(), self.test.labels
        written = [experiment.settings.contamination.written, experiment.settings.noise.written]
        return self._features.altered(
            rows[victim_rows(labels, backdoor)],
            lambda samples: put_trigger(samples, backdoor),
            {"settings": list(map(dict, written)), "purpose": ["trigger"], **self._learnt()},
        )

    def shard(self, client: int) -> Shard:
        """See `Experiment.shard`."""
        if self._features is None:
            return self.experiment.shard(client)
        return Shard(
            self._contaminated(client, "train", TRAIN),
            self._contaminated(client, "validation", VALIDATION),
            self._samples(self.experiment.rows(client, TEST)),
        )

    def clean_shard(self, client: int) -> Shard:
        """The same without the client's contamination."""
        train, validation, test = (
            self.experiment.rows(client, split) for split in (TRAIN, VALIDATION, TEST)
        )
        return Shard(self._training_samples(train), self._samples(validation), self._samples(test))

    def client_test_sets(self, client: int) -> tuple[Samples, Samples]:
        """See `Experiment.client_test_sets`."""
        if self._features is None:
            return self.experiment.client_test_sets(client)
        clean = self._samples(self.experiment.rows(client, TEST))
        contaminated = self._contaminated(client, "test", TEST)
        same = torch.equal(clean.images, contaminated.images)
        return clean, Samples(clean.images, contaminated.labels) if same else contaminated

    def client_corrupted(self, client: int) -> Samples:
        """The client's own test images under the test-time corruption; of features those that
        `corrupted` has of the same images."""
        experiment = self.experiment
        rows = experiment.rows(client, TEST)
        if self._features is None:
            return experiment.corrupt(experiment.samples(rows))
        return self.corrupted().take(torch.searchsorted(experiment.test_rows(), rows))

    def _learnt(self) -> dict[str, str]:
        """What decides the poisoned clients' images besides the settings of their contamination."""
        key = self.experiment.contaminations["poisoned"].key
        return {"learnt": key} if key else {}

    def example(self) -> Tensor:
        """One image, or its features, as a model trains on it."""
        if self._features is None:
            return self.experiment.dataset.images[:1]
        model = self._features.model
        return torch.zeros(1, model.num_features)

    def _tell(self, found: Extraction) -> None:
        self.on_extraction(found)

    def _samples(self, rows: Tensor) -> Samples:
        if self._features is None:
            return self.experiment.samples(rows)
        return self._features.samples(rows)

    def _training_samples(self, rows: Tensor) -> Samples:
        if self._features is None:
            return self.experiment.samples(rows)
        return self._features.samples(rows, self._features.views)

    def _contaminated(self, client: int, part: str, split: int) -> Samples:
        assert self._features is not None
        experiment, kind = self.experiment, self.experiment.roles[client]
        rows = experiment.rows(client, split)
        views = self._features.views if split == TRAIN else 1
        if kind == "clean":
            return self._features.samples(rows, views)
        groups = {"poisoned": experiment.settings.contamination, "noisy": experiment.settings.noise}
        content = {
            "settings": dict(groups[kind].written),
            "rank": experiment.roles[:client].count(kind),
            "purpose": ["contamination", client, part],
            **(self._learnt() if kind == "poisoned" else {}),
        }
        return self._features.altered(
            rows,
            lambda samples: experiment.contaminate(client, part, samples),
            content,
            views,
        )


@dataclass(frozen=True)
class _Features:
    """The frozen features of an experiment's images. tell: see `ModelInputs.on_extraction`."""

    experiment: Experiment
    model: Classifier
    tell: OnExtraction

    @property
    def views(self) -> int:
        """Of a training image: the first is not augmented, and alone where nothing is."""
        augmented = self.experiment.settings.client.get("augment", True)
        return self.experiment.model.feature_views if augmented else 1

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """What decides the features of given pixels."""
        model = self.model
        return {
            "data": self.experiment.dataset.digest,
            "weights": model.frozen_digest(),
            "backbone": _architecture(self.experiment.model),
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "device": model.mean.device.type,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "versions": [torch.__version__, timm.__version__],
        }

    def samples(self, rows: Tensor, views: int = 1) -> Samples:
        """Features (n, F), or (n, views, F) of several views, and labels of rows of the data
        set."""
        labels, plain = self.experiment.dataset.labels[rows], self._plain.take(rows)
        if views == 1:
            return Samples(plain, labels)
        augmented = self._augmented.take(rows)
        return Samples(torch.cat([plain[:, None], augmented], dim=1), labels)

    def altered(
        self, rows: Tensor, alter: Alter, content: Mapping[str, Any], views: int = 1
    ) -> Samples:
        """The same after `alter`, which `content` stands for; only those images that it changes go
        through the backbone."""
        experiment = self.experiment
        key = {
            **self.content,
            **content,
            "rows": _digest(rows),
            "views": views,
            "seed": experiment.seed,
            "classes": list(experiment.dataset.class_names),
            "program": program_digest(experiment.settings.plugins),
        }

        def make() -> tensor_cache.Tensors:
            before = experiment.samples(rows)
            after = alter(before)
            places = changed_places(before.images, after.images)
            changed = after.images[places]
            count = self._counter("altered images", views * len(changed))
            found = extract_features(self.model, changed, count)[:, None]
            if views > 1:
                augmented = extract_views(self.model, changed, views - 1, count)
                found = torch.cat([found, augmented], dim=1)
            return {"labels": after.labels, "places": places, "features": found}

        entry = tensor_cache.tensors(key, make)
        found = entry["features"] if views > 1 else entry["features"][:, 0]
        if len(found) < len(rows):
            found = self.samples(rows, views).images.index_copy(0, entry["places"], found)
        return Samples(found, entry["labels"])

    def compute_whole(self) -> None:
        """Those of all images, and of all views, unless they are there."""
        wanted = (self._plain, self._augmented) if self.views > 1 else (self._plain,)
        assert all(len(one.rows) for one in wanted)

    def _counter(self, what: str, total: int) -> Callable[[int], None]:
        """What is called after each batch, with its number of images."""
        experiment, done = self.experiment, 0

        def count(images: int) -> None:
            nonlocal done
            done += images
            data, network = experiment.settings.data.factory, experiment.model.name
            if total:
                self.tell(Extraction(data, network, what, done, total))

        count(0)
        return count

    @cached_property
    def _plain(self) -> _Rows:
        """Those of all images that this process may ask for; at a server of real sites its own."""
        experiment = self.experiment
        rows = torch.arange(len(experiment.dataset))
        if experiment.remote:
            parts = experiment.validation_rows(), experiment.test_rows()
            rows = torch.unique(torch.cat([experiment.root, experiment.proxy, *parts]))
        return self._whole(rows, 1)

    @cached_property
    def _augmented(self) -> _Rows:
        """Augmented views of all training images; at a server of real sites of its root images."""
        experiment = self.experiment
        training = (experiment.dataset.splits == TRAIN).nonzero().reshape(-1)
        return self._whole(experiment.root.sort().values if experiment.remote else training, 2)

    def _whole(self, rows: Tensor, views: int) -> _Rows:
        wanted = self.views - 1 if views > 1 else 0
        key = {**self.content, "rows": _digest(rows), "augmented": wanted}

        def make() -> tensor_cache.Tensors:
            images = self.experiment.dataset.images[rows]
            if wanted:
                count = self._counter("augmented views of images", wanted * len(images))
                return {"features": extract_views(self.model, images, wanted, count)}
            count = self._counter("images", len(images))
            return {"features": extract_features(self.model, images, count)}

        path = tensor_cache.entry_path(key)
        values = _OPEN.get(path, lambda: tensor_cache.tensors(key, make)["features"])
        return _Rows(rows, values)


_OPEN: Recent[Tensor] = Recent(KEPT)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Values of some rows of the data set, in rising order."""

    rows: Tensor
    values: Tensor

    def take(self, rows: Tensor) -> Tensor:
        return self.values[torch.searchsorted(self.rows, rows)]


def changed_places(before: Tensor, after: Tensor) -> Tensor:
    """Positions (C,) of the images (N, ...) in which any value differs, bytes and unit floats
    alike."""
    if before is after:
        return torch.zeros(0, dtype=torch.int64)
    pairs = zip(torch.split(before, COMPARED), torch.split(after, COMPARED), strict=True)
    parts = [(as_unit(one) != as_unit(two)).flatten(1).any(dim=1) for one, two in pairs]
    if not parts:
        return torch.zeros(0, dtype=torch.int64)
    return torch.cat(parts).nonzero().reshape(-1)


def _architecture(factory: ModelFactory) -> list[Any]:
    """What besides its weights decides what a backbone computes, as plain values."""
    own = [factory.name, factory.stem, dict(factory.options), factory.fusion]
    return [*own, *map(_architecture, factory.members)]


def _digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.to(torch.int64).contiguous().numpy().tobytes()).hexdigest()
