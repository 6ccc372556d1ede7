"""Configurations and checkpoints as a version before the renaming of keys wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrobust.experiment.old_names import ADDED_GROUPS, KEYS
from fedrobust.experiment.old_targets import OLD_TARGETS
from fedrobust.experiment.settings import to_json
from fedrobust.runtime import checkpoints
from fedrobust.utils import tensor_files

TARGETS = {new: old for old, new in OLD_TARGETS.items()}


def aged(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration in old names."""
    found: dict[str, Any] = {
        group: dict(inner) if isinstance(inner, dict) else inner for group, inner in config.items()
    }
    for one in KEYS:
        inner = found.get(one.group)
        factory = str(inner.get("_target_", "")).rpartition(".")[2] if inner else ""
        place, _, name = one.new.rpartition(".")
        holder = inner.get(place, {}) if inner and place else inner
        if holder and name in holder and factory in (one.choices or (factory,)):
            back = {new: old for old, new in one.values.items()}
            value = holder[name]
            inner[one.old] = back.get(value, value) if isinstance(value, str) else value
            if place:
                inner[place] = {key: kept for key, kept in holder.items() if key != name}
            else:
                del inner[name]
    found["evaluation"].pop("evasion_evaluation", None)
    for name in ADDED_GROUPS:
        found.pop(name, None)
    for inner in found.values():
        if isinstance(inner, dict) and "_target_" in inner:
            inner["_target_"] = TARGETS.get(inner["_target_"], inner["_target_"])
    return found


def age_run(folder: Path) -> None:
    """The manifest and the checkpoints of an unfinished run, as an older version left them."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    old = {**manifest, "config": aged(manifest["config"])}
    path.write_text(json.dumps(old), encoding="utf-8")
    # by the digest of their configuration's text checkpoints and clients' memories are known
    now, then = (
        hashlib.sha256(to_json(one["config"]).encode()).hexdigest() for one in (manifest, old)
    )
    for path in (folder / "checkpoints").glob("*.safetensors"):
        tensors = tensor_files.read_sealed(path)
        text = bytes(tensors[checkpoints.TEXT].tolist()).replace(now.encode(), then.encode())
        tensors[checkpoints.TEXT] = tensors[checkpoints.TEXT].new_tensor(list(text))
        plain = json.loads(text)
        notes = {"run": plain["run"], "round": str(plain["round"])}
        path.write_bytes(b"".join(map(bytes, tensor_files.pieces(tensors, notes, seal=True))))
