"""Memory and processor time during a replay."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import numpy as np

from perf.peers.process_tree import memory_of, process_tree, tree_cpu_seconds

_INTERVAL: Final = 1.0
"""Time between two samples, s."""
_SHORTEST: Final = 10.0
"""Shortest replay, s, whose samples say something about the growth of the memory."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory of the server at a time."""

    seconds: float
    """Time since the first sample, s."""
    mebibytes: float


class Monitor:
    """Measures the processor time of this process and of a server, and samples the server's memory. Use it with `with`.

    The server's processes must stay the same meanwhile.
    """

    def __init__(self, server: int | None) -> None:
        """Prepare to measure a server by its process id; None if its processes are unknown."""
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._begun = 0.0
        self.memory: list[MemorySample] = []
        """Memory of the server; empty without a server."""
        self.client_cpu = 0.0
        """Processor time of this process, in cores."""
        self.server_cpu: float | None = None
        """Processor time of the server, in cores; None without a server."""

    def __enter__(self) -> Monitor:
        if self._server is not None:
            self.server_cpu = -tree_cpu_seconds(self._server)
            self._thread.start()
        self._begun, self.client_cpu = time.monotonic(), -time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._begun
        self.client_cpu = (self.client_cpu + time.process_time()) / seconds
        if self._server is not None and self.server_cpu is not None:
            self.server_cpu = (self.server_cpu + tree_cpu_seconds(self._server)) / seconds
            self._stop.set()
            self._thread.join()

    def _sample(self) -> None:
        # A search for the processes before each sample would take processor time from the generator.
        assert self._server is not None
        processes = process_tree(self._server)
        begun = time.monotonic()
        while True:
            used = memory_of(processes) / 2**20
            self.memory.append(MemorySample(time.monotonic() - begun, used))
            if self._stop.wait(_INTERVAL):
                return


def growth(samples: Sequence[MemorySample]) -> float | None:
    """Return the growth of the memory in MiB per minute, by least squares; None if the samples cover too little time.

    The first fifth of the time is left out, since buffers reach their size there.
    """
    if not samples or samples[-1].seconds - samples[0].seconds < _SHORTEST:
        return None
    begin = samples[0].seconds + 0.2 * (samples[-1].seconds - samples[0].seconds)
    kept = [each for each in samples if each.seconds >= begin]
    slope, _ = np.polyfit([each.seconds for each in kept], [each.mebibytes for each in kept], 1)
    return 60.0 * float(slope)
