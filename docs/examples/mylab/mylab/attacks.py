"""What may be wrong with a hospital's images."""

from torch import Generator, Tensor

from fedrobust.contamination.base import Contamination
from fedrobust.utils.validation import Share, check_settings


@check_settings("contamination")
def mylab_darker(factor: Share = 0.5) -> Contamination:
    """Under-exposure.

    Args:
        factor: by which pixel values are multiplied; 1 changes nothing.
    """

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return images * factor, labels

    return Contamination("mylab_darker", data=data)
