"""Networks of exchanges that bring some places of the order their values."""

from __future__ import annotations

import functools

Exchanges = list[tuple[int, int]]  # (low, high): the smaller value goes to low


@functools.lru_cache(maxsize=64)
def network(n: int, places: range) -> tuple[tuple[int, int, bool, bool], ...]:
    """Exchanges (low, high, whether the smaller value is needed in low, whether the larger is in
    high) that bring the right values to `places`: those of the faster of two methods."""
    found = [_needed(pairs, places) for pairs in (_merge_exchange(n), _discard_ends(n, places))]
    return min(found, key=lambda kept: sum(low + high for *_, low, high in kept))


def _needed(pairs: Exchanges, places: range) -> tuple[tuple[int, int, bool, bool], ...]:
    """Without what the places do not depend on."""
    needed, kept = set(places), []
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            kept.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))


def _merge_exchange(n: int) -> Exchanges:
    """Batcher's merge exchange (Knuth, The Art of Computer Programming 3, algorithm 5.2.2M)."""
    pairs = []
    top = 1 << max(n - 1, 1).bit_length() - 1
    step = top
    while step:
        reach, rest, gap = top, 0, step
        while True:
            pairs += [(low, low + gap) for low in range(n - gap) if low & step == rest]
            if reach == step:
                break
            gap, reach, rest = reach - step, reach >> 1, step
        step >>= 1
    return pairs


def _discard_ends(n: int, places: range) -> Exchanges:
    """The ends of a set of rows that is just large enough for them to lie outside the places are
    found and left out, and the next rows join the set: of ten rows 46 minima and maxima for the
    middle two, instead of 50."""
    pairs: Exchanges = []
    waiting, among = list(range(n)), list[int]()
    low, high = places.start, n - places.stop  # still to be left out below and above
    home: dict[int, int] = {}
    while low or high:
        most, left = max(low, high), len(waiting) + len(among)
        while len(among) < left - most + 1:
            among.append(waiting.pop())
        least, largest = _ends(among, pairs)
        if low == most:
            low -= 1
            home[least] = low
            among.remove(least)
        if high == most:
            high -= 1
            home[largest] = n - 1 - high
            among.remove(largest)
    rest = among + waiting
    pairs += [(rest[one], rest[other]) for one, other in _merge_exchange(len(rest))]
    home |= {row: places.start + place for place, row in enumerate(rest)}
    return [(home[one], home[other]) for one, other in pairs]


def _ends(rows: list[int], pairs: Exchanges) -> tuple[int, int]:
    """The rows that hold the smallest and the largest value after further exchanges."""
    lows, highs = rows[0::2], rows[1::2]
    pairs += zip(lows, highs, strict=False)
    pairs += [(lows[0], row) for row in lows[1:]]
    if len(lows) > len(highs):  # the one without a partner, which is not the smallest now
        highs.append(lows[-1])
    pairs += [(row, highs[-1]) for row in highs[:-1]]
    return lows[0], highs[-1]
