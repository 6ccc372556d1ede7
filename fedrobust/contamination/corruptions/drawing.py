"""Drawing on many images at once: masks (N, H, W) in [0, 1] from formulas, and ink laid on through
them.

Places and lengths are in units of the shorter side; pixel centres have the coordinates of `canvas`.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Letters and digits of 3 x 5 cells: five rows from the top, each a digit whose three bits are the
# cells from the left.
GLYPHS = {
    **{
        "A": "25755",
        "B": "65656",
        "C": "34443",
        "D": "65556",
        "E": "74647",
        "F": "74644",
        "G": "34553",
        "H": "55755",
        "I": "72227",
    },
    **{
        "J": "11152",
        "K": "55655",
        "L": "44447",
        "M": "57755",
        "N": "65555",
        "O": "25552",
        "P": "65644",
        "Q": "25563",
        "R": "65655",
    },
    **{
        "S": "34216",
        "T": "72222",
        "U": "55557",
        "V": "55552",
        "W": "55775",
        "X": "55255",
        "Y": "55222",
        "Z": "71247",
    },
    **{
        "0": "75557",
        "1": "26227",
        "2": "61247",
        "3": "61216",
        "4": "55711",
        "5": "74616",
        "6": "34752",
        "7": "71222",
        "8": "25252",
    },
    **{"9": "25716"},
}
SIGNS = "".join(GLYPHS)
ROWS, PITCH = 5, 4  # cells: height of a sign, and from one sign to the next


def canvas(images: Tensor) -> tuple[Tensor, Tensor]:
    """(y, x): pixel centres, (H, 1) and (1, W), in units of the shorter side, from the upper left
    corner."""
    height, width = images.shape[-2:]
    side = min(height, width)
    rows, columns = (torch.arange(size, device=images.device) + 0.5 for size in (height, width))
    return rows[:, None] / side, columns[None] / side


def pixel(images: Tensor) -> float:
    """A pixel's width in units of the shorter side."""
    return 1 / min(images.shape[-2:])


def ink(images: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """Images with `colour` (3,) or (N, 3) laid on where mask (N or 1, H, W) is 1, mixed in
    between."""
    return torch.lerp(
        images, colour.to(images)[..., None, None].expand_as(images), mask[:, None].to(images)
    )


def ruler_ticks(along: Tensor, inward: Tensor, pitch: float, length: float, width: float) -> Tensor:
    """Ticks at multiples of `pitch` that start at inward = 0: 1 on them, else 0. Every fifth is
    `length` long, the others half of it."""
    number = torch.round(along / pitch)
    near = (along - number * pitch).abs() <= width / 2
    reach = torch.where(number % 5 == 0, length, length / 2)
    return (near & (inward >= 0) & (inward <= reach)).to(along.dtype)


def text(images: Tensor, signs_NL: Tensor, top_N: Tensor, left_N: Tensor, cell: int) -> Tensor:
    """(N, H, W) mask of one line of text on each image. signs_NL: places in SIGNS, -1 for nothing.
    top, left: pixels; cell: pixels of one of the 3 x 5 cells. What lies beyond the border is cut
    off."""
    glyphs = torch.tensor(
        [
            [
                int(row) >> 2 - bit & 1 if bit < 3 else 0
                for row in GLYPHS[one]
                for bit in range(PITCH)
            ]
            for one in SIGNS
        ]
    )
    nothing = torch.zeros(1, ROWS * PITCH, dtype=glyphs.dtype)
    cells = torch.cat([glyphs, nothing]).view(-1, ROWS, PITCH)[signs_NL]
    line = cells.transpose(1, 2).flatten(2)  # (N, 5, 4 L)
    height, width = images.shape[-2:]
    row = (torch.arange(height) - top_N[:, None]).div(cell, rounding_mode="floor").long()
    column = (torch.arange(width) - left_N[:, None]).div(cell, rounding_mode="floor").long()
    inside = ((row >= 0) & (row < ROWS))[:, :, None] & ((column >= 0) & (column < line.shape[2]))[
        :, None
    ]
    at = (
        torch.arange(len(images))[:, None, None],
        row.clamp(0, ROWS - 1)[:, :, None],
        column.clamp(0, line.shape[2] - 1)[:, None],
    )
    return line[at] * inside


def signs(word: str) -> Tensor:
    """(L,) places in SIGNS; what is not there becomes a blank."""
    return torch.tensor([SIGNS.find(one) for one in word.upper()])
