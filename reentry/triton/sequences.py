"""The sequences of a model instance: what belongs to each, until it ends or is idle.

Triton forms the sequences and decides which one is idle, but it does not tell a Python model. So what belongs to an
idle sequence is dropped here a little later than by the server.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")

START, END = 1, 2
"""Flags of a request: TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END."""

_GRACE: Final = 10.0
"""Time after the server's idle limit at which a sequence is dropped, s."""


class Sequences(Generic[Value]):
    """A value for each sequence, by its correlation id."""

    def __init__(self, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without sequences.

        Args:
            idle: time without a request after which the server drops a sequence, s.
            clock: current time, s.
        """
        self._idle, self._clock = idle + _GRACE, clock
        self._kept: OrderedDict[int | str, tuple[float, Value]] = OrderedDict()  # the longest unused first

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._kept)

    def values(self) -> list[Value]:
        """Return the values of all sequences."""
        return [value for _, value in self._kept.values()]

    def get(self, name: int | str) -> Value | None:
        """Return the value of a sequence; None if it is unknown."""
        kept = self._kept.get(name)
        return None if kept is None else kept[1]

    def put(self, name: int | str, value: Value) -> None:
        """Keep a value until the next request of its sequence."""
        self._kept[name] = self._clock(), value
        self._kept.move_to_end(name)

    def drop(self, name: int | str) -> None:
        """Drop the value of a sequence, if there is one."""
        self._kept.pop(name, None)

    def drop_idle(self) -> list[Value]:
        """Drop the values of idle sequences, and return them."""
        dropped: list[Value] = []
        now = self._clock()
        while self._kept:
            name, (used, value) = next(iter(self._kept.items()))
            if now - used <= self._idle:
                break
            del self._kept[name]
            dropped.append(value)
        return dropped
