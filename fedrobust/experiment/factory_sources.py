"""Factories as they stand in their source files: signature and docstring of a `_target_`, without
importing its module, which may bring torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import fedrobust.configs
from fedrobust.utils.docstrings import Docstring, split_docstring

PACKAGE = "fedrobust"
# in a checkout some parts of the package stand beside it (fedrobust/__init__.py)
FOLDERS = (Path(str(fedrobust.__file__)).parent, Path(str(fedrobust.configs.__file__)).parents[1])


@dataclass(frozen=True, slots=True)
class FactorySource:
    """A factory's definition.

    Attributes:
        definition: the function, with its decorators and signature.
        module: all of the module in which it stands.
        path: the file.
    """

    definition: ast.FunctionDef
    module: ast.Module
    path: Path

    @property
    def docstring(self) -> Docstring:
        """The parts of its docstring, empty ones where it has none."""
        return split_docstring(ast.get_docstring(self.definition) or "")


def read_factory(target: str) -> FactorySource | None:
    """The definition of the function named by a `_target_`; None where no such file or function
    is found. Nothing is imported but the parents of a module outside of fedrobust."""
    module, _, name = target.rpartition(".")
    path = module_path(module)
    if path is None:
        return None
    tree = parse_module(path)
    found = (one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == name)
    definition = next(found, None)
    return None if definition is None else FactorySource(definition, tree, path)


def module_path(module: str) -> Path | None:
    """The source file of a module; None where there is none."""
    first, *parts = module.split(".")
    if first != PACKAGE:
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            return None
        return None if spec is None or not spec.has_location else Path(str(spec.origin))
    for folder in FOLDERS:
        base = folder.joinpath(*parts)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


@lru_cache
def parse_module(path: Path) -> ast.Module:
    """The syntax tree of a source file, parsed once in a process."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))
