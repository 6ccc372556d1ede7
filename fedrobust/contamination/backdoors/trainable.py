"""A backdoor whose patch is trained: attackers work its pixels out against the frozen backbone that
all hospitals have, and against heads that unlearn it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust.contamination.backdoors.patch import POSITIONS, Position
from fedrobust.contamination.base import Backdoor, Contamination, LearntTrigger, Trigger
from fedrobust.contamination.common import (
    ClassLabel,
    ClassNames,
    NumClasses,
    class_index,
    classes,
    plant_trigger,
)
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.feature_extraction import extract_features
from fedrobust.learning.inference import eval_mode, one_thread
from fedrobust.learning.losses import cross_entropy
from fedrobust.types import Samples
from fedrobust.utils import seeding
from fedrobust.utils.images import as_unit
from fedrobust.utils.validation import (
    NonNegative,
    PositiveCount,
    PositiveShare,
    Share,
    check_settings,
    flatten_groups,
)

IMAGES = 512  # of the attackers, on which their own head is trained
BATCH = 32  # images of a step
EPOCHS = 30  # of their own head
ADAPT = 10  # steps after which heads learn and unlearn the patch anew, and those of the latter
RATE = 1e-3  # of Adam for both heads
DRAWN = 32  # side of the random pattern that stands for a patch that is not trained yet


@check_settings("contamination")
@dataclass(frozen=True, slots=True)
class PatchTraining:
    """How the patch is trained.

    Attributes:
        steps: of the patch, each on 32 images through the backbone and back.
        step_size: of a step, in units of the range [0, 1].
        balance: weight of the head that unlearns the patch (the paper's lambda_0); 0: none.
    """

    steps: PositiveCount = 60
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.03
    balance: NonNegative = 1.0


@flatten_groups
@check_settings("contamination")
def backdoor_trainable(
    *,
    target: ClassLabel = 0,
    rate: Share = 0.5,
    size: PositiveShare = 0.1,
    position: Position = "bottom_right",
    training: PatchTraining,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """A trained patch on some images, which are labelled as one class: its pixels are worked out so
    that a model takes any image with it for that class, also one that has just unlearned it.

    Before the first round the attackers pool up to 512 of their training images and train a head on
    features of the frozen backbone; every 10 steps it also learns images with the patch as the
    target, as a poisoned federation does. The patch takes steps along the signs of the gradient of
    CE(head(x + patch), target) + lambda CE(unlearned(x + patch), target), where the second head is
    the first after some steps on patched images with their true labels, and lambda is `balance`
    times the cosine of the two heads' weights (the authors' code: of their gradients). The patch is
    kept on disk; it depends on no rule.
    Departure: the paper adapts the patch in every round to the model that the attackers receive,
    through the whole network; here the backbone does not change, heads of the attackers' own stand
    for the received ones, and the patch is adapted once, so that clients may train on features.

    Args:
        target: class, by number or name, that the trigger stands for.
        rate: exact share of all images that get the trigger.
        size: side of the square patch as a share of the shorter image side, at least one pixel.
        position: where the patch lies.
        training: how it is trained; its fields are keys of their own.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of images and labels, with a backdoor.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        model.freeze=backbone

    Reference:
        Zhang et al., NeurIPS 2023, "A3FL: adversarially adaptive backdoor attacks to federated
        learning".
    """
    wanted = class_index("target", target, classes("backdoor_trainable", num_classes), class_names)

    def with_patch(patch: Tensor) -> Contamination:
        trigger = place_patch(patch, size, position)
        return Contamination(
            "backdoor_trainable",
            data=plant_trigger(trigger, wanted, rate),
            backdoor=Backdoor(trigger, wanted),
            learnt=LearntTrigger(learn, with_patch),
        )

    def learn(model: Classifier, samples: Samples, generator: Generator) -> Tensor:
        start = _drawn_patch(generator, patch_side(samples.images, size))
        return train_patch(
            model, samples, start, Aim(wanted, position), training=training, generator=generator
        )

    return with_patch(_drawn_patch(seeding.generator(0, "backdoor_trainable"), DRAWN))


def _drawn_patch(generator: Generator, side: int) -> Tensor:
    return torch.rand(3, side, side, generator=generator)


def patch_side(images: Tensor, size: float) -> int:
    """Pixels of the patch's side."""
    return max(1, round(size * min(images.shape[-2:])))


def place_patch(patch: Tensor, size: float, position: Position) -> Trigger:
    """The trigger that puts a patch (3, S, S) in [0, 1] on images, scaled to its share of them."""

    def trigger(images: Tensor) -> Tensor:
        side = patch_side(images, size)
        fitted = patch.to(images)
        if patch.shape[-1] != side:
            fitted = functional.interpolate(fitted[None], size=side, mode="nearest")[0]
        return _put(images, fitted, position)

    return trigger


def _put(images: Tensor, patch: Tensor, position: Position) -> Tensor:
    (height, width), side = images.shape[-2:], patch.shape[-1]
    down, right = POSITIONS[position]
    top, left = round(down * (height - side)), round(right * (width - side))
    out = images.clone()
    out[..., top : top + side, left : left + side] = patch
    return out


