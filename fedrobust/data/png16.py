"""PNG files with 16 bits a channel, of which Pillow keeps the high bytes of colour only."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SIGNATURE = 8  # bytes before the first chunk
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by the header's type of colour
LAST_FILTER = 4


def read_png16(data: bytes) -> NDArray[np.uint16]:
    """The values of a PNG file with 16 bits a channel (PNG specification, sections 7 to 10).

    Args:
        data: a file that Pillow has read without an error, so that its checksums are right.

    Returns:
        (H, W, C): grey, grey and alpha, RGB or RGB and alpha.

    Raises:
        ValueError: it is interlaced, or holds less than it says.
    """
    chunks = list(_chunks(data))
    header = chunks[0][1]
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    if header[12]:
        raise ValueError("16-bit PNG files are read without interlacing only; save it so")
    channels = CHANNELS[header[9]]
    row = 1 + 2 * channels * width
    packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    lines = zlib.decompressobj().decompress(packed, row * height)
    if len(lines) != row * height:
        raise ValueError("the file ends too early")
    lines_HB = np.frombuffer(lines, np.uint8).reshape(height, row)
    pixels = _unfilter(lines_HB[:, 1:].reshape(height, width, 2 * channels), lines_HB[:, 0])
    return pixels.view(">u2").astype(np.uint16)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = SIGNATURE
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4])
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def _unfilter(filtered: NDArray[np.uint8], filter_H: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, bytes of a pixel) without the filters of the lines. A pixel depends on those to the
    left, above and to the left above, so whole diagonals are computed at once."""
    if filter_H.max() > LAST_FILTER:
        raise ValueError("a line with an unknown filter")
    height, width, each = filtered.shape
    padded = np.zeros((height + 1, width + 1, each), np.uint8)
    padded[1:, 1:] = filtered
    flat, line = padded.reshape(-1, each), width + 1
    for diagonal in range(height + width - 1):
        top, bottom = max(0, diagonal - width + 1), min(height - 1, diagonal)
        first = (top + 1) * line + diagonal - top + 1
        places = slice(first, first + (bottom - top) * width + 1, width)
        left, above, corner = (
            flat[places.start - back : places.stop - back : width].astype(np.int16)
            for back in (1, line, line + 1)
        )
        flat[places] += _predict(filter_H[top : bottom + 1, None], left, above, corner)
    return np.ascontiguousarray(padded[1:, 1:])


def _predict(
    filter_n: NDArray[np.uint8],
    left: NDArray[np.int16],
    above: NDArray[np.int16],
    corner: NDArray[np.int16],
) -> NDArray[np.uint8]:
    """What the filters none, sub, up, average and Paeth predict of n pixels."""
    to_left, to_above = np.abs(above - corner), np.abs(left - corner)
    to_corner = np.abs(left + above - 2 * corner)
    paeth = np.where(
        (to_left <= to_above) & (to_left <= to_corner),
        left,
        np.where(to_above <= to_corner, above, corner),
    )
    nothing = np.zeros_like(left)
    chosen = np.choose(filter_n, [nothing, left, above, (left + above) >> 1, paeth])
    return chosen.astype(np.uint8)
