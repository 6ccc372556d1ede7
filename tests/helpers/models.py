"""Small things to train: a separable picture problem, and classifiers that learn it in a second."""

import torch
from torch import nn

from fedrobust.learning.classifier import Classifier, timm_model
from fedrobust.learning.etf import simplex_etf
from fedrobust.types import Samples, Shard, Task
from fedrobust.utils.seeding import generator

NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}


class SmallNet(nn.Module):
    """One convolution, BatchNorm, pooling: 8 features."""

    num_features = 8

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Dropout(dropout),
        )

    def forward(self, images):
        return self.drop(self.norm(self.conv(images)).relu().mean((2, 3)))


def classifier(head="etf", num_classes=3, seed=0, dropout=0.0):
    anchors = simplex_etf(6, num_classes, generator(seed, "etf")) if head == "etf" else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(
            SmallNet(dropout), 8, num_classes, anchors, 16.0 if head == "etf" else 1.0
        )


def resnet(head="etf", num_classes=3, seed=0, **settings):
    factory = timm_model("resnet18", head=head, dimension=6, **{"options": NARROW, **settings})
    anchors = simplex_etf(6, num_classes, generator(seed, "etf")) if head == "etf" else None
    return factory.build(num_classes, anchors, generator(seed, "init"))


def samples(count, seed=0, num_classes=3, size=8):
    """Noise in which the colour of the class is brighter."""
    g = generator(seed, "samples")
    labels = torch.arange(count) % num_classes
    images = 0.4 * torch.rand(count, 3, size, size, generator=g)
    images[torch.arange(count), labels] += 0.4
    return Samples((255 * images).to(torch.uint8), labels)


def shard(train=48, validation=24, **keywords):
    return Shard(
        samples(train, 0, **keywords),
        samples(validation, 1, **keywords),
        samples(24, 2, **keywords),
    )


def task(net, data, *, round=1, extras=None, memory=None, seed=0):
    return Task(net, data, round, extras or {}, memory or {}, generator(seed, "train"))
