"""Encoded pictures to uint8 RGB squares: what a viewer shows, in one range.

What is read: JPEG, PNG, BMP, TIFF, WebP, GIF and DICOM (`dicom`), by their content. Pixels are
turned as their EXIF orientation says, transparent ones are laid on white, 16-bit ones scaled to 8
bits. Refused: several pages or frames, pixels without a stated range (32 bits, floats), files that
end too early. Colour profiles and gamma are not applied.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from fedrobust.data.dicom import decode_dicom, is_dicom
from fedrobust.data.jpeg_ending import read_structure, refuse_early_end
from fedrobust.data.png16 import read_png16

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
# far above any dermatoscope, far below what a decompression bomb unfolds to
MAX_PIXELS = 50_000_000
LARGE_PIXELS = 12_000_000
one_large = threading.RLock()  # large pictures are decoded one at a time
WHITE = (255, 255, 255, 255)
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WHITE_IS_ZERO = 0  # a value of the tag; Pillow sees to it for 8 bits alone
DEEPEST = 16
# between its two limits Pillow only warns
warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode_image(
    data: bytes, size: int, bits: int | None = None, window: Sequence[float] | None = None
) -> tuple[NDArray[np.uint8], int | None]:
    """An encoded picture as a square.

    Args:
        data: the file.
        size: side of the square in pixels.
        bits: significant bits of 16-bit pixels, 8 to 16; None: 16.
        window: centre and width of the grey values of DICOM files; None: those in the file.

    Returns:
        The pixels (3, size, size) RGB, and the largest value of a picture whose range was taken for
        granted (16 bits, none given), else None.

    Raises:
        ValueError: the picture is refused, with the reason.
        dicom.MissingDecoderError: a package is not installed.
        Exception: Pillow's or pydicom's own errors for broken files.
    """
    if is_dicom(data):
        with one_large if len(data) > LARGE_PIXELS else nullcontext():
            pixels_HW3, peak = decode_dicom(data, MAX_PIXELS, bits, window)
            return squeeze(pixels_HW3, size), peak
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError("it is no JPEG, PNG, BMP, TIFF, WebP, GIF or DICOM") from error
    with image:
        pixels = image.width * image.height
        if pixels > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too many")
        _refuse_pages(image)
        with one_large if pixels > LARGE_PIXELS else nullcontext():
            structure = read_structure(data) if image.format == "JPEG" else None
            image.load()
            picture, peak = _eight_bits(image, data, bits)
            if structure is not None:
                refuse_early_end(structure, data, picture)
            return squeeze(np.asarray(_on_white(_turn(picture, image))), size), peak


def squeeze(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, 3) -> (3, size, size), resized with antialiasing where it has another size."""
    if pixels.shape[:2] != (size, size):
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    return pixels.transpose(2, 0, 1)


def _refuse_pages(image: Image.Image) -> None:
    # not n_frames, which reads the heads of all of them
    try:
        image.seek(1)
    except EOFError:
        return
    raise ValueError("it holds several pages or frames; store one picture a file")


def _turn(picture: Image.Image, source: Image.Image) -> Image.Image:
    """The picture as the file's EXIF orientation says that it is to be shown. Pillow turns a TIFF
    itself and drops the tag."""
    try:
        orientation = source.getexif().get(ORIENTATION)
    except Exception:  # viewers show a picture with broken EXIF as it is stored
        return picture
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB, transparent pixels as they look on white paper."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    if layer.getchannel("A").getextrema() == (0, 0):
        raise ValueError("every pixel is transparent")
    return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")


# --- more than 8 bits ---


def _eight_bits(
    image: Image.Image, data: bytes, bits: int | None
) -> tuple[Image.Image, int | None]:
    """The picture with 8 bits a channel (the same object where it has no more), and the largest
    value where its range was taken for granted."""
    depth = _depth(image, data)
    if depth <= 8 and image.mode not in ("I", "F"):
        return image, None
    if depth > DEEPEST or image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ValueError(
            f"{depth}-bit pixels ({image.mode}) have no stated range; convert them to 8 or 16 bits"
        )
    values = _deep_values(image, data)
    stated = depth if depth < DEEPEST else bits
    scaled, peak = _scale(values, stated, image)
    return scaled, peak if stated is None else None


def _depth(image: Image.Image, data: bytes) -> int:
    """Bits of a channel in the file; Pillow's mode tells only those that it keeps."""
    if image.format == "PNG":
        if data[12:16] != b"IHDR":
            raise ValueError("a PNG that does not begin with its header")
        return data[24]
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))))
    return 8


def _deep_values(image: Image.Image, data: bytes) -> NDArray[np.uint16]:
    """(H, W, C) of a picture with 9 to 16 bits: grey, grey and alpha, RGB or RGB and alpha."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.format != "PNG":
        raise ValueError("16-bit colour is read from PNG alone; convert it to PNG or to 8 bits")
    return read_png16(data)


def _scale(
    values: NDArray[np.uint16], bits: int | None, image: Image.Image
) -> tuple[Image.Image, int]:
    """Scaled by 255 / (2^bits - 1) and rounded; alpha always has the full range of its type."""
    channels = values.shape[2]
    colours = values[..., : 3 if channels >= 3 else 1]
    peak, top = int(colours.max()), 2 ** (bits or DEEPEST) - 1
    if peak > top:
        raise ValueError(f"it holds the value {peak}, which has more than {bits} bits")
    table = _table(top)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        table = table[::-1]
    planes = [table[colours]]
    key = image.info.get("transparency")
    if channels in (2, 4):
        planes.append(_table(2**DEEPEST - 1)[values[..., -1:]])
    elif key is not None:
        seen = (colours != np.asarray(key, dtype=np.uint16)).any(axis=2, keepdims=True)
        planes.append(np.where(seen, 255, 0).astype(np.uint8))
    pixels = np.concatenate(planes, axis=2)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels), peak


def _table(top: int) -> NDArray[np.uint8]:
    """The 8-bit value of each value from 0 to `top`."""
    table: NDArray[np.uint8] = np.rint(np.arange(top + 1) * (255 / top)).astype(np.uint8)
    return table
