"""Values that take long to make, the latest of them kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The values of the keys that this process asked for last, `kept` of them."""

    def __init__(self, kept: int) -> None:
        self._kept, self._values = kept, dict[Hashable, T]()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key; one that is not kept is made."""
        return self.keep(key, self._values.pop(key) if key in self._values else make())

    def keep(self, key: Hashable, value: T) -> T:
        """Take in the value of a key, in the place of the one used longest ago."""
        self._values.pop(key, None)
        self._values[key] = value
        while len(self._values) > self._kept:
            del self._values[next(iter(self._values))]
        return value

    def drop(self, key: Hashable, unwanted: Callable[[T], bool]) -> None:
        """Keep the value of a key no longer, if it is `unwanted`."""
        if key in self._values and unwanted(self._values[key]):
            del self._values[key]

    def clear(self) -> None:
        """Keep nothing any longer."""
        self._values.clear()
