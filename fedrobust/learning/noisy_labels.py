"""What a model tells of wrong labels among a hospital's images: the confusion of its annotators,
losses of images and of classes, the dimension of its predictions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import predict_scores
from fedrobust.types import Samples

NO_IMAGES = -1.0  # in the place of a class's loss
BLOCK = 1024  # points whose distances to all others are there at once
EXACT = "donot_use_mm_for_euclid_dist"  # differences of large products would lose small distances
PERFECT = 0.97  # quantile of a class's probability at which an image stands for the class


def estimate_confusion(probabilities_NK: Tensor) -> Tensor:
    """The confusion (K, K) of the labels that a model has learnt, rows true classes, by the images
    that stand for the classes: T_k = p(x_k), x_k the image whose probability of class k lies at
    the quantile .97.

    Patrini et al., CVPR 2017, eq. 12 and 13, with the quantile of their experiments instead of the
    maximum, which a single image decides: the image of rank .97 (N - 1), rounded. The authors' code
    takes the last one below the quantile, which is the same or the one before; where it is the
    same, the rows agree to 1e-12. (That code also sets the probabilities from the quantile on to 0,
    which the rows of later classes then have.) A class that the model ranks first for no image has
    none that stands for it: its labels count as right.
    """
    wide_NK = probabilities_NK.to(torch.float64)
    count, num_classes = wide_NK.shape
    confusion_KK = torch.eye(num_classes, dtype=torch.float64)
    place = round(PERFECT * (count - 1))
    for k in torch.unique(wide_NK.argmax(dim=1)).tolist():
        confusion_KK[k] = wide_NK[wide_NK[:, k].argsort(stable=True)[place]]
    return confusion_KK / confusion_KK.sum(dim=1, keepdim=True)


def image_losses(model: Classifier, samples: Samples) -> Tensor:
    """Cross-entropy (N,) of each image under the model, float32 on the CPU."""
    scores_NK = model.scale * predict_scores(model, samples.images)
    return functional.cross_entropy(scores_NK, samples.labels.cpu(), reduction="none")


def class_losses(losses_N: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """Mean loss (K,) of the images of each label; NO_IMAGES where there are none."""
    labels_N = labels_N.cpu()
    counts_K = torch.bincount(labels_N, minlength=num_classes)
    sums_K = torch.zeros(num_classes, dtype=torch.float64)
    sums_K.index_add_(0, labels_N, losses_N.to(torch.float64))
    return (sums_K / counts_K.clamp(min=1)).where(counts_K > 0, NO_IMAGES).to(torch.float32)


def local_dimensions(points_Nd: Tensor, neighbours: int = 20) -> Tensor:
    """The local intrinsic dimension (N,) about each point, from the distances r_1 <= ... <= r_k to
    its k nearest others: -k / sum_j log(r_j / r_k), 0 where that is undefined.

    The maximum likelihood estimate of Amsaleg et al., KDD 2015, as FedCorr uses it (Xu et al.,
    CVPR 2022); agrees with the latter's code to 2e-4 of the value on random probabilities
    (that code adds 1e-6 to r_k). Of fewer points all others are neighbours. Distances of 0 (equal
    points) count as 1e-12.
    """
    points_Nd = points_Nd.to(torch.float64)
    count = len(points_Nd)
    k = min(neighbours, count - 1)
    if k < 1:
        return torch.zeros(count, dtype=torch.float64)
    found = []
    for first in range(0, count, BLOCK):
        rows = torch.arange(first, min(first + BLOCK, count))
        distances_BN = torch.cdist(points_Nd[rows], points_Nd, compute_mode=EXACT)
        distances_BN[torch.arange(len(rows)), rows] = torch.inf  # not itself
        nearest_Bk = distances_BN.topk(k, largest=False).values.clamp(min=1e-12)
        logs_B = (nearest_Bk / nearest_Bk.amax(dim=1, keepdim=True)).log().sum(dim=1)
        found.append(torch.where(logs_B < 0, -k / logs_B, 0.0))
    return torch.cat(found)
