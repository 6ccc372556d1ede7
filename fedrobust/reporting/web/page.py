"""The environment of all page templates: style sheet, script, and the policy that allows a browser
these two and nothing else."""

from __future__ import annotations

import functools
import hashlib
from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedrobust.reporting.web.markup import harmless

HERE = Path(__file__).parent
# Flower packs no files of other endings into its bundle
STYLE, SCRIPT, SHELL = "style.css.md", "script.js.md", "page.html.md"


def make_environment(folder: Path) -> Environment:
    """An environment for templates that extend `page.html.md`.

    Args:
        folder: of further templates.
    """
    made = Environment(
        loader=FileSystemLoader([folder, HERE]),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_own_text(name) for name in (STYLE, SCRIPT))
    made.globals |= {"style": style, "script": script, "policy": _policy(style, script)}
    return made


@functools.cache
def _own_text(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))


def _policy(style: str, script: str) -> str:
    """The content security policy: nothing is fetched, and of styles and scripts only those whose
    digests stand in it count, so that not even markup which slipped through could do anything."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _digest(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _finalize(value: Any) -> Any:
    """Texts without signs that cannot be printed; what is no text stays, and so does markup."""
    if hasattr(value, "__html__"):
        return value
    return harmless(value) if isinstance(value, str) else value
