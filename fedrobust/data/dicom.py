"""DICOM files to 8-bit RGB: the modality's and the viewer's transformations as the file, or the
user, states them. Of the file nothing but the picture is used; pydicom is imported late (the extra
`dicom`)."""

from __future__ import annotations

import functools
import io
import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREAMBLE, MARK = 128, b"DICM"
DEFLATED = "1.2.840.10008.1.2.1.99"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
INSTALL = "pip install 'fedrobust[dicom]'"
DECODERS = "pip install python-gdcm"
ENDLESS = 1e12  # beyond any stored value


class MissingDecoderError(Exception):
    """A package that reads the file is not installed: not the file's fault."""


def is_dicom(data: bytes) -> bool:
    """Whether the content begins as DICOM files do (DICOM PS3.10, section 7.1)."""
    return data[PREAMBLE : PREAMBLE + len(MARK)] == MARK


def decode_dicom(
    data: bytes, most_pixels: int, bits: int | None, window: Sequence[float] | None
) -> tuple[NDArray[np.uint8], int | None]:
    """The picture of a DICOM file.

    Grey values go through rescale slope and intercept (or the modality's table), then through the
    wanted window, else the file's VOI table, else its first window; without any of them the stated
    range of the stored values becomes 0 to 255. MONOCHROME1 is inverted.

    Args:
        data: the file.
        most_pixels: more are refused.
        bits: significant bits of 16-bit values without a window; None: 16.
        window: centre and width after the rescale; None: the file's.

    Returns:
        The pixels (H, W, 3), and the largest value where a range of 16 bits was taken for granted,
        else None.

    Raises:
        ValueError: the picture is refused, with the reason.
        MissingDecoderError: a package is not installed.
        Exception: pydicom's own errors for broken files.

    Reference:
        DICOM PS3.3, C.7.6.3 and C.11.
    """
    file = _read(data)
    _refuse(file, most_pixels)
    _check_decoder(file)
    from pydicom.pixels import apply_color_lut, pixel_array

    values, colours = pixel_array(file), file.PhotometricInterpretation
    if colours in COLOUR:
        return np.ascontiguousarray(values), None
    if colours == PALETTE:
        found = apply_color_lut(values, file)[..., :3]
        scale = 1 if found.dtype == np.uint8 else 255 / (2**16 - 1)
        return np.rint(found * scale).astype(np.uint8), None
    unit, peak = _grey(file, values, bits, window)
    shown = 1 - unit if colours == "MONOCHROME1" else unit
    return np.repeat(np.rint(255 * shown).astype(np.uint8)[..., None], 3, axis=2), peak


@functools.cache
def _pydicom() -> Any:
    if find_spec("pydicom") is None:
        raise MissingDecoderError(f"DICOM files need the package pydicom; {INSTALL}")
    import pydicom

    # of values beside the picture nothing is used, so nothing is complained of
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # errors come as exceptions, too
    return pydicom


def _read(data: bytes) -> Any:
    pydicom = _pydicom()
    from pydicom.filereader import read_dataset

    # the head of the file alone, since the rest of a deflated one unfolds without a limit
    stream = io.BytesIO(data)
    stream.seek(PREAMBLE + len(MARK))
    head = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
    syntax = head.get("TransferSyntaxUID")
    if syntax is None:
        raise ValueError("a DICOM file that does not say how it is encoded")
    if syntax == DEFLATED:
        raise ValueError("a deflated DICOM file; store it without compression")
    return pydicom.dcmread(io.BytesIO(data))


def _refuse(file: Any, most_pixels: int) -> None:
    """Raises ValueError for what is no single picture in a known colour space."""
    if "PixelData" not in file:
        raise ValueError("a DICOM file without a picture")
    if str(file.get("NumberOfFrames") or 1).strip() != "1":
        raise ValueError("it holds several frames; store one picture a file")
    pixels = int(file.Rows) * int(file.Columns)
    if pixels > most_pixels:
        raise ValueError(f"{file.Columns}x{file.Rows} pixels are too many")
    colours, channels = file.get("PhotometricInterpretation"), int(file.get("SamplesPerPixel", 1))
    known = (*GREY, PALETTE) if channels == 1 else COLOUR
    if channels not in (1, 3) or colours not in known:
        raise ValueError(f"the colour space {colours} of {channels} channels is not read")
    allocated = int(file.BitsAllocated)
    if allocated > (16 if channels == 1 else 8):
        raise ValueError(f"{allocated}-bit pixels ({colours}) are not read; convert them")


def _check_decoder(file: Any) -> None:
    from pydicom.pixels import get_decoder

    syntax = file.file_meta.TransferSyntaxUID
    if not get_decoder(syntax).is_available:
        raise MissingDecoderError(
            f"compressed as {syntax.name}, for which no decoder is installed; "
            f"{DECODERS}, or store such files without compression"
        )


def _grey(
    file: Any, values: NDArray[Any], bits: int | None, window: Sequence[float] | None
) -> tuple[NDArray[np.float64], int | None]:
    """Shares of the shown range from 0 to 1, before MONOCHROME1 is inverted."""
    from pydicom.pixels import apply_modality_lut, apply_windowing

    rescaled = apply_modality_lut(values, file)
    if window is not None:
        file.WindowCenter, file.WindowWidth = window
        file.VOILUTFunction = "LINEAR"
    elif file.get("VOILUTSequence"):
        return _by_table(file, rescaled), None
    if file.get("WindowWidth") is None or file.get("WindowCenter") is None:
        return _stated_range(file, values, bits)
    # the ends of the shown range are where endless values go
    low, high = apply_windowing(np.array([-ENDLESS, ENDLESS]), file)
    shown = apply_windowing(rescaled.astype(np.float64), file)
    return np.clip((shown - low) / (high - low), 0, 1), None


def _by_table(file: Any, rescaled: NDArray[Any]) -> NDArray[np.float64]:
    from pydicom.pixels import apply_voi

    entries, first, depth = (int(one) for one in file.VOILUTSequence[0].LUTDescriptor)
    last = first + (entries or 2**16) - 1
    inside = np.clip(np.rint(rescaled).astype(np.int64), first, last)
    shown: NDArray[np.float64] = apply_voi(inside, file) / (2**depth - 1)
    return np.clip(shown, 0, 1)


def _stated_range(
    file: Any, values: NDArray[Any], bits: int | None
) -> tuple[NDArray[np.float64], int | None]:
    """Without a window: the range that the number of stored bits states."""
    if file.get("ModalityLUTSequence"):
        raise ValueError("a table of values without a window; set data.window=[centre,width]")
    stored, signed = int(file.BitsStored), bool(file.get("PixelRepresentation"))
    if signed and stored == 16:
        raise ValueError(
            "16-bit values with a sign and without a window have no stated range; set "
            "data.window=[centre,width], e.g. [40,400] for soft tissue in a CT"
        )
    taken = stored if stored < 16 else bits or 16
    low = -(2 ** (taken - 1)) if signed else 0
    peak = int(values.max())
    if peak > low + 2**taken - 1:
        raise ValueError(f"it holds the value {peak}, which has more than {taken} bits")
    unit = np.clip((values.astype(np.float64) - low) / (2**taken - 1), 0, 1)
    falling = float(file.get("RescaleSlope") or 1) < 0
    return (1 - unit if falling else unit), peak if stored == 16 and bits is None else None
