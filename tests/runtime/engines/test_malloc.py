"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

from fedrobust.runtime.engines.malloc import keep_freed_memory

PROGRAM = """
import resource, sys, torch
from fedrobust.runtime.engines.malloc import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work(): return [torch.ones(16 << 20) for _ in range(4)]  # 64 MB each: 65,536 pages together
for _ in range(8):  # small things settle among the large ones first
    work()
before = faults()
work()
print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    kept, default = (
        int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, word], check=True, capture_output=True, text=True
            ).stdout
        )
        for word in ("keep", "default")
    )
    assert kept < 1000
    assert default > 60_000
