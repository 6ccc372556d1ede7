"""Images of the data set before and after contamination, for the page."""

from __future__ import annotations

import hashlib
import itertools
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from fedrobust.data import TRAIN, tensor_cache
from fedrobust.experiment.experiment import Experiment
from fedrobust.types import Samples
from fedrobust.utils.images import as_bytes
from fedrobust.utils.program import program_digest
from fedrobust.utils.seeding import generator

SHOWN = 8  # images of a kind
SIDE = 96  # pixels of the longer side at most; larger images are made smaller
LOSSLESS = 64  # pixels of the longer side up to which images are PNG, else JPEG
QUALITY = 85  # of JPEG, percent
GREY = 128  # where a difference is zero
WIDEST = 8.0  # a difference is shown at most so many times larger


@dataclass(frozen=True, slots=True)
class Tile:
    """One image before and after, as data addresses; after and difference are empty where no pixel
    changes."""

    label: str
    new_label: str
    before: str
    after: str = ""
    difference: str = ""

    @property
    def changed(self) -> bool:
        """Whether the label changes."""
        return self.label != self.new_label


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """Tiles of one contamination. gain: how many times larger differences are shown; crisp: whether
    the images have so few pixels that each should stay visible."""

    title: str
    tiles: tuple[Tile, ...]
    gain: float = 1.0
    crisp: bool = False


def sample_blocks(experiment: Experiment) -> list[SampleBlock]:
    """Two clients of each contaminated kind (one clean client where there is none), then the
    corrupted test images."""
    names = list(experiment.dataset.class_names)
    return [
        make_block(title, clean, contaminated, names)
        for title, clean, contaminated in sample_rows(experiment)
    ]


def make_block(
    title: str, clean: Samples, contaminated: Samples, names: Sequence[str]
) -> SampleBlock:
    """The tiles of pairs of images.

    Args:
        title: of the block.
        clean: the images.
        contaminated: the same, contaminated.
        names: of the classes.
    """
    before, after = as_bytes(clean.images), as_bytes(contaminated.images)
    changes = after.to(torch.int16) - before.to(torch.int16)
    changed = bool(changes.any())
    gain = _gain(changes) if changed else 1.0
    shades = (changes.float() * gain + GREY).clamp(0, 255).to(torch.uint8)
    tiles = tuple(
        Tile(
            names[old],
            names[new],
            encode_image(before[place]),
            encode_image(after[place]) if changed else "",
            encode_image(shades[place]) if changed else "",
        )
        for place, (old, new) in enumerate(
            zip(clean.labels.tolist(), contaminated.labels.tolist(), strict=True)
        )
    )
    return SampleBlock(title, tiles, gain, max(before.shape[-2:]) <= LOSSLESS)


def _gain(changes: Tensor) -> float:
    """So that nearly all differences stay within the range of shades, a power of two."""
    largest = float(changes.abs().float().flatten().kthvalue(_rank(changes.numel())).values)
    gain = 1.0
    while gain < WIDEST and 2 * gain * max(largest, 1.0) < GREY:
        gain *= 2
    return gain


def _rank(number: int) -> int:
    return max(int(0.999 * number), 1)


def encode_image(image: Tensor) -> str:
    """A (C, H, W) uint8 image, C = 1 or 3, as a data address."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    made = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    made.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    small = max(made.size) <= LOSSLESS
    out = BytesIO()
    if small:
        made.save(out, "PNG")
    else:
        made.save(out, "JPEG", quality=QUALITY)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{b64encode(out.getvalue()).decode('ascii')}"


def sample_rows(experiment: Experiment) -> list[tuple[str, Samples, Samples]]:
    """Two clients of each contaminated kind (one clean client where there is none), then the
    corrupted test images."""
    chosen = [
        client for kind in ("poisoned", "noisy") for client in experiment.clients_of_kind(kind)[:2]
    ] or [0]
    chosen = [] if experiment.remote else chosen
    titles = []
    for client in chosen:
        sites = " + ".join(experiment.sites_of(client))
        name = f"{client} {sites}".rstrip()
        titles.append(
            f"{experiment.roles[client]} client {name}: {experiment.contamination(client).name}"
        )
    titles.append(f"test images: {experiment.corruption.name}")
    pairs = _kept_pairs if experiment.model.learns_from_features else _sample_pairs
    return [(title, *pair) for title, pair in zip(titles, pairs(experiment, chosen), strict=True)]


def _sample_pairs(experiment: Experiment, chosen: Sequence[int]) -> list[tuple[Samples, Samples]]:
    """Training images of the chosen clients, clean and contaminated, then test images, clean and
    corrupted."""
    pairs = [
        _few(experiment.samples(experiment.rows(client, TRAIN)), experiment.shard(client).train)
        for client in chosen
    ]
    test = experiment.samples(experiment.test_rows())
    return [*pairs, _few(test, experiment.corrupt(test))]


def _kept_pairs(experiment: Experiment, chosen: Sequence[int]) -> list[tuple[Samples, Samples]]:
    """The same beside the features, so that a second run alters no image for its pictures
    either."""
    settings = experiment.settings
    kinds = [experiment.roles[client] for client in chosen]
    rows = torch.cat([*(experiment.parts[client] for client in chosen), experiment.test_rows()])
    content = {
        "pictures": [list(chosen), kinds],
        "ranks": [experiment.roles[:client].count(experiment.roles[client]) for client in chosen],
        "rows": hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest(),
        "data": experiment.dataset.digest,
        "classes": list(experiment.dataset.class_names),
        "seed": experiment.seed,
        "groups": [
            dict(group.written)
            for group in (settings.contamination, settings.noise, settings.corruption)
        ],
        "program": program_digest(settings.plugins),
    }

    def make() -> dict[str, Tensor]:
        return {
            f"{place}.{key}": getattr(samples, key).contiguous()
            for place, samples in enumerate(itertools.chain(*_sample_pairs(experiment, chosen)))
            for key in ("images", "labels")
        }

    kept = tensor_cache.tensors(content, make)
    sides = [
        Samples(kept[f"{place}.images"], kept[f"{place}.labels"]) for place in range(len(kept) // 2)
    ]
    return list(zip(sides[::2], sides[1::2], strict=True))


def _few(clean: Samples, contaminated: Samples) -> tuple[Samples, Samples]:
    """At most SHOWN pairs, spread over the samples, those that changed first."""
    changed = clean.labels != contaminated.labels
    if contaminated.images is not clean.images:
        changed |= (as_bytes(clean.images) != as_bytes(contaminated.images)).flatten(1).any(dim=1)
    spread = torch.randperm(len(clean), generator=generator(0, "samples"))
    index = spread[changed[spread].logical_not().to(torch.int8).argsort(stable=True)][:SHOWN]
    return clean.take(index), contaminated.take(index)
