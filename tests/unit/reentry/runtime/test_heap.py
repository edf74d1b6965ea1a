"""The heap of a process that handles large arrays again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import resource
from reentry.runtime.heap import keep_freed_memory

keep_freed_memory()

def use_memory():
    blocks = [bytearray(3_000_000) for _ in range(4)]
    for block in blocks:
        block[::4096] = bytes(len(block[::4096]))

use_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use_memory()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_PAGES = 10 * 4 * 3_000_000 // 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < _PAGES / 10
