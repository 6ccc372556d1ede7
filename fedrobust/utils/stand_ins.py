"""Modules imported for their signatures and docstrings alone, without the libraries that compute:
`--help` need not wait for torch."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar, Union

Found = TypeVar("Found")
PACKAGE = "fedrobust"
# what our modules import when they are imported themselves, and takes long
SLOW = frozenset(
    {"PIL", "art", "cryptography", "flwr", "matplotlib", "numba", "numpy", "pandas", "ray"}
    | {"safetensors", "scipy", "sklearn", "timm", "torch", "torchmetrics", "torchvision"}
)
MARK = "<stand-in "


class StandIn:
    """An object of a library that is not loaded: it has any attribute, can be called as a decorator
    and be a base or a type in a signature. It cannot be compared, computed with or looked
    through."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> StandIn:
        return StandIn(_attribute(self.__name__, name))

    def __call__(self, *given: Any, **_: Any) -> Any:
        decorates = len(given) == 1 and (inspect.isfunction(given[0]) or inspect.isclass(given[0]))
        return given[0] if decorates else self

    def __getitem__(self, key: Any) -> StandIn:
        return self

    def __or__(self, other: Any) -> Any:
        return Union[self, other]  # noqa: UP007  # its | would come here again

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self} cannot be looked through")

    def __repr__(self) -> str:
        return f"{MARK}{self.__name__}>"


class _StandInModule(ModuleType):
    __path__: list[str] = []  # noqa: RUF012  # a package: each of its modules is one, too

    def __getattr__(self, name: str) -> StandIn:
        return StandIn(_attribute(self.__name__, name))


def _attribute(owner: str, name: str) -> str:
    if name.startswith("__"):
        raise AttributeError(f"{owner} has no {name}")
    return name


class _Finder(MetaPathFinder, Loader):
    """Finds a stand-in for every module of the slow libraries."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        slow = name.partition(".")[0] in SLOW
        return ModuleSpec(name, self, is_package=True) if slow else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It is empty."""


def read_lightly(read: Callable[[], Found]) -> Found:
    """The result of a function that imports modules of this package and looks at their signatures.

    The slow libraries are stand-ins meanwhile, and all that was imported with them is forgotten
    afterwards. Where one is loaded already, where a stand-in does not do, or where one stands in
    the result's text, the function is called with the libraries themselves.

    Args:
        read: gives the same however often it is called, e.g. a text.

    Returns:
        Its result.
    """
    if not SLOW & sys.modules.keys():
        try:
            with _stand_ins():
                found = read()
            if MARK not in repr(found):
                return found
        except Exception:
            importlib.invalidate_caches()  # its own error comes below
    return read()


@contextmanager
def _stand_ins() -> Iterator[None]:
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in SLOW | {PACKAGE}:
                _forget(name)


def _forget(name: str) -> None:
    """As if the module had never been imported."""
    module = sys.modules.pop(name)
    owner, _, own = name.rpartition(".")
    if vars(sys.modules.get(owner, module)).get(own) is module:
        delattr(sys.modules[owner], own)
