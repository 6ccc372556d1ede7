"""What a model tells of wrong labels among a hospital's images: the confusion of its annotators."""

from __future__ import annotations

import torch
from torch import Tensor

PERFECT = 0.97  # quantile of a class's probability at which an image stands for the class


def estimate_confusion(probabilities_NK: Tensor) -> Tensor:
    """The confusion (K, K) of the labels that a model has learnt, rows true classes, by the images
    that stand for the classes: T_k = p(x_k), x_k the image whose probability of class k lies at
    the quantile .97.

    Patrini et al., CVPR 2017, eq. 12 and 13, with the quantile of their experiments instead of the
    maximum, which a single image decides. A class that the model ranks first for no image has none
    that stands for it: its labels count as right.
    """
    wide_NK = probabilities_NK.to(torch.float64)
    count, num_classes = wide_NK.shape
    confusion_KK = torch.eye(num_classes, dtype=torch.float64)
    place = round(PERFECT * (count - 1))
    for k in torch.unique(wide_NK.argmax(dim=1)).tolist():
        confusion_KK[k] = wide_NK[wide_NK[:, k].argsort(stable=True)[place]]
    return confusion_KK / confusion_KK.sum(dim=1, keepdim=True)
