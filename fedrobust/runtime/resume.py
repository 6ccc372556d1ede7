"""`python -m fedrobust.simulate resume=<folder>`: what may stand on that command line, and which
folders can be taken up again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.experiment.own_choices import check_plugins, named_by_words
from fedrobust.reporting.filenames import CHECKPOINTS, MANIFEST, PAGE, REPORT
from fedrobust.utils.names import expand_home
from fedrobust.utils.plugins import PLUGINS, installed_plugins, named_in

KEY = "resume="


@dataclass(frozen=True, slots=True)
class Resumption:
    """A folder to be taken up again, its manifest, and the overrides of the engine."""

    folder: Path
    manifest: dict[str, Any]
    engine_words: tuple[str, ...] = ()


def is_resume_requested(words: Sequence[str]) -> bool:
    """Whether these words of a command line ask for a resumption."""
    return any(word.startswith(KEY) for word in words)


def read_request(words: Sequence[str]) -> Resumption:
    """Read the request of the command line. Nothing is written. Raises ConfigError for a folder
    that holds no unfinished run, and for any other override but those of the engine, since the
    configuration is that of the folder, and where the words do not name its plug-ins."""
    folders = [word.removeprefix(KEY) for word in words if word.startswith(KEY)]
    others = [word for word in words if not word.startswith((KEY, f"{PLUGINS}="))]
    if len(folders) > 1:
        raise ConfigError(f"{KEY}{folders[1]}: given twice; one folder at a time")
    for word in others:
        if not word.startswith(("engine=", "engine.")):
            raise ConfigError(
                f"{word}: cannot be given beside resume, which takes all settings "
                f"from the folder; only engine=... and {PLUGINS}=[...] can"
            )
    if not folders[0]:
        raise ConfigError(
            f"{KEY}: names no folder; give the output folder of a run that was stopped"
        )
    folder = expand_home(folders[0])
    manifest = read_manifest(folder)
    check_plugins(manifest["config"], named_by_words(words), folder / MANIFEST)
    return Resumption(folder, manifest, tuple(others))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an unfinished run. Raises ConfigError."""
    if not folder.is_dir():
        raise ConfigError(
            f"{KEY}{folder}: no such folder; give the output folder of a run that was stopped"
        )
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{KEY}{folder}: holds no {MANIFEST}, so no run to resume; start it "
            "anew in another folder"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{KEY}{folder}: {MANIFEST} cannot be read ({error}); start the run anew "
            "in another folder"
        ) from error
    if not (
        isinstance(manifest, dict)
        and isinstance(manifest.get("config"), dict)
        and isinstance(manifest.get("data"), dict)
        and _are_notes(manifest.get("resumed", []))
    ):
        raise ConfigError(
            f"{KEY}{folder}: {MANIFEST} is not that of a run; give the output folder "
            "of a run that was stopped"
        )
    if is_finished(folder):
        raise ConfigError(
            f"{KEY}{folder}: this run is finished, see {folder / REPORT}; nothing was written over"
        )
    return manifest


def _are_notes(resumed: Any) -> bool:
    """Whether this can be what was noted at each earlier resumption."""
    return isinstance(resumed, list) and all(
        isinstance(one, dict) and isinstance(one.get("changed"), list) for one in resumed
    )


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do. A process that was killed between report.json and report.html
    leaves its checkpoints."""
    return (folder / REPORT).exists() and (
        (folder / PAGE).exists() or not (folder / CHECKPOINTS).is_dir()
    )


def resume_command(folder: Path) -> str:
    """Command line that resumes the run in this folder."""
    words = [f"{KEY}{folder}", *_plugin_words(folder)]
    return f"python -m fedrobust.simulate {shlex.join(words)}"


def _plugin_words(folder: Path) -> list[str]:
    """The word that names the plug-ins of the run in this folder, where that needs any."""
    try:
        config = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["config"]
        names = named_in(config.get(PLUGINS, []))
    except (OSError, ValueError, KeyError, AttributeError, ConfigError):
        return []
    return [f"{PLUGINS}=[{','.join(names)}]"] if set(names) - set(installed_plugins()) else []
