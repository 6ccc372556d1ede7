"""A site's own copy of pretrained weights, for runs that freeze such: `model-weights` in its node
configuration.

Frozen weights are in no message, and nothing from the network names a file or has one fetched. So
the node itself names the file, or says that it has the weights which the extra `pretrained` brings;
whether they are those of the run is decided by the digest in the server's message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from fedrobust.errors import ConfigError
from fedrobust.learning.classifier import Classifier, ModelFactory
from fedrobust.learning.model_files import load_backbone, read_file
from fedrobust.learning.packaged_weights import PACKAGED, read_packaged
from fedrobust.utils.counting import format_count

WEIGHTS = "model-weights"
BY_PACKAGE = "packaged"  # the value that stands for the weights of `PACKAGED`
NONE = ""  # no weights of the node's own: those that the run's seed draws


def weights_to_try(node: Mapping[str, Any]) -> tuple[str, ...]:
    """What may be frozen at this node: its own copy, if it names one, and weights that the run's
    seed draws."""
    own = str(node.get(WEIGHTS, NONE))
    return (own, NONE) if own else (NONE,)


def build_with(
    weights: str,
    factory: ModelFactory,
    num_classes: int,
    anchors: Tensor | None,
    generator: Generator,
) -> Classifier:
    """A model whose backbone has these weights. weights: of `weights_to_try`. Raises ConfigError,
    in terms of the node's configuration, where they cannot be read or do not fit; DataError for a
    damaged cache."""
    if weights == NONE:
        return factory.build(num_classes, anchors, generator)
    if weights == BY_PACKAGE:
        if factory.name not in PACKAGED:
            raise ConfigError(
                f"{WEIGHTS}={weights}: stands for {', '.join(PACKAGED)}, not for {factory.name}"
            )
        return replace(factory, pretrained=True).build(num_classes, anchors, generator)
    model = factory.untrained().build(num_classes, anchors, generator)
    try:
        load_backbone(weights, model.backbone)
    except ConfigError as error:
        raise ConfigError(_own_words(error)) from error
    return model


def describe_own_weights(node: Mapping[str, Any]) -> str:
    """What the node's copy is, once it has been read. Raises ConfigError or DataError."""
    weights = str(node[WEIGHTS])
    if weights == BY_PACKAGE:
        for name in PACKAGED:
            read_packaged(name)
        return f"those of {', '.join(PACKAGED)}"
    try:
        tensors = read_file(weights)
    except ConfigError as error:
        raise ConfigError(_own_words(error)) from error
    with Path(weights).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{format_count(len(tensors), 'tensor')} in {weights}, its SHA-256 is {digest}"


def _own_words(error: ConfigError) -> str:
    return str(error).replace("model.checkpoint=", f"{WEIGHTS}=")
