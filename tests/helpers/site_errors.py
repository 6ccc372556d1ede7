"""What a real site tells the server of an error, and what it keeps to itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedrobust.runtime.client.site_errors import TEXTS, SiteError


@contextmanager
def site_error(code: str, details: str = "") -> Iterator[None]:
    """Within it a site fails: the server gets the fixed text of this code, and nothing else.
    details: a pattern of what the site itself knows of the error."""
    with pytest.raises(SiteError) as caught:
        yield
    said = re.escape(f"{TEXTS[code]} (error {code} ") + r"[0-9a-f]{8}; this site's log holds .*"
    assert re.fullmatch(said, str(caught.value)), str(caught.value)
    assert caught.value.__cause__ is None
    assert re.search(details, str(caught.value.__context__)), str(caught.value.__context__)
