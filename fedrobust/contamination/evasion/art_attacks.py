"""Attacks of the Adversarial Robustness Toolbox (MIT licence), thinly adapted. They need the extra:
pip install 'fedrobust[attacks]'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from fedrobust.contamination.base import Attack, Evasion
from fedrobust.contamination.evasion.gradients import differentiable_eval
from fedrobust.errors import ConfigError
from fedrobust.utils.seeding import isolated
from fedrobust.utils.validation import NonNegative, Positive, PositiveCount, check_settings

# (the library's classifier, eps, images in a batch) -> the library's attack
Make = Callable[[Any, float, int], Any]


@check_settings("evasion")
def carlini_wagner(
    *,
    binary_search_steps: PositiveCount = 9,
    initial_weight: Positive = 0.01,
    steps: PositiveCount = 1000,
    lr: Positive = 0.01,
) -> Evasion:
    """L2: Adam seeks the smallest change that misleads; an image that is not misled is not changed.

    Args:
        binary_search_steps: for the weight of being misled against being near.
        initial_weight: the first such weight.
        steps: of Adam, for each weight.
        lr: learning rate of Adam.

    Returns:
        The attack; it ignores eps.

    Raises:
        ConfigError: a setting is out of its range, or the toolbox is not installed.

    Reference:
        Carlini, Wagner, 2017.

    Needs:
        the extra `attacks`
    """

    def make(classifier: Any, eps: float, size: int) -> Any:
        from art.attacks.evasion import CarliniL2Method

        options = {
            "binary_search_steps": binary_search_steps,
            "initial_const": initial_weight,
            "max_iter": steps,
            "learning_rate": lr,
        }
        return CarliniL2Method(classifier, **options, batch_size=size, verbose=False)

    return Evasion("carlini_wagner", run_art_attack("carlini_wagner", make), bounded=False)


@check_settings("evasion")
def deepfool(*, steps: PositiveCount = 50, overshoot: NonNegative = 0.02) -> Evasion:
    """L2: steps to the nearest boundary between classes of the linearised model, and a little
    beyond it.

    It walks away from the class that the model predicts; images that the model gets wrong stay as
    they are, for it might put them right.

    Args:
        steps: at most so many.
        overshoot: how far beyond the boundary, as a share of the way to it.

    Returns:
        The attack; it ignores eps.

    Raises:
        ConfigError: a setting is out of its range, or the toolbox is not installed.

    Reference:
        Moosavi-Dezfooli, Fawzi, Frossard, 2016.

    Needs:
        the extra `attacks`
    """

    def make(classifier: Any, eps: float, size: int) -> Any:
        from art.attacks.evasion import DeepFool

        return DeepFool(
            classifier,
            max_iter=steps,
            epsilon=overshoot,
            nb_grads=classifier.nb_classes,
            batch_size=size,
            verbose=False,
        )

    return Evasion("deepfool", _of_right_answers(run_art_attack("deepfool", make)), bounded=False)


def _of_right_answers(attack: Attack) -> Attack:
    def spared(
        model: Any, images: Tensor, labels: Tensor, eps: float, generator: Generator
    ) -> Tensor:
        with differentiable_eval(model), torch.no_grad():
            right_B = (model(images).argmax(dim=1) == labels)[:, None, None, None]
        return torch.where(right_B, attack(model, images, labels, eps, generator), images)

    return spared


@check_settings("evasion")
def autoattack(
    *, steps: PositiveCount = 100, restarts: PositiveCount = 1, queries: PositiveCount = 1000
) -> Evasion:
    """Linf, as the library has it: Auto-PGD on cross-entropy and, from three classes on, on the
    difference of logits ratio, DeepFool and the Square attack, each on the images that those before
    it left standing. Up to a hundred times the cost of PGD.

    Args:
        steps: of Auto-PGD and DeepFool.
        restarts: of Auto-PGD.
        queries: of the Square attack, which needs no gradient.

    Returns:
        The attack.

    Raises:
        ConfigError: a setting is out of its range, or the toolbox is not installed.

    Reference:
        Croce, Hein, 2020.

    Needs:
        the extra `attacks`
    """

    def make(classifier: Any, eps: float, size: int) -> Any:
        from art.attacks.evasion import (
            AutoAttack,
            AutoProjectedGradientDescent,
            DeepFool,
            SquareAttack,
        )

        bound, quiet = {"norm": np.inf, "eps": eps}, {"batch_size": size, "verbose": False}
        losses = ["cross_entropy"] + (
            ["difference_logits_ratio"] if classifier.nb_classes > 2 else []
        )
        ascent = {
            **bound,
            "eps_step": eps / 4,
            "max_iter": steps,
            "nb_random_init": restarts,
            **quiet,
        }
        attacks = [
            AutoProjectedGradientDescent(classifier, loss_type=loss, **ascent) for loss in losses
        ]
        attacks.append(
            DeepFool(
                classifier, max_iter=steps, epsilon=1e-3, nb_grads=classifier.nb_classes, **quiet
            )
        )
        attacks.append(SquareAttack(classifier, max_iter=queries, **bound, **quiet))
        return AutoAttack(classifier, **bound, eps_step=eps / 4, attacks=attacks, batch_size=size)

    return Evasion("autoattack", _within_eps(run_art_attack("autoattack", make)))


def _within_eps(attack: Attack) -> Attack:
    """The library tolerates a bound that is exceeded by its ten-thousandth part."""

    def within(
        model: Any, images: Tensor, labels: Tensor, eps: float, generator: Generator
    ) -> Tensor:
        if eps == 0:
            return images
        return torch.minimum(
            torch.maximum(attack(model, images, labels, eps, generator), images - eps), images + eps
        )

    return within


def run_art_attack(name: str, make: Make) -> Attack:
    """A library's attack on arrays as one on tensors. Its randomness is NumPy's and torch's global
    one, here seeded by the generator and put back afterwards. Raises ConfigError where the library
    is not installed."""
    if find_spec("art") is None:
        raise ConfigError(
            f"evasion={name}: needs the Adversarial Robustness Toolbox; install the "
            "extra: pip install 'fedrobust[attacks]'"
        )

    def attack(
        model: Any, images: Tensor, labels: Tensor, eps: float, generator: Generator
    ) -> Tensor:
        with (
            differentiable_eval(model),
            _gradients_kept(model),
            isolated(generator, images.device),
            _numpy_isolated(generator),
        ):
            found = make(classifier(model, images), eps, len(images)).generate(
                x=images.cpu().numpy(), y=labels.cpu().numpy()
            )
        return torch.from_numpy(found).to(images).clamp_(0, 1)

    return attack


def classifier(model: Any, images: Tensor) -> Any:
    """The library's view of a `classifier.Classifier` for images of this shape: logits are its
    scaled scores."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=_Scaled(model),
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=tuple(images.shape[1:]),
        nb_classes=model.num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if images.device.type == "cuda" else "cpu",
    )


class _Scaled(nn.Module):
    """Images -> scale * scores."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.model.scale * self.model(images).float()
        return scores


@contextmanager
def _gradients_kept(model: nn.Module) -> Iterator[None]:
    """The library goes backward through the parameters too; afterwards their gradients are what
    they were."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def _numpy_isolated(source: Generator) -> Iterator[None]:
    """Within the context NumPy's global generator is seeded from `source`, afterwards it is as
    before."""
    kept = np.random.get_state()
    np.random.seed(int(torch.randint(2**32, (1,), generator=source)))
    try:
        yield
    finally:
        np.random.set_state(kept)
