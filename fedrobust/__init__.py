"""fedrobust: how robust is federated medical image classification when some hospitals' data is
noisy, mislabelled or poisoned?"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from fedrobust.utils.threads import set_defaults as _set_thread_defaults

__version__ = "0.1.0"


def _import_from_beside(root: Path) -> None:
    """Import strategies, clients and configs, which stand beside this folder in a checkout and in
    Flower's bundle, as parts of this package. In a wheel they lie inside of it, and folders beside
    an installed package are not ours."""
    if Path(__file__).with_name("strategies").exists():
        return
    if not (root / "strategies" / "etf_dml" / "trust.py").exists():
        return
    for name in ("strategies", "clients", "configs"):
        spec = spec_from_file_location(f"{__name__}.{name}", root / name / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = module_from_spec(spec)
        setattr(sys.modules[__name__], name, module)
        spec.loader.exec_module(module)


_set_thread_defaults()  # before anything loads torch: whoever computes here has imported this first
_import_from_beside(Path(__file__).parents[1])


def __getattr__(name: str) -> Any:
    """`run`, `load`, `compare` and what they give, imported when they are first used: they bring
    torch."""
    if name == "compare":
        return import_module(f"{__name__}.compare")
    if name in ("run", "load", "Run", "Comparison"):
        return getattr(import_module(f"{__name__}.studies.python_api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
