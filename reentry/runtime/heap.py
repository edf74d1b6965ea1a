"""The heap of a process that handles large arrays again and again."""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of parameters in malloc.h
_MOST_KEPT: Final = 256 * 2**20
"""Bytes of free memory at the end of the heap that are kept."""
_LARGEST_KEPT: Final = 32 * 2**20
"""Bytes of the largest block that is taken from the heap, the most that glibc allows. Larger ones are returned."""


def keep_freed_memory() -> None:
    """Let glibc keep the memory of arrays that were freed, instead of returning it to the system at once.

    Otherwise each large request pays for its memory again: the system clears every page at its first use, which takes
    longer than filling it. The process keeps at most the memory of its busiest moment, and `_MOST_KEPT` of it unused.
    Other C libraries lack the function, and are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
