"""Arrays for data that is too large to keep in memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any, Final

import numpy as np
import numpy.typing as npt

IN_MEMORY_BYTES: Final = 2**24
"""Size above which a scratch array is in a temporary file."""

_FILLED_AT_ONCE: Final = 2**20


class ScratchArray:
    """A one-dimensional array, in memory if it is small, otherwise in an unnamed temporary file (in TMPDIR).

    The system removes the file when the process ends for any reason.
    """

    def __init__(self, size: int, value: np.generic) -> None:
        """Create an array of N values.

        Args:
            size: Number of values N.
            value: Initial value; its type is that of the array.

        Raises:
            OSError: The temporary folder has no room for the array.
        """
        self._map: mmap.mmap | None = None
        bytes_needed = size * value.itemsize
        if bytes_needed <= IN_MEMORY_BYTES:
            self.values: npt.NDArray[Any] = np.full(size, value)
            """The values, (N,), to be read and written in place."""
            return
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, bytes_needed)  # a full disk is an error here, not a crash later
            self._map = mmap.mmap(file.fileno(), bytes_needed)
        self.values = np.frombuffer(self._map, value.dtype)
        for start in range(0, size, _FILLED_AT_ONCE):
            self.values[start : start + _FILLED_AT_ONCE] = value
            self.release()

    def release(self) -> None:
        """Give the memory of a file's pages back to the system; the values stay in the file."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)
