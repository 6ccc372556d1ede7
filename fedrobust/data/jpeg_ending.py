"""JPEG files that end too early, but with a proper end mark.

libjpeg fills what is missing with one colour (or leaves it blurred, in a progressive file), and
Pillow does not pass its warning on. Three signs show such a file. In a progressive one not every
coefficient was sent down to its last bit. Restart marks are missing. And bytes put before the end
mark change the picture: after a complete scan they are skipped. The last sign costs a second
decoding, so files of one scan are tried only where the last block of the picture has one colour; a
cut inside the data of that last block is not noticed, and neither are changed bytes in the middle.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

END, SCAN, RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
# but for those of Huffman tables, extensions and arithmetic conditioning
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = (0xC2, 0xCA)
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
MARK = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # what ends a scan: no stuffing, no restart
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
PROBE = bytes((position * 151 + 43) % 251 for position in range(512))  # without the byte FF
BLOCK = 8  # pixels
FLAT = 8  # a block of one colour that went through colour conversion and clipping
SENT_NOTHING = 255
MOST_SCANS = 100  # encoders write about ten; each costs a pass over the whole picture


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of a JPEG file. coefficients: first and last; bit: the lowest one it brings; end:
    of its data in the file; restarts: how many there are, and how many there must be."""

    components: bytes
    coefficients: tuple[int, int]
    bit: int
    end: int
    restarts: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Frame:
    """What the head of a JPEG file says. size: (width, height) in pixels; sampling: (across, down)
    by component."""

    progressive: bool
    size: tuple[int, int]
    sampling: Mapping[int, tuple[int, int]]

    def units(self, components: bytes) -> int:
        """Units (blocks, or the blocks of all components in one place) of a scan."""
        most = [max(one[axis] for one in self.sampling.values()) for axis in (0, 1)]
        if len(components) == 1:
            own = self.sampling.get(components[0], (1, 1))
            samples = map(_ceil, (self.size[0] * own[0], self.size[1] * own[1]), most)
            across, down = (_ceil(one, BLOCK) for one in samples)
        else:
            across, down = map(_ceil, self.size, (BLOCK * one for one in most))
        return across * down


@dataclass(frozen=True, slots=True)
class Structure:
    """The head of a JPEG file and its scans."""

    frame: Frame
    scans: tuple[Scan, ...]


def refuse_early_end(found: Structure, data: bytes, picture: Image.Image) -> None:
    """Raises ValueError where the data of a JPEG file end before the picture does.

    Args:
        found: of the file.
        data: the file.
        picture: what it was decoded to.
    """
    scans = found.scans
    if not scans:  # no structure that could be followed
        return
    if found.frame.progressive and not _all_sent(found.frame, scans):
        raise ValueError("the file ends too early: scans of the picture are missing")
    if not found.frame.sampling.keys() <= {one for scan in scans for one in scan.components}:
        raise ValueError("the file ends too early: a colour is missing")
    if any(there < needed for there, needed in (scan.restarts for scan in scans)):
        raise ValueError("the file ends too early: restart marks are missing")
    if (len(scans) > 1 or _flat_corner(picture)) and _changed_by_more(data, scans[-1].end, picture):
        raise ValueError("the file ends too early: a part of the picture is missing")


def read_structure(data: bytes) -> Structure:
    """The structure of a JPEG file, as far as it can be followed.

    Raises:
        ValueError: it has so many scans that it is there to cost time.
    """
    frame, interval, scans = Frame(False, (0, 0), {}), 0, list[Scan]()
    for marker, start, body in _segments(data):
        if marker in FRAMES:
            frame = _frame(marker, body)
        elif marker == RESTART_INTERVAL:
            interval = int.from_bytes(body[:2])
        elif marker == SCAN and frame.sampling:
            scans.append(_scan(data, start + len(body), body, frame, interval))
            if len(scans) > MOST_SCANS:
                raise ValueError(f"it has more than {MOST_SCANS} scans")
    return Structure(frame, tuple(scans))


def _frame(marker: int, body: bytes) -> Frame:
    height, width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
    sampling = {
        body[place]: (max(body[place + 1] >> 4, 1), max(body[place + 1] & 15, 1))
        for place in range(6, 6 + 3 * body[5], 3)
    }
    return Frame(marker in PROGRESSIVE, (width, height), sampling)


def _scan(data: bytes, start: int, body: bytes, frame: Frame, interval: int) -> Scan:
    """The scan whose data start there. body: of its segment."""
    count = body[0]
    components = body[1 : 1 + 2 * count : 2]
    first, last, bits = body[1 + 2 * count : 4 + 2 * count]
    end = _end_of_scan(data, start)
    needed = (frame.units(components) - 1) // interval if interval and components else 0
    there = len(RESTART.findall(data, start, end)) if needed > 0 else 0
    return Scan(components, (first, last), bits & 15, end, (there, needed))


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(marker, where its content begins, its content) up to the end mark, the data of scans left
    out; it stops at whatever is no JPEG file."""
    position = 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in ALONE:
            position += 2
        else:
            length = int.from_bytes(data[position + 2 : position + 4])
            body = data[position + 4 : position + 2 + length]
            if marker == END or length < 2 or not _plausible(marker, body):
                return
            yield marker, position + 4, body
            position += 2 + length
            if marker == SCAN:
                position = _end_of_scan(data, position)


def _plausible(marker: int, body: bytes) -> bool:
    """Whether a segment is long enough for what it says."""
    if marker in FRAMES:
        return len(body) >= 6 and len(body) >= 6 + 3 * body[5]
    return marker != SCAN or (len(body) >= 1 and len(body) >= 4 + 2 * body[0])


def _end_of_scan(data: bytes, start: int) -> int:
    found = MARK.search(data, start)
    return len(data) if found is None else found.start()


def _all_sent(frame: Frame, scans: tuple[Scan, ...]) -> bool:
    """Whether every coefficient of every component came down to its lowest bit."""
    lowest = {one: [SENT_NOTHING] * 64 for one in frame.sampling}
    for scan in scans:
        first, last = scan.coefficients
        for one in scan.components:
            for place in range(first, min(last, 63) + 1):
                lowest.setdefault(one, [SENT_NOTHING] * 64)[place] = scan.bit
    return all(bit == 0 for bits in lowest.values() for bit in bits)


def _flat_corner(picture: Image.Image) -> bool:
    """Whether the last block of the picture has one colour, as one that is missing has."""
    width, height = picture.size
    corner = (
        width - (width % BLOCK or BLOCK),
        height - (height % BLOCK or BLOCK),
        width,
        height,
    )
    low, high = picture.crop(corner).convert("L").getextrema()
    return bool(high - low <= FLAT)  # type: ignore[operator]  # a pair of numbers for one channel


def _changed_by_more(data: bytes, end: int, picture: Image.Image) -> bool:
    """Whether bytes after the last scan change the picture."""
    longer = data[:end] + PROBE + (data[end:] or b"\xff\xd9")
    with Image.open(io.BytesIO(longer), formats=("JPEG",)) as image:
        return not np.array_equal(np.asarray(image), np.asarray(picture))
