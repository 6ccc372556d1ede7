"""Modules that are looked at without the libraries that compute."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any, get_type_hints

import pytest

from fedrobust.utils import stand_ins
from fedrobust.utils.stand_ins import MARK, StandIn, read_lightly

ALONE = """
import sys
from fedrobust.utils.stand_ins import SLOW, read_lightly

def light():
    from fedrobust.strategies import krum
    import torch.nn.functional as functional
    assert "stand-in" in repr(functional.relu)
    return krum.krum.__name__

assert read_lightly(light) == "krum"
assert not SLOW & sys.modules.keys() and "fedrobust.strategies.krum" not in sys.modules
assert not hasattr(sys.modules["fedrobust.strategies"], "krum")

def demanding():
    from scipy.special import comb
    return 2 * comb(4, 2)

assert read_lightly(demanding) == 12  # a stand-in cannot be computed with

def told():
    from scipy import pi
    return str(pi)

try:
    read_lightly(told)
except ImportError as error:
    print(error)  # the library's own: the stand-in's name is no result
"""


def test_what_is_read_lightly_leaves_nothing_and_what_needs_the_library_gets_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cannot import name 'pi'" in done.stdout


def test_where_a_library_is_loaded_there_are_no_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert read_lightly(lambda: list(sys.meta_path)) == sys.meta_path


def test_a_refusal_is_that_of_the_second_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "SLOW", frozenset({"no_such_library"}))
    tried: list[int] = []

    def refuse() -> None:
        tried.append(len(sys.meta_path))
        raise ValueError(f"call {len(tried)}")

    with pytest.raises(ValueError, match="call 2"):
        read_lightly(refuse)
    assert tried[0] == tried[1] + 1 == len(sys.meta_path) + 1


def test_a_stand_in_fits_into_signatures_and_below_decorators() -> None:
    tensor: Any = StandIn("Tensor")

    @tensor.no_grad()
    def made(size: Annotated[tensor | None, "words"], shape: tensor[int]) -> tensor:
        """Says so."""

    class Layer(tensor):
        """A class of our own."""

    assert made.__doc__ == "Says so."
    assert get_type_hints(made, localns={"tensor": tensor})["size"] == tensor | None
    assert Layer.__mro__ == (Layer, object)
    assert repr(tensor).startswith(MARK)
    for wrong in (lambda: tensor + 1, lambda: tensor < 1, lambda: list(tensor)):
        with pytest.raises(TypeError):
            wrong()
