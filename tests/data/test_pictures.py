"""Encoded pictures: what a viewer shows, in one range, whole or not at all."""

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedrobust.data import pictures
from fedrobust.data.pictures import decode_image, squeeze
from fedrobust.data.png16 import read_png16
from fedrobust.data.sources.image_folder import image_folder
from fedrobust.errors import ConfigError, DataError
from tests.helpers.datasets import encoded

Pixels = NDArray[Any]
DRAWN = np.random.default_rng(0)
RGB: NDArray[np.uint8] = DRAWN.integers(0, 256, (24, 24, 3), dtype=np.uint8)
SMOOTH: NDArray[np.uint8] = np.stack(
    [np.add.outer(np.arange(40), weight * np.arange(56)) for weight in (1, 2, 3)], 2
).astype(np.uint8)
NINE: NDArray[np.uint8] = np.zeros((9, 9, 3), np.uint8)


def decoded(data: bytes, size: int = 24, bits: int | None = None) -> NDArray[np.uint8]:
    """(size, size, 3)"""
    return decode_image(data, size, bits)[0].transpose(1, 2, 0)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# --- 8 bits, as they always were ---


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize("size", [24, 16])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ordinary_pictures_give_the_bits_of_pillow(kind: str, size: int, mode: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(RGB).convert(mode), kind, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = squeeze(np.asarray(image.convert("RGB")), size)
    assert np.array_equal(decode_image(data, size)[0], expected)
    if kind not in ("GIF", "JPEG") and size == 24 and mode == "RGB":
        assert np.array_equal(decoded(data), RGB)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK"])
def test_other_modes_give_the_bits_of_pillow(mode: str) -> None:
    data = saved(Image.fromarray(RGB).convert(mode), "TIFF")
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(decoded(data), np.asarray(image.convert("RGB")))


def test_squeeze_keeps_pixels_of_the_right_size_and_the_mean_of_others() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(squeeze(pixels, 8), pixels.transpose(2, 0, 1))
    ramp = np.tile(np.linspace(0, 255, 60).astype(np.uint8)[None, :, None], (40, 1, 3))
    small = squeeze(ramp, 10)
    assert small.mean() == pytest.approx(ramp.mean(), abs=1.5)
    assert (np.diff(small[0, 5].astype(int)) > 15).all()  # antialiased, still a ramp


# --- orientation ---


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_that_a_viewer_shows(kind: str, orientation: int) -> None:
    """Each of the eight ways to store one picture gives the same pixels."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = Image.new("RGB", (64, 48), (40, 40, 40))
    upright.paste((250, 40, 40), (0, 0, 64, 12))  # a bar at the top
    upright.paste((40, 250, 40), (0, 12, 16, 48))  # and one on the left
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decoded(saved(stored, kind, exif=exif, **options), 48)
    expected = squeeze(np.asarray(upright), 48).transpose(1, 2, 0)
    loss = np.abs(found.astype(int) - expected).mean()
    assert loss < 3 if kind == "JPEG" else loss == 0


def test_broken_exif_is_ignored_as_viewers_do() -> None:
    data = saved(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xffrubbish")
    assert np.array_equal(decoded(data), RGB)


# --- transparency ---


def disc() -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """A grey disc, and how it looks on white paper."""
    y, x = np.mgrid[:24, :24]
    inside = (y - 12) ** 2 + (x - 12) ** 2 < 64
    return inside, np.repeat(np.where(inside, 90, 255).astype(np.uint8)[..., None], 3, 2)


def rgba(hidden: tuple[int, int, int], kind: str) -> bytes:
    inside, _ = disc()
    pixels = np.zeros((24, 24, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[inside] = (90, 90, 90, 255)
    return saved(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))


def grey_and_alpha() -> bytes:
    inside, _ = disc()
    grey = np.where(inside, 90, 77)
    return encoded(np.stack([grey, 255 * inside], 2).astype(np.uint8))


def palette(kind: str) -> bytes:
    image = Image.fromarray(disc()[0].astype(np.uint8), "P")
    image.putpalette([0, 255, 0, 90, 90, 90])
    return saved(image, kind, transparency=0)


def colour_key() -> bytes:
    pixels = disc()[1].copy()
    pixels[~disc()[0]] = (1, 2, 3)
    return saved(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3))


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "made",
    [
        lambda: rgba((255, 0, 200), "PNG"),
        lambda: rgba((0, 0, 0), "PNG"),
        lambda: rgba((255, 0, 200), "TIFF"),
        lambda: rgba((0, 200, 0), "WEBP"),
        grey_and_alpha,
        lambda: palette("PNG"),
        lambda: palette("GIF"),
        colour_key,
    ],
)
def test_transparent_pixels_are_laid_on_white_whatever_they_hide(
    made: Callable[[], bytes],
) -> None:
    assert np.array_equal(decoded(made()), disc()[1])


def test_half_transparent_pixels_are_mixed_and_opaque_ones_kept() -> None:
    opaque = np.dstack([RGB, np.full((24, 24), 255, np.uint8)])
    assert np.array_equal(decoded(encoded(opaque)), RGB)
    half = np.zeros((24, 24, 4), np.uint8)
    half[..., 3] = 128
    assert (decoded(encoded(half)) == 127).all()


def test_a_picture_without_any_visible_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="every pixel is transparent"):
        decode_image(encoded(np.zeros((9, 9, 4), np.uint8)), 8)


# --- more than 8 bits ---


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def filtered(line: Pixels, above: Pixels, each: int, kind: int) -> Pixels:
    """A line of bytes as the filter stores it (PNG specification, section 9)."""
    left = np.concatenate([np.zeros(each, int), line[:-each]])
    corner = np.concatenate([np.zeros(each, int), above[:-each]])
    guess = left + above - corner
    off = [np.abs(guess - one) for one in (left, above, corner)]
    paeth = np.choose(np.argmin(off, axis=0), [left, above, corner])
    return (line - [0 * line, left, above, (left + above) // 2, paeth][kind]) % 256


def png16(values: Pixels, *extra: bytes, interlaced: int = 0, cut: float = 1) -> bytes:
    """(H, W, C) as a PNG with 16 bits a channel, its lines filtered in all five ways."""
    height, width, channels = values.shape
    lines = values.astype(">u2").view(np.uint8).reshape(height, -1).astype(int)
    above, body = np.zeros_like(lines[0]), b""
    for row, line in enumerate(lines):
        kind = row % 5
        stored = filtered(line, above, 2 * channels, kind).astype(np.uint8)
        body, above = body + bytes([kind]) + stored.tobytes(), line
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, interlaced)
    packed = zlib.compress(body[: int(cut * len(body))])
    middle = len(packed) // 2
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            *extra,
            chunk(b"IDAT", packed[:middle]),
            chunk(b"IDAT", packed[middle:]),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (23, 17), (17, 23)])
def test_png16_gives_the_stored_values(shape: tuple[int, int], channels: int) -> None:
    values = DRAWN.integers(0, 65536, (*shape, channels)).astype(np.uint16)
    assert np.array_equal(read_png16(png16(values)), values)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_16_bit_files_are_scaled_by_their_range(channels: int, bits: int) -> None:
    """Value * 255 / (2^bits - 1), so that equal pictures give equal pixels."""
    top = 2**bits - 1
    values = DRAWN.integers(0, top + 1, (24, 24, channels)).astype(np.uint16)
    values[0, 0] = top
    if channels in (2, 4):
        values[..., -1] = 65535
    colours = values[..., : 3 if channels > 2 else 1]
    expected = np.rint(colours * (255 / top)).astype(np.uint8)
    found, peak = decode_image(png16(values), 24, bits)
    assert peak is None
    assert np.array_equal(found.transpose(1, 2, 0), np.broadcast_to(expected, (24, 24, 3)))


def test_16_bits_without_a_stated_range_tell_their_largest_value() -> None:
    values = np.full((9, 9, 3), 3000, np.uint16)
    assert decode_image(png16(values), 9)[1] == 3000
    with pytest.raises(ValueError, match="the value 3000, which has more than 11 bits"):
        decode_image(png16(values), 9, 11)


@pytest.mark.parametrize("channels", [3, 1])
def test_a_16_bit_copy_gives_the_pixels_of_the_8_bit_file(channels: int) -> None:
    eight = RGB[..., :channels]
    sixteen = decoded(png16(eight.astype(np.uint16) * 257))
    assert np.array_equal(sixteen, decoded(encoded(eight if channels == 3 else eight[..., 0])))


def test_transparency_and_orientation_of_16_bits() -> None:
    inside, expected = disc()
    values = np.where(inside, 90 * 257, 1234).astype(np.uint16)[..., None]
    alpha = np.where(inside, 65535, 0).astype(np.uint16)[..., None]
    key = chunk(b"tRNS", struct.pack(">H", 1234))
    keys = chunk(b"tRNS", struct.pack(">HHH", 1234, 1234, 1234))
    for data in (
        png16(np.concatenate([values, alpha], 2)),
        png16(np.concatenate([values, values, values, alpha], 2)),
        png16(values, key),
        png16(np.repeat(values, 3, 2), keys),
    ):
        assert np.array_equal(decoded(data), expected)
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    assert np.array_equal(decoded(png16(RGB.astype(np.uint16) * 257, turned)), RGB[::-1, ::-1])


def tiff(values: Pixels, photometric: int = 1, bits: int = 16) -> bytes:
    """(H, W) or (H, W, 3) as a TIFF without compression."""
    height, width, channels = *values.shape[:2], values.ndim if values.ndim == 3 else 1
    if bits == 12:  # two values in three bytes
        first, second = values.reshape(-1, 2).T.astype(int)
        packed = [first >> 4, ((first & 15) << 4) | (second >> 8), second & 255]
        body = np.stack(packed, 1).astype(np.uint8).tobytes()
    else:
        body = values.astype("<u2").tobytes()
    after = 8 + len(body)
    tags = [
        *((256, 4, 1, width), (257, 4, 1, height)),
        (258, 3, channels, bits if channels == 1 else after),
        *((259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, channels)),
        *((278, 4, 1, height), (279, 4, 1, len(body))),
    ]
    head = struct.pack("<2sHI", b"II", 42, after + 6)
    extra = struct.pack("<3H", bits, bits, bits)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return head + body + extra + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_grey_tiff_of_16_and_12_bits() -> None:
    values = DRAWN.integers(0, 65536, (24, 24)).astype(np.uint16)
    grey = np.rint(values * (255 / 65535)).astype(np.uint8)
    assert np.array_equal(decoded(tiff(values))[..., 0], grey)
    assert np.array_equal(decoded(tiff(values, photometric=0))[..., 0], 255 - grey)
    twelve = (values >> 4).astype(np.uint16)
    scaled = np.rint(twelve * (255 / 4095)).astype(np.uint8)
    found, peak = decode_image(tiff(twelve, bits=12), 24)
    assert peak is None  # the file says its range itself
    assert np.array_equal(found[0], scaled)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(np.zeros((8, 8, 3), np.uint16), 2), "16-bit colour is read from PNG alone"),
        (saved(Image.new("F", (8, 8)), "TIFF"), "32-bit pixels .* no stated range"),
        (saved(Image.new("I", (8, 8)), "TIFF"), "32-bit pixels .* no stated range"),
        (png16(np.zeros((8, 8, 3)), cut=0.5), "ends too early"),
    ],
)
def test_pixels_whose_range_is_not_known_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_image(data, 8)


def deep_folder(root: Path, top: int, channels: int = 3) -> str:
    for place, name in enumerate(("a", "b")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            shade = (0.2 + 0.4 * place + 0.03 * number) * top
            values = np.full((9, 9, channels), shade).astype(np.uint16)
            (root / name / f"{number}.png").write_bytes(png16(values))
    return str(root)


def test_a_set_of_full_range_is_read_though_one_class_is_dark(tmp_path: Path) -> None:
    data = image_folder(deep_folder(tmp_path, 65535), size=9).load()
    shades = [data.images[data.labels == label].float().mean() for label in (0, 1)]
    assert shades == pytest.approx([0.335 * 255, 0.735 * 255], abs=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_in_16_are_asked_for_and_scaled_as_told(tmp_path: Path, channels: int) -> None:
    root = deep_folder(tmp_path, 4095, channels)
    with pytest.raises(
        DataError, match=r"above 3562, as if they held 12 bits, .*; set data\.bits=12"
    ):
        image_folder(root, size=9).load()
    data = image_folder(root, size=9, bits=12).load()
    assert data.images[data.labels == 1].float().mean() == pytest.approx(0.735 * 255, abs=1)
    dark = image_folder(root, size=9, bits=16).load()
    assert dark.images.max() == round(3562 * 255 / 65535)
    with pytest.raises(ConfigError, match=r"data\.bits=17"):
        image_folder(root, bits=17)


def test_a_dark_file_among_bright_ones_is_asked_for(tmp_path: Path) -> None:
    root = deep_folder(tmp_path, 65535)
    black = np.zeros((9, 9, 3), np.uint16)
    (tmp_path / "a" / "black.png").write_bytes(png16(black))  # black in any range
    assert len(image_folder(root, size=9).load()) == 21
    (tmp_path / "b" / "dark.png").write_bytes(png16(black + 4000))
    message = r"1 of 22 16-bit files .* 4000, as if .* 12 bits, the first is b/dark\.png .*convert"
    with pytest.raises(DataError, match=message):
        image_folder(root, size=9).load()
    assert len(image_folder(root, size=9, bits=16).load()) == 22


# --- refused ---


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP", "MPO"])
def test_several_pages_or_frames_are_refused(kind: str) -> None:
    pages = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    data = saved(pages[0], kind, save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="several pages or frames"):
        decode_image(data, 8)


def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    with pytest.raises(Image.DecompressionBombError):
        decode_image(b"\x89PNG\r\n\x1a\n" + b"".join(bomb), 8)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 80)
    with pytest.raises(ValueError, match="9x9 pixels are too many"):
        decode_image(encoded(NINE), 8)


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "ICO", "PCX", "PDF"])
def test_formats_that_are_not_named_are_not_opened(kind: str) -> None:
    with pytest.raises(ValueError, match="it is no JPEG, PNG, BMP, TIFF, WebP, GIF or DICOM"):
        decode_image(saved(Image.fromarray(RGB), kind), 8)


# --- files that end too early ---


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_cut_files_are_noticed(kind: str, share: float) -> None:
    data = saved(Image.fromarray(RGB), kind)
    assert decode_image(data, 8)[0].shape == (3, 8, 8)
    with pytest.raises((OSError, ValueError), match=r"."):
        decode_image(data[: int(share * len(data))], 8)


def jpeg(pixels: Pixels, **options: Any) -> bytes:
    return saved(Image.fromarray(pixels), "JPEG", **options)


STYLES: list[dict[str, Any]] = [
    {"quality": 95},
    {"quality": 50, "subsampling": 2},
    {"quality": 90, "progressive": True},
    {"quality": 90, "restart_marker_blocks": 4},
]
FRAMED = np.zeros((64, 80, 3), np.uint8)  # as dermatoscopes give it: black around
FRAMED[:40, 10:70] = DRAWN.integers(0, 256, (40, 60, 3))
NOISE: NDArray[np.uint8] = DRAWN.integers(0, 256, (61, 83, 3), dtype=np.uint8)


@pytest.mark.parametrize("style", STYLES, ids=["plain", "420", "progressive", "restarts"])
@pytest.mark.parametrize(
    "pixels",
    [SMOOTH, NOISE, FRAMED, NINE, NOISE[..., 0]],
    ids=["smooth", "noise", "black", "nine", "grey"],
)
def test_whole_jpegs_pass(style: dict[str, Any], pixels: Pixels) -> None:
    data = jpeg(pixels, **style)
    with Image.open(io.BytesIO(data)) as image:
        expected = squeeze(np.asarray(image.convert("RGB")), 16)
    assert np.array_equal(decode_image(data, 16)[0], expected)
    assert np.array_equal(decode_image(data + b"left over", 16)[0], expected)


@pytest.mark.parametrize("style", STYLES, ids=["plain", "420", "progressive", "restarts"])
@pytest.mark.parametrize("pixels", [SMOOTH, NOISE, FRAMED], ids=["smooth", "noise", "black"])
def test_jpegs_cut_and_closed_with_an_end_mark_are_noticed(
    style: dict[str, Any], pixels: Pixels
) -> None:
    data = jpeg(pixels, **style)
    start = data.index(b"\xff\xda") + 16
    for share in np.linspace(0.05, 0.85, 25):
        cut = data[: start + int(share * (len(data) - start))].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises((ValueError, OSError), match=r"early|truncated|broken"):
            decode_image(cut, 16)


def test_a_jpeg_with_scans_without_end_is_refused() -> None:
    data = jpeg(RGB, progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ValueError, match="more than 100 scans"):
        decode_image(data[:-2] + 100 * scan + b"\xff\xd9", 8)


def test_heads_that_lead_nowhere_are_left_to_pillow() -> None:
    """Only errors that mean a broken file come out, whatever byte of the head is changed."""
    whole = jpeg(RGB, restart_marker_blocks=4)
    for place in range(2, whole.index(b"\xff\xda") + 20):
        for flip in (0xFF, 0x11):
            changed = bytearray(whole)
            changed[place] ^= flip
            with suppress(ValueError, OSError, SyntaxError, Image.DecompressionBombError):
                assert decode_image(bytes(changed), 8)[0].shape == (3, 8, 8)
