"""Images before and after contamination, for tests of the page."""

from __future__ import annotations

import torch

from fedrobust.reporting.samples import SampleBlock, make_block
from fedrobust.types import Samples


def sample_block(changed: bool, side: int = 12) -> SampleBlock:
    """Two images; the second has another label, and where asked one pixel of the first differs."""
    clean = torch.full((2, 3, side, side), 100, dtype=torch.uint8)
    other = clean.clone()
    if changed:
        other[0, :, 0, 0] = 130
    before, after = Samples(clean, torch.tensor([0, 1])), Samples(other, torch.tensor([0, 0]))
    return make_block("poisoned client 3: <hair>", before, after, ["mel", "nv"])