@dataclass(frozen=True, slots=True)
class Aim:
    """target: the class that the patch is to stand for; position: its place."""

    target: int
    position: Position


def train_patch(
    model: Classifier,
    samples: Samples,
    start: Tensor,
    aim: Aim,
    *,
    training: PatchTraining,
    generator: Generator,
) -> Tensor:
    """The patch (3, S, S) after its training.

    Args:
        model: untrained, with the frozen backbone; it is not changed.
        samples: the attackers' images with their true labels.
        start: the patch at first.
        aim: what it is to stand for, and where.
        training: steps and their size.
        generator: of all randomness.
    """
    order = torch.randperm(len(samples), generator=generator)[:IMAGES]
    own = samples.take(order.sort().values)
    victims = own.take((own.labels != aim.target).nonzero().reshape(-1))
    if not len(victims):
        return start
    with one_thread(), eval_mode(model), torch.enable_grad():
        heads = _Heads(model, own, aim.target, balance=training.balance, generator=generator)
        patch = start.to(model.mean.device)
        for step, batch in enumerate(_batches(victims, training.steps, generator)):
            images, labels = (one.to(patch.device) for one in (batch.images, batch.labels))
            leaf = patch.detach().requires_grad_()
            pooled = model.pool(_put(as_unit(images), leaf, aim.position))
            heads.see(pooled.detach(), labels)
            if step % ADAPT == 0:
                heads.adapt()
            (gradient,) = torch.autograd.grad(heads.loss(pooled), leaf)
            patch = (patch - training.step_size * gradient.sign()).clamp(0, 1)
    return patch.detach().cpu()


class _Heads:
    """A head that learns the patch as a poisoned federation does, and one that unlearns it again.

    Args:
        model: with the untrained head; it is not changed.
        own: the attackers' images with their true labels.
        target: class that the patch stands for.
        balance: weight of the head that unlearns.
        generator: of the order of images.
    """

    def __init__(
        self,
        model: Classifier,
        own: Samples,
        target: int,
        *,
        balance: float,
        generator: Generator,
    ) -> None:
        device = model.mean.device
        self._features = extract_features(model, own.images).to(device)
        self._labels, self._target = own.labels.to(device), target
        self._balance, self._generator = balance, generator
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._head = _fit(copy.deepcopy(model), self._clean_batches(EPOCHS))
        self._unlearned, self._weight = self._head, 0.0

    def see(self, pooled: Tensor, labels: Tensor) -> None:
        """Features of images with the patch, and their true labels."""
        self._seen = [*self._seen, (pooled, labels)][-ADAPT:]

    def adapt(self) -> None:
        """Learn the patch of the last steps beside clean images; then unlearn it."""
        features = torch.cat([one for one, _ in self._seen])
        labels = torch.cat([one for _, one in self._seen])
        wanted = torch.full_like(labels, self._target)
        mixed = [
            (torch.cat([clean, features]), torch.cat([truth, wanted]))
            for clean, truth in self._clean_batches(1)
        ]
        self._head = _fit(self._head, mixed)
        if self._balance:
            self._unlearned = _fit(copy.deepcopy(self._head), [(features, labels)] * ADAPT)
            self._weight = self._balance * cosine(self._head, self._unlearned)

    def loss(self, pooled: Tensor) -> Tensor:
        """The patch's loss."""
        wanted = torch.full((len(pooled),), self._target, device=pooled.device)
        loss = cross_entropy(self._head(pooled), wanted, self._head.scale)
        if not self._weight:
            return loss
        unlearned = cross_entropy(self._unlearned(pooled), wanted, self._head.scale)
        return loss + self._weight * unlearned

    def _clean_batches(self, passes: int) -> list[tuple[Tensor, Tensor]]:
        found = []
        for _ in range(passes):
            order = torch.randperm(len(self._labels), generator=self._generator)
            found += [
                (self._features[rows], self._labels[rows])
                for rows in torch.split(order.to(self._labels.device), 4 * BATCH)
            ]
        return found


def _batches(samples: Samples, steps: int, generator: Generator) -> Iterator[Samples]:
    for _ in range(steps):
        rows = torch.randint(len(samples), (min(BATCH, len(samples)),), generator=generator)
        yield samples.take(rows)


def _fit(head: Classifier, batches: list[tuple[Tensor, Tensor]]) -> Classifier:
    """The head after a step of Adam on each batch of features, in place."""
    trained = [one for one in head.parameters() if one.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=RATE)
    for features, labels in batches:
        optimizer.zero_grad()
        loss = cross_entropy(head(features), labels, head.scale)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return head


def cosine(one: Classifier, other: Classifier) -> float:
    """The cosine of the angle between the trainable weights of two models."""
    mine, others = (
        torch.cat([part.detach().reshape(-1) for part in model.parameters() if part.requires_grad])
        for model in (one, other)
    )
    return float(functional.cosine_similarity(mine, others, dim=0))
