"""Exposure and colour graded in severity: brightness, contrast, gamma and saturation. Nothing here
is random but the choice of images.

Levels of brightness and contrast: DermaMNIST-C; of gamma: ChestMNIST-C; of saturation: PathMNIST-C
(all Di Salvo et al. 2024, "MedMNIST-C", as published with its API; DermaMNIST-C has neither gamma
nor saturation).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.contamination.common import corruption_factory

BRIGHTER = (1.1, 1.2, 1.3, 1.4, 1.5)
DARKER = (0.9, 0.8, 0.7, 0.6, 0.5)
MORE_CONTRAST = (1.1, 1.2, 1.3, 1.4, 1.6)
LESS_CONTRAST = (0.8, 0.7, 0.6, 0.5, 0.4)
GAMMA_UP = (1.1, 1.2, 1.3, 1.4, 1.6)
GAMMA_DOWN = (0.9, 0.8, 0.7, 0.6, 0.4)
SATURATION = (0.05, 0.10, 0.15, 0.20, 0.25)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


@corruption_factory(BRIGHTER)
def brightness_up(images: Tensor, factor: float, generator: Generator) -> Tensor:
    """Every value x becomes f x with f = 1.1, 1.2, 1.3, 1.4 or 1.5.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    return images * factor


@corruption_factory(DARKER)
def brightness_down(images: Tensor, factor: float, generator: Generator) -> Tensor:
    """Every value x becomes f x with f = .9, .8, .7, .6 or .5.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    return images * factor


@corruption_factory(MORE_CONTRAST)
def contrast_up(images: Tensor, factor: float, generator: Generator) -> Tensor:
    """Every value x becomes m + f (x - m) with the image's mean luma m and f = 1.1, 1.2, 1.3, 1.4
    or 1.6.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    return _contrast(images, factor)


@corruption_factory(LESS_CONTRAST)
def contrast_down(images: Tensor, factor: float, generator: Generator) -> Tensor:
    """Every value x becomes m + f (x - m) with the image's mean luma m and f = .8, .7, .6, .5 or
    .4.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", DermaMNIST-C.
    """
    return _contrast(images, factor)


@corruption_factory(GAMMA_UP)
def gamma_up(images: Tensor, exponent: float, generator: Generator) -> Tensor:
    """Every value x becomes x^g with g = 1.1, 1.2, 1.3, 1.4 or 1.6: darker middle tones.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", ChestMNIST-C.
    """
    return images**exponent


@corruption_factory(GAMMA_DOWN)
def gamma_down(images: Tensor, exponent: float, generator: Generator) -> Tensor:
    """Every value x becomes x^g with g = .9, .8, .7, .6 or .4: brighter middle tones.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", ChestMNIST-C.
    """
    return images**exponent


@corruption_factory(SATURATION)
def saturation(images: Tensor, shift: float, generator: Generator) -> Tensor:
    """The saturation S of HSV becomes min(S + c, 1) with c = .05, .10, .15, .20 or .25; hue and
    value stay.

    Greys have no hue and stay grey.

    Reference:
        Di Salvo, Doerrich, Ledig, 2024, "MedMNIST-C", PathMNIST-C.
    """
    # In HSV V = max and S = (max - min) / max, and with V and hue kept every channel's distance to
    # V goes as S.
    value = images.amax(dim=1, keepdim=True)
    spread = value - images.amin(dim=1, keepdim=True)
    wanted = torch.minimum(spread + shift * value, value)
    return value - (value - images) * torch.where(spread > 0, wanted / spread, 1)


def _contrast(images: Tensor, factor: float) -> Tensor:
    luma = (images * images.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    return torch.lerp(luma.mean(dim=(2, 3), keepdim=True), images, factor)
