"""Limits to what a configuration may have timm build: nothing that reads or fetches a file, and
nothing that exhausts the machine's memory.

A hospital's node builds the model of any configuration it is sent, so "as large as the
settings say" is no answer there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from fedrobust.errors import ConfigError

MOST_PARAMETERS = 2**30  # of a model: 4 GB
MOST_MODULES = 10_000  # a ResNet-152 has about 500
# of any whole number in timm's keyword arguments: channels, layers, sizes of images
LARGEST = 2**14
# Of timm's keyword arguments those that are ours to give, name files or addresses, or change what
# is returned.
OURS = (
    "name",
    "model_name",
    "num_classes",
    "in_chans",
    "features_only",
    "feature_cfg",
    "device",
    "dtype",
    "cache_dir",
    "checkpoint_path",
)


class OutOfBoundsError(ValueError):
    """A model that is larger than any that is allowed, or holds a weight without numbers."""


def check_options(key: str, options: Mapping[str, Any]) -> None:
    """Keyword arguments for timm. key: by which the configuration calls them. Raises
    ConfigError."""
    for name in options:
        if not isinstance(name, str) or name in OURS or name.startswith("pretrained"):
            raise ConfigError(
                f"{key}.{name}: is not one of timm's keywords that can be given here; leave it out"
            )
    left: list[Any] = list(options.values())
    while left:
        one = left.pop()
        if isinstance(one, int) and not -LARGEST <= one <= LARGEST:
            raise ConfigError(
                f"{key}: holds a whole number larger than {LARGEST}; give smaller ones"
            )
        left += (
            one.values()
            if isinstance(one, Mapping)
            else one
            if isinstance(one, list | tuple)
            else ()
        )


@contextmanager
def limit_model_size() -> Iterator[None]:
    """Within it a model that grows beyond the bounds ends in OutOfBoundsError. torch calls us when
    a parameter has got its memory but before it is written to, so that nothing large is ever really
    taken."""
    parameters, modules = [0], [0]

    def count_parameter(_: Any, __: str, parameter: Any) -> None:
        if parameter is None:
            return
        if not parameter.numel():
            raise OutOfBoundsError("a weight without numbers")
        parameters[0] += parameter.numel()
        if parameters[0] > MOST_PARAMETERS:
            raise OutOfBoundsError(f"more than {MOST_PARAMETERS} parameters")

    def count_module(_: Any, __: str, ___: Any) -> None:
        modules[0] += 1
        if modules[0] > MOST_MODULES:
            raise OutOfBoundsError(f"more than {MOST_MODULES} modules")

    hooks = [
        register_module_parameter_registration_hook(count_parameter),
        register_module_module_registration_hook(count_module),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
