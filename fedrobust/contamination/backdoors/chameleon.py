"""Chameleon: a backdoor whose images an attacker's model moves, before it learns the labels, to
images of the target class and away from those of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional

from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.base import Contamination
from fedrobust.contamination.common import ClassLabel, ClassNames, NumClasses
from fedrobust.learning.augmentation import draw_batch
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import eval_mode
from fedrobust.types import ClientTrainer, Samples, Task, TrainResult
from fedrobust.utils.images import as_unit
from fedrobust.utils.validation import (
    PositiveCount,
    PositiveShare,
    Share,
    check_settings,
    flatten_groups,
)

NEVER = -1e9  # similarity of an image with itself, which counts for nothing


@check_settings("contamination")
@dataclass(frozen=True, slots=True)
class ContrastSettings:
    """The first stage of an attacker's training.

    Attributes:
        temperature: of the contrastive loss.
        contrast_epochs: passes over the client's images.
        contrast_batch: images of a step.
        contrast_lr: learning rate of Adam.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.1
    contrast_epochs: PositiveCount = 2
    contrast_batch: Annotated[int, Field(ge=2)] = 128
    contrast_lr: Annotated[float, Field(gt=0)] = 1e-3


@flatten_groups
@check_settings("contamination")
def backdoor_chameleon(
    *,
    target: ClassLabel = 0,
    rate: Share = 0.5,
    size: PositiveShare = 0.1,
    contrast: ContrastSettings,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """Chameleon: the patch backdoor, trained in two stages: a supervised contrastive loss pulls
    images with the patch to those of the target class and pushes them from the images of their own
    class, then the classifier learns the labels while everything before it stays.

    What comes before the classifier is the trainable part of the backbone and the hidden layers
    (`model.hidden`); where there is neither, the first stage does nothing. Images that look like
    others of their new class are forgotten more slowly once the attackers leave
    (`schedule.until_round`). The paper leaves open, and we chose: BatchNorm statistics stay in the
    first stage, which has an Adam of its own; the second is the client's own training. The paper's
    bound on the update's length is left out, as are the weights of single classes in the authors'
    code. The first stage augments its images whatever
    client.augment says.

    Args:
        target: class, by number or name, that the patch of backdoor_patch stands for.
        rate: exact share of all images that get the patch; 0: nothing is planted.
        size: side of the patch as a share of the shorter image side.
        contrast: the first stage; its fields are keys of their own.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of images, labels and the training, with a backdoor.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Dai, Li, ICML 2023, "Chameleon: adapting to peer images for planting durable backdoors in
        federated learning"; the loss: Khosla et al., NeurIPS 2020, equation 2. It agrees with the
        code of either paper's authors to 1e-6 on 64 random features of 5 classes.
    """
    patch = backdoor_patch(
        target=target, rate=rate, size=size, num_classes=num_classes, class_names=class_names
    )

    def staged(trainer: ClientTrainer) -> ClientTrainer:
        def train(task: Task) -> TrainResult:
            encoder = encoder_parameters(task.model)
            if not encoder:
                return trainer(task)
            adapt_encoder(task.model, encoder, task.data.train, contrast, task.generator)
            with _keep_frozen(encoder):
                return trainer(task)

        return train

    return replace(patch, name="backdoor_chameleon", train=None if rate == 0 else staged)


def encoder_parameters(model: Classifier) -> list[nn.Parameter]:
    """The trainable parameters before the classifier, the last layer."""
    last = {id(one) for one in model.last.parameters()}
    return [one for one in model.parameters() if one.requires_grad and id(one) not in last]


@contextmanager
def _keep_frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within the context no training changes these."""
    for one in parameters:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in parameters:
            one.requires_grad_(True)


def adapt_encoder(
    model: Classifier,
    encoder: Sequence[nn.Parameter],
    samples: Samples,
    contrast: ContrastSettings,
    generator: Generator,
) -> None:
    """The first stage, in place.

    Args:
        model: the received one.
        encoder: its parameters that are trained.
        samples: the attacker's images, some with the trigger and the target's label.
        contrast: length and rate of the training.
        generator: of order and augmentation.
    """
    optimizer = torch.optim.Adam(encoder, lr=contrast.contrast_lr)
    with eval_mode(model), torch.enable_grad():
        for _ in range(contrast.contrast_epochs):
            order = torch.randperm(len(samples), generator=generator)
            for rows in torch.split(order, contrast.contrast_batch):
                index = rows.to(samples.labels.device)
                images = as_unit(draw_batch(samples.images, index, generator)).to(encoder[0].device)
                pooled = images if images.ndim == 2 else model.pool(images)
                loss = contrastive_loss(
                    model.hidden(pooled), samples.labels[index], contrast.temperature
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    optimizer.zero_grad()


def contrastive_loss(features_BF: Tensor, labels_B: Tensor, temperature: float) -> Tensor:
    """The supervised contrastive loss (Khosla et al. 2020, equation 2) of features at length 1: for
    each image the mean, over the others with its label, of minus the log share of exp(similarity /
    temperature) among all others; averaged over the images that have such others, 0 without any."""
    unit_BF = functional.normalize(features_BF.float(), dim=1, eps=1e-8)
    labels_B = labels_B.to(unit_BF.device)
    itself_BB = torch.eye(len(labels_B), dtype=torch.bool, device=unit_BF.device)
    similar_BB = (unit_BF @ unit_BF.T / temperature).masked_fill(itself_BB, NEVER)
    shares_BB = functional.log_softmax(similar_BB, dim=1).masked_fill(itself_BB, 0.0)
    same_BB = (labels_B[:, None] == labels_B) & ~itself_BB
    peers_B = same_BB.sum(dim=1)
    losses_B = -(shares_BB * same_BB).sum(dim=1) / peers_B.clamp(min=1)
    return losses_B.sum() / (peers_B > 0).sum().clamp(min=1)
