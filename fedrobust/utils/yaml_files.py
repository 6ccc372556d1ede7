"""Yaml files as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# libyaml's, where PyYAML was built with it: ten times as fast
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The content of a file; None where it is empty. Raises OSError and yaml.YAMLError."""
    return yaml.load(path.read_bytes(), LOADER)  # a safe one
