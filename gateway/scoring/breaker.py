"""Breaker of the calls to Triton: while Triton is away, requests are answered at once and not after a timeout."""

from __future__ import annotations

import time
from typing import Final

from gateway import metrics

FAILURES: Final = 3
"""Number of calls in a row without an answer after which the breaker opens."""
OPEN_SECONDS: Final = 1.0
"""Time after which an open breaker lets one call through, s."""


class Breaker:
    """State of the breaker: closed, open, or half open while one call tries whether Triton is back."""

    def __init__(self) -> None:
        self._failures = 0
        self._opened = 0.0
        self._is_trying = False
        metrics.BREAKER_STATE.set(0)

    @property
    def is_open(self) -> bool:
        """Whether the last calls failed and none has succeeded since."""
        return self._failures >= FAILURES

    @property
    def refuses(self) -> bool:
        """Whether a call would be refused now."""
        return self.is_open and (self._is_trying or time.monotonic() - self._opened < OPEN_SECONDS)

    def admits(self) -> bool:
        """Whether a call may be made now. The caller reports its result by `succeeded`, `failed` or `abandoned`."""
        if self.refuses:
            return False
        if not self.is_open:
            return True
        self._is_trying = True
        metrics.BREAKER_STATE.set(1)
        return True

    def succeeded(self) -> None:
        """Close the breaker: Triton answered, be it with a refusal."""
        self._failures, self._is_trying = 0, False
        metrics.BREAKER_STATE.set(0)

    def failed(self) -> None:
        """Count a call without an answer."""
        self._failures, self._is_trying = self._failures + 1, False
        if self.is_open:
            self._opened = time.monotonic()
            metrics.BREAKER_STATE.set(2)

    def abandoned(self) -> None:
        """Forget a call that was cancelled before its answer."""
        self._is_trying = False
        metrics.BREAKER_STATE.set(2 if self.is_open else 0)
