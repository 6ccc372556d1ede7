"""Classifiers: a timm backbone with the fixed simplex-ETF head of the method, or with a linear head
to compare with."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fedrobust.errors import ConfigError
from fedrobust.learning.convolutions import avoid_strided_pointwise
from fedrobust.learning.fusion import FUSIONS, Fusion, Normalised, image_statistics
from fedrobust.learning.losses import full_precision
from fedrobust.learning.model_files import load_backbone, load_file
from fedrobust.learning.size_limits import LARGEST, check_options, limit_model_size
from fedrobust.utils.seeding import generator as named_generator
from fedrobust.utils.seeding import isolated
from fedrobust.utils.validation import choice, flag, number

# each with the scale of its scores in a softmax (METHOD: s >> 1 for inner products)
HEADS = {"etf": 16.0, "linear": 1.0}


class Classifier(nn.Module):
    """Images -> scores of K classes.

    ETF head: pooled features -> bias-free projection -> unit length -> inner products with the K
    fixed anchors, in [-1, 1]. The projection is needed: pooled ReLU features are never negative and
    cannot point along anchors of mixed signs. Linear head: logits. Attributes: num_classes, head
    ("etf" or "linear"), scale (softmax(scale * scores) are the probabilities), anchors (d, K) or
    None. The anchors and the normalisation are non-persistent buffers: in no state, in no
    optimizer.
    """

    anchors: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        num_classes: int,
        anchors: Tensor | None,
        scale: float,
    ) -> None:
        super().__init__()
        self.num_classes, self.scale = num_classes, scale
        self.head = "linear" if anchors is None else "etf"
        self.backbone = backbone
        for name, values in image_statistics(backbone).items():
            self.register_buffer(name, values, persistent=False)
        if anchors is None:
            self.last = nn.Linear(num_features, num_classes)
        else:
            self.last = nn.Linear(num_features, anchors.shape[0], bias=False)
        self.register_buffer(
            "anchors", None if anchors is None else anchors.detach().clone(), persistent=False
        )

    def features(self, images: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1] -> unit vectors (B, d) (ETF) or pooled features (B,
        F) (linear).

        A zero vector stays zero instead of becoming NaN.
        """
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        pooled = self.backbone(images)
        if self.anchors is None:
            return pooled  # type: ignore[no-any-return]
        projected = self.last(pooled)
        with full_precision(projected):
            return functional.normalize(projected.float(), dim=1, eps=1e-8)

    def forward(self, images: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1] -> scores (B, K), float32 for the ETF head."""
        features = self.features(images)
        if self.anchors is None:
            return self.last(features)  # type: ignore[no-any-return]
        with full_precision(features):
            return features @ self.anchors

    def probabilities(self, scores: Tensor) -> Tensor:
        """Scores (B, K) -> softmax(scale * scores), float32."""
        return functional.softmax(self.scale * scores.float(), dim=1)


@dataclass(frozen=True, slots=True)
class ModelFactory:
    """Checked settings of a model. `dimension` is that of the features which the anchors
    (dimension, K) must have. With `members` the backbone is theirs, fused (see `meff`)."""

    name: str
    head: str
    dimension: int
    scale: float
    pretrained: bool = False
    checkpoint: str | None = None
    stem: str = "standard"
    bn_momentum: float = 0.1
    options: Mapping[str, Any] = field(default_factory=dict)
    compile: str | None = None
    members: tuple[ModelFactory, ...] = ()
    fusion: str = "concatenate"

    def untrained(self) -> ModelFactory:
        """The same architecture without weights from the hub or from a file."""
        return replace(
            self,
            pretrained=False,
            checkpoint=None,
            members=tuple(one.untrained() for one in self.members),
        )

    def build(self, num_classes: int, anchors: Tensor | None, generator: Generator) -> Classifier:
        """A new classifier on the CPU, initialised from `generator` alone. `anchors` (dimension, K)
        for the ETF head, else None.

        Raises ConfigError where weights cannot be had or do not fit, ValueError for anchors of
        another shape.
        """
        wanted = (self.dimension, num_classes) if self.head == "etf" else None
        if (None if anchors is None else tuple(anchors.shape)) != wanted:
            raise ValueError(
                f"a model with head={self.head} and {num_classes} classes needs "
                f"anchors of shape {wanted}"
            )
        with isolated(generator):
            backbone = _backbone(self)
            # `num_features` are those before a head's own hidden layer (MobileNetV3), which timm
            # keeps without classes
            model = Classifier(
                backbone, backbone.head_hidden_size, num_classes, anchors, self.scale
            )
        if self.checkpoint is not None:
            load_file(self.checkpoint, model)
        # 1.1 (one thread) to 1.8 (two) times NCHW's speed on a CPU
        model.to(memory_format=torch.channels_last)
        if self.compile is not None:
            # in place: names, parameters and what `features` does stay
            model.compile(backend=self.compile)
        return model


def _backbone(factory: ModelFactory) -> Any:
    if factory.members:
        return _fused(factory)
    try:
        with limit_model_size():
            backbone = timm.create_model(
                factory.name,
                pretrained=factory.pretrained,
                num_classes=0,
                in_chans=3,
                **factory.options,
            )
    # timm and the hub raise all sorts; every one of them is a setting that does not work here
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if factory.pretrained:
            remedy = "use model.pretrained=false, or model.checkpoint=<file.safetensors>"
            raise ConfigError(
                f"model.pretrained=true: no weights for {factory.name} ({reason}); {remedy}"
            ) from error
        raise ConfigError(
            f"model.options={dict(factory.options)}: timm cannot build {factory.name} so ({reason})"
        ) from error
    if factory.stem == "small":
        _shrink_stem(backbone, factory.name)
    avoid_strided_pointwise(backbone)
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = factory.bn_momentum
    return backbone


def _fused(factory: ModelFactory) -> Fusion:
    backbones = [_backbone(one) for one in factory.members]
    for backbone, one in zip(backbones, factory.members, strict=True):
        if one.checkpoint is not None:
            load_backbone(one.checkpoint, backbone)
    try:
        return Fusion(
            [Normalised(one) for one in backbones],
            [one.head_hidden_size for one in backbones],
            factory.fusion,
        )
    except ValueError as error:
        raise ConfigError(
            f"model.fusion={factory.fusion}: {error}; use model.fusion=concatenate"
        ) from error


def _shrink_stem(backbone: Any, name: str) -> None:
    """A 3x3 convolution of stride 1 in place of ResNet's 7x7 of stride 2, for images up to 64
    pixels. The max-pool stays, for cost."""
    first = getattr(backbone, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(backbone, "maxpool"):
        raise ConfigError(
            "model.stem=small: is for ResNets with a single-convolution stem, not "
            f"for {name}; use model.stem=standard"
        )
    backbone.conv1 = nn.Conv2d(3, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")


def timm_model(
    name: str = "resnet50",
    *,
    head: str = "etf",
    dimension: int = 512,
    pretrained: bool = False,
    checkpoint: str | None = None,
    stem: str = "standard",
    scale: float | None = None,
    bn_momentum: float = 0.1,
    options: Mapping[str, Any] | None = None,
    compile: str | None = None,
) -> ModelFactory:
    """Any timm backbone that pools its features, by its timm name.

    head: etf or linear; dimension: of the ETF's space, at least K - 1; pretrained: timm's weights
    from the hub; checkpoint: a local safetensors file, of the whole classifier or of the timm
    backbone; stem: standard, or small for images up to 64 pixels; scale: of the scores in a softmax
    (default 16 for etf, 1 for linear); bn_momentum: share of the newest batch in BatchNorm's
    running statistics; options: further keyword arguments of timm's model; compile: a backend of
    torch.compile (inductor), or None. Raises ConfigError.
    """
    if not isinstance(name, str) or not timm.is_model(name):
        near = difflib.get_close_matches(str(name), timm.list_models(), n=3)
        raise ConfigError(
            f"model.name={name}: timm has no such model; "
            f"{'near names: ' + ', '.join(near) if near else 'try resnet50'}"
        )
    choice("model.head", head, tuple(HEADS))
    number("model.dimension", dimension, low=1, high=LARGEST, integer=True)
    flag("model.pretrained", pretrained)
    choice("model.stem", stem, ("standard", "small"))
    scale = HEADS[head] if scale is None else number("model.scale", scale, low=0, open_low=True)
    number("model.bn_momentum", bn_momentum, low=0, high=1, open_low=True)
    if checkpoint is not None and not isinstance(checkpoint, str):
        raise ConfigError(
            f"model.checkpoint={checkpoint}: must be the path of a safetensors file, or null"
        )
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(
            f"model.options={options}: must be a mapping of timm's keyword arguments, or null"
        )
    check_options("model.options", options or {})
    if pretrained and checkpoint is not None:
        raise ConfigError(
            f"model.checkpoint={checkpoint}: excludes model.pretrained=true; choose one"
        )
    if compile is not None:
        choice("model.compile", compile, tuple(torch.compiler.list_backends()))
    factory = ModelFactory(
        name,
        head,
        dimension,
        float(scale),
        pretrained,
        checkpoint,
        stem,
        bn_momentum,
        dict(options or {}),
        compile,
    )
    if (options or stem == "small") and not pretrained:
        with isolated(named_generator(0, "trial")):
            _backbone(factory)  # only building can tell whether timm takes them
    return factory


def meff(
    members: Sequence[Mapping[str, Any]],
    *,
    fusion: str = "concatenate",
    head: str = "etf",
    dimension: int = 512,
    checkpoint: str | None = None,
    scale: float | None = None,
) -> ModelFactory:
    """An ensemble with feature fusion: several timm backbones over the same images, their features
    side by side ("concatenate") or averaged ("mean"), and one classifier on top of them, trained
    together.

    members: of each the name, and stem, pretrained, checkpoint, bn_momentum and options as in
    `timm_model`; a checkpoint of a whole classifier gives its backbone. Other settings as in
    `timm_model`. Raises ConfigError.
    """
    if not isinstance(members, list | tuple) or not members:
        raise ConfigError(
            f"model.members={members}: must be a list of backbones, e.g. [{{name: "
            f"resnet18}},{{name: resnet34}}]"
        )
    choice("model.fusion", fusion, FUSIONS)
    top = timm_model("resnet18", head=head, dimension=dimension, checkpoint=checkpoint, scale=scale)
    built = tuple(_member(place, one) for place, one in enumerate(members))
    factory = replace(top, name="meff", members=built, fusion=fusion)
    if not any(one.pretrained for one in built):
        with isolated(named_generator(0, "trial")):
            _backbone(factory)  # only building can tell whether the features have a mean
    return factory


def _member(place: int, settings: Mapping[str, Any]) -> ModelFactory:
    known = ("name", "stem", "pretrained", "checkpoint", "bn_momentum", "options")
    if (
        not isinstance(settings, Mapping)
        or not set(settings) <= set(known)
        or "name" not in settings
    ):
        raise ConfigError(
            f"model.members.{place}={settings}: must have a name and may have "
            f"{', '.join(known[1:])}"
        )
    try:
        return timm_model(**settings)
    except ConfigError as error:
        raise ConfigError(str(error).replace("model.", f"model.members.{place}.")) from error
