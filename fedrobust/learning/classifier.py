"""Classifiers: a timm backbone with the fixed simplex-ETF head of the method, or with a linear head
to compare with."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import timm
import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fedrobust.errors import ConfigError
from fedrobust.learning.convolutions import avoid_strided_pointwise
from fedrobust.learning.freezing import (
    Freeze,
    freeze_backbone,
    frozen_digest,
    keep_frozen_in_eval_mode,
)
from fedrobust.learning.fusion import FUSIONS, Fusion, Normalised, image_statistics
from fedrobust.learning.hub import prefer_cache_if_offline
from fedrobust.learning.losses import full_precision
from fedrobust.learning.model_files import fill_backbone, load_backbone, load_file
from fedrobust.learning.packaged_weights import (
    PACKAGED,
    describe_pretrained,
    read_packaged,
)
from fedrobust.learning.size_limits import LARGEST, check_options, limit_model_size
from fedrobust.state import is_frozen
from fedrobust.utils.seeding import generator as named_generator
from fedrobust.utils.seeding import isolated
from fedrobust.utils.validation import (
    OneOf,
    Positive,
    PositiveShare,
    Words,
    check,
    check_settings,
    flatten_groups,
)

# each with the scale of its scores in a softmax (inner products of unit vectors need one above 1)
HEADS = {"etf": 16.0, "linear": 1.0}
MOST_VIEWS = 64  # of an image; each takes as much room as its features
Checkpoint = Annotated[str, Words("the path of a safetensors file")]


class Classifier(nn.Module):
    """Images -> scores of K classes.

    ETF head: pooled features -> bias-free projection -> unit length -> inner products with the K
    fixed anchors, in [-1, 1]. The projection is needed: pooled ReLU features are never negative and
    cannot point along anchors of mixed signs. Linear head: logits. Attributes: num_classes, head
    ("etf" or "linear"), scale (softmax(scale * scores) are the probabilities), anchors (d, K) or
    None. The anchors and the normalisation are non-persistent buffers: in no state, in no
    optimizer. num_features: width F of the pooled features. `hidden` (`hidden_layers`) stands
    between the pooled features and the last layer. A frozen part of
    the backbone is always in eval mode.
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
        *,
        hidden: nn.Sequential | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features, self.scale = num_classes, num_features, scale
        self.head = "linear" if anchors is None else "etf"
        self.backbone = backbone
        for name, values in image_statistics(backbone).items():
            self.register_buffer(name, values, persistent=False)
        self.hidden = hidden or nn.Sequential()
        sizes = [one.out_features for one in self.hidden if isinstance(one, nn.Linear)]
        num_features = [num_features, *sizes][-1]
        if anchors is None:
            self.last = nn.Linear(num_features, num_classes)
        else:
            self.last = nn.Linear(num_features, anchors.shape[0], bias=False)
        self.register_buffer(
            "anchors", None if anchors is None else anchors.detach().clone(), persistent=False
        )

    def train(self, mode: bool = True) -> Self:
        """As every module's, but frozen parts stay in eval mode."""
        self.training = mode
        for child in self.children():
            if not is_frozen(child):
                child.train(mode)
                keep_frozen_in_eval_mode(child)
        return self

    def pool(self, images: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1] -> pooled features (B, F) of the backbone. Of a
        frozen backbone they have a gradient only with respect to images that want one."""
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.backbone(images)  # type: ignore[no-any-return]

    def features(self, inputs: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1], or pooled features (B, F) of such -> unit vectors
        (B, d) (ETF) or what the last layer gets (linear).

        A zero vector stays zero instead of becoming NaN.
        """
        pooled = inputs if inputs.ndim == 2 else self.pool(inputs)
        hidden = self.hidden(pooled)
        if self.anchors is None:
            return hidden  # type: ignore[no-any-return]
        projected = self.last(hidden)
        with full_precision(projected):
            return functional.normalize(projected.float(), dim=1, eps=1e-8)

    def forward(self, inputs: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1], or pooled features (B, F) of such -> scores (B, K),
        float32 for the ETF head."""
        features = self.features(inputs)
        if self.anchors is None:
            return self.last(features)  # type: ignore[no-any-return]
        with full_precision(features):
            return features @ self.anchors

    def probabilities(self, scores: Tensor) -> Tensor:
        """Scores (B, K) -> softmax(scale * scores), float32."""
        return functional.softmax(self.scale * scores.float(), dim=1)

    def frozen_digest(self) -> str:
        """SHA-256 of what is frozen (see `freezing.frozen_digest`); empty where nothing is."""
        return frozen_digest(self)


def hidden_layers(
    num_features: int, sizes: Sequence[int], momentum: float | None = None
) -> nn.Sequential:
    """Linear layers, each with a ReLU: (B, num_features) -> (B, sizes[-1]); without sizes what
    comes in. momentum: of a BatchNorm between the two; None: there is none."""
    layers: list[nn.Module] = []
    for before, after in pairwise([num_features, *sizes]):
        norm = [] if momentum is None else [nn.BatchNorm1d(after, momentum=momentum)]
        layers += [nn.Linear(before, after), *norm, nn.ReLU()]
    return nn.Sequential(*layers)


@dataclass(frozen=True, slots=True)
class ModelFactory:
    """Checked settings of a model. `dimension` is that of the features which the anchors
    (dimension, K) must have. With `members` the backbone is theirs, fused (see `meff`), and
    `freeze` is what is frozen of each."""

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
    freeze: str | int = "none"
    adapter_rank: int = 8
    hidden: tuple[int, ...] = ()
    hidden_batchnorm: bool = False
    feature_cache: bool = True
    feature_views: int = 4

    @property
    def frozen_backbone(self) -> bool:
        """Whether no weight and no statistic of the backbone changes."""
        return self.freeze == "backbone"

    @property
    def learns_from_features(self) -> bool:
        """Whether models get features of the frozen backbone instead of images, wherever nothing
        needs the pixels."""
        return self.frozen_backbone and self.feature_cache

    def untrained(self) -> ModelFactory:
        """The same architecture without weights from the hub or from a file."""
        return replace(
            self,
            pretrained=False,
            checkpoint=None,
            members=tuple(one.untrained() for one in self.members),
        )

    def without_sent(self) -> ModelFactory:
        """The same for whoever loads a received state: without weights from the hub or from a file
        unless a part is frozen, which no state holds."""
        return self.untrained() if self.freeze == "none" else self

    def weights(self) -> tuple[dict[str, str], ...]:
        """Where the first weights of the backbone, or of each member's, come from; none where they
        are drawn."""
        members = tuple(found for one in self.members for found in one.weights())
        own = []
        if self.pretrained:
            own.append({"model": self.name, **describe_pretrained(self.name)})
        if self.checkpoint is not None:
            own.append({"model": self.name, "source": self.checkpoint})
        return (*own, *members)

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
                backbone,
                backbone.head_hidden_size,
                num_classes,
                anchors,
                self.scale,
                hidden=hidden_layers(
                    backbone.head_hidden_size,
                    self.hidden,
                    self.bn_momentum if self.hidden_batchnorm else None,
                ),
            )
        if self.checkpoint is not None:
            load_file(self.checkpoint, model)
        # 1.1 (one thread) to 1.8 (two) times NCHW's speed on a CPU
        model.to(memory_format=torch.channels_last)
        if self.compile is not None:
            # in place: names, parameters and what `features` does stay
            model.compile(backend=self.compile)
        return model


def is_compiled(model: nn.Module) -> bool:
    """Whether the model answers through torch.compile (the setting model.compile)."""
    return model._compiled_call_impl is not None


def _backbone(factory: ModelFactory) -> Any:
    if factory.members:
        return _fused(factory)
    offline, from_hub = "", factory.pretrained and factory.name not in PACKAGED
    try:
        with (
            limit_model_size(),
            prefer_cache_if_offline() if from_hub else nullcontext("") as offline,
        ):
            backbone = timm.create_model(
                factory.name,
                pretrained=from_hub,
                num_classes=0,
                in_chans=3,
                **factory.options,
            )
    # timm and the hub raise all sorts; every one of them is a setting that does not work here
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if from_hub:
            if offline and isinstance(error, OSError):
                reason = f"{offline}; none in its cache"
            remedy = "use model.pretrained=false, or model.checkpoint=<file.safetensors>"
            raise ConfigError(
                f"model.pretrained=true: no weights for {factory.name} ({reason}); {remedy}"
            ) from error
        raise ConfigError(
            f"model.options={dict(factory.options)}: timm cannot build {factory.name} so ({reason})"
        ) from error
    if factory.pretrained and not from_hub:
        fill_backbone("model.pretrained=true", backbone, read_packaged(factory.name))
    if factory.stem == "small":
        _shrink_stem(backbone, factory.name)
    avoid_strided_pointwise(backbone)
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = factory.bn_momentum
    freeze_backbone(backbone, factory.freeze, factory.adapter_rank)
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


@check_settings("model")
@dataclass(frozen=True, slots=True)
class HeadSettings:
    """The classifier on top of the pooled features.

    Attributes:
        head: the simplex ETF, fixed, or a linear layer, trained.
        dimension: dimension of the space in which the ETF lies, at least classes - 1.
        scale: factor of the scores in a softmax; null: 16 for etf, 1 for linear.
        hidden: sizes of layers, each with a ReLU, between the pooled features and the last layer.
        hidden_batchnorm: whether each of them has BatchNorm before its ReLU.
    """

    head: Literal["etf", "linear"] = "etf"
    dimension: Annotated[int, Field(ge=1, le=LARGEST)] = 512
    scale: Positive | None = None
    hidden: Annotated[
        Sequence[Annotated[int, Field(ge=1, le=LARGEST)]],
        Field(max_length=8),
        Words(f"a list of at most 8 whole numbers from 1 to {LARGEST}, e.g. [128, 64]"),
    ] = ()
    hidden_batchnorm: bool = False


@check_settings("model")
@dataclass(frozen=True, slots=True)
class BackboneSettings:
    """Options of timm's model.

    Attributes:
        pretrained: whether it starts from timm's weights, fetched from its hub; those of
            tf_efficientnet_lite0 come with the extra `pretrained`.
        checkpoint: safetensors file of the whole classifier or of timm's model; null: none.
        stem: small: a first convolution of 3x3 with stride 1, untrained, for images up to 64
            pixels.
        bn_momentum: share of the newest batch in BatchNorm's running statistics.
        options: further keyword arguments of timm's model; null: none.
        freeze: what keeps its weights and BatchNorm statistics and is not sent: nothing, the whole
            backbone, its BatchNorm layers, all of a vision transformer but the adapters beside its
            attention, or with a whole number all but so many last stages.
        adapter_rank: of the adapters, with freeze=adapters.
    """

    pretrained: bool = False
    checkpoint: Checkpoint | None = None
    stem: Literal["standard", "small"] = "standard"
    bn_momentum: PositiveShare = 0.1
    options: Annotated[Mapping[Any, Any], Words("a group of timm's keyword arguments")] | None = (
        None
    )
    freeze: Freeze = "none"
    adapter_rank: Annotated[int, Field(ge=1, le=1024)] = 8

    def __post_init__(self) -> None:
        check_options("model.options", self.options or {})
        if self.pretrained and self.checkpoint is not None:
            raise ConfigError(
                f"model.checkpoint={self.checkpoint}: excludes model.pretrained=true; choose one"
            )


@check_settings("model")
@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """Features of the images, in models with freeze=backbone.

    Attributes:
        feature_cache: whether an image goes through the frozen backbone once, and its features are
            kept on disk.
        feature_views: of each training image, one unaugmented and the others augmented; training
            draws one of them for each image of a batch.
    """

    feature_cache: bool = True
    feature_views: Annotated[int, Field(ge=1, le=MOST_VIEWS)] = 4


@flatten_groups
@check_settings("model")
def timm_model(
    name: str = "resnet50",
    *,
    classifier: HeadSettings,
    backbone: BackboneSettings,
    features: FeatureSettings,
    compile: str | None = None,
) -> ModelFactory:
    """Any timm backbone that pools its features.

    The fields of the groups are keys of their own: `model.head`, not `model.classifier.head`.

    Args:
        name: timm's name of the backbone.
        classifier: what stands on top of it.
        backbone: how it is made.
        features: what stands in for images where it is frozen.
        compile: backend of torch.compile, e.g. inductor, which needs a C++ compiler; null: none.

    Returns:
        What builds the model.

    Raises:
        ConfigError: a setting is out of its range, timm has no such model, or it does not take the
            options.
    """
    _check_name(name)
    if compile is not None:
        check("model.compile", compile, Annotated[str, OneOf(torch.compiler.list_backends())])
    factory = ModelFactory(
        name,
        classifier.head,
        classifier.dimension,
        _scale(classifier),
        backbone.pretrained,
        backbone.checkpoint,
        backbone.stem,
        backbone.bn_momentum,
        dict(backbone.options or {}),
        compile,
        freeze=backbone.freeze,
        adapter_rank=backbone.adapter_rank,
        hidden=tuple(classifier.hidden),
        hidden_batchnorm=classifier.hidden_batchnorm,
        feature_cache=features.feature_cache,
        feature_views=features.feature_views,
    )
    if (backbone.options or backbone.stem == "small") and not backbone.pretrained:
        _try_to_build(factory)  # only building can tell whether timm takes them
    return factory


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ConfigError(
            f"model.name={name}: timm has no such model; "
            f"{'near names: ' + ', '.join(near) if near else 'try resnet50'}"
        )


def _scale(classifier: HeadSettings) -> float:
    return HEADS[classifier.head] if classifier.scale is None else float(classifier.scale)


def _try_to_build(factory: ModelFactory) -> None:
    with isolated(named_generator(0, "trial")):
        _backbone(factory)


def _narrow_resnet(name: str, layers: Sequence[int], channels: Sequence[int]) -> dict[str, Any]:
    options = {"output_stride": 32, "layers": list(layers), "channels": list(channels)}
    return {"name": name, "stem": "small", "options": options}


NARROW_MEMBERS = (
    _narrow_resnet("resnet18", (1, 1, 1, 1), (24, 48, 96, 192)),
    _narrow_resnet("resnet50", (1, 1, 1, 1), (16, 32, 48, 96)),
    _narrow_resnet("resnet18", (1, 1, 2, 1), (16, 32, 64, 128)),
)


@flatten_groups
@check_settings("model")
def meff(
    members: Annotated[
        Sequence[Mapping[Any, Any]],
        Field(min_length=1),
        Words("a list of backbones, e.g. [{name: resnet18},{name: resnet34}]"),
    ] = NARROW_MEMBERS,
    *,
    fusion: Annotated[str, OneOf(FUSIONS)] = "concatenate",
    classifier: HeadSettings,
    checkpoint: Checkpoint | None = None,
    freeze: Freeze = "none",
    features: FeatureSettings,
) -> ModelFactory:
    """An ensemble with feature fusion: several timm backbones over the same images and one
    classifier on top of them, trained together.

    Args:
        members: of each backbone its name and, optionally, stem, pretrained, checkpoint,
            bn_momentum, adapter_rank and options as in the other models; a checkpoint of a whole
            classifier gives its backbone.
        fusion: whether the backbones' features are put side by side or averaged.
        classifier: what stands on top of them; its fields are keys of their own.
        checkpoint: safetensors file of the whole ensemble; null: none.
        freeze: what keeps its weights and BatchNorm statistics in every backbone and is not sent;
            as in the other models.
        features: what stands in for images where all of them are frozen.

    Returns:
        What builds the model.

    Raises:
        ConfigError: a setting is out of its range, a member cannot be built, or members of
            different widths are to be averaged.
    """
    built = tuple(replace(_member(place, one), freeze=freeze) for place, one in enumerate(members))
    factory = ModelFactory(
        "meff",
        classifier.head,
        classifier.dimension,
        _scale(classifier),
        checkpoint=checkpoint,
        members=built,
        fusion=fusion,
        freeze=freeze,
        hidden=tuple(classifier.hidden),
        hidden_batchnorm=classifier.hidden_batchnorm,
        feature_cache=features.feature_cache,
        feature_views=features.feature_views,
    )
    if not any(one.pretrained for one in built):
        _try_to_build(factory)  # only building can tell whether the features have a mean
    return factory


def _member(place: int, settings: Mapping[str, Any]) -> ModelFactory:
    known = ("name", "stem", "pretrained", "checkpoint", "bn_momentum", "adapter_rank", "options")
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
