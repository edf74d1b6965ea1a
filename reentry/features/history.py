"""Earlier values of a quantity, for the same computation on whole tracks and on live ones.

A function that needs earlier values of a quantity gets them from `extended`. On whole tracks the arrays hold all steps,
so there is nothing to add. On live tracks each array holds the newest step alone, and the values of the steps before it
are kept from one call to the next. Before the first measurement of a track all quantities have their first value.

Shapes: B tracks, T steps, n rows: T steps and the earlier ones that an array still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from reentry.arrays import Array, namespace, repeated

Carried = tuple[Sequence[Array], Callable[[Sequence[Array]], None]]


class History(Protocol):
    """Gives a computation the earlier values that it needs."""

    def extended(self, x: Array, lags: int) -> Array:
        """Add the `lags` values before the newest step to a quantity of live tracks: (..., B, 1) -> (..., B, lags + 1).

        An array of whole tracks (..., B, n) is returned as it is.
        """

    def rows(self, steps: int, lags: int) -> int:
        """Return the number of rows to compute of a quantity that is needed at `steps` steps and `lags` before each."""

    def carried(self, start: Sequence[Array]) -> Carried:
        """Return the values that the previous step kept here, (B, n) each, and a function that keeps new ones.

        At the start of a track the values are `start`.
        """


class WholeTracks:
    """The history of whole tracks, whose arrays hold it: copies of the first measurement precede the first step."""

    def extended(self, x: Array, lags: int) -> Array:
        """Return the array as it is."""
        del lags
        return x

    def rows(self, steps: int, lags: int) -> int:
        """Return the steps and the `lags` rows before them."""
        return steps + lags

    def carried(self, start: Sequence[Array]) -> Carried:
        """Return `start`, since nothing precedes a whole track and nothing follows it."""
        return start, lambda _: None


class LiveState(NamedTuple):
    """What the next step of live tracks depends on."""

    kept: list[Array]
    """Values of the latest step, (B, n) each."""
    recent: list[Array]
    """Values of the latest steps, oldest first, (..., B, lags) each."""


class LiveTracks:
    """The history of live tracks for one step."""

    def __init__(self, state: LiveState | None, first: Array | None) -> None:
        """Use the state after the previous step.

        Args:
            state: state after the previous step; None if all tracks start.
            first: whether the step is the first one of its track, (B,) bool; None if no track starts.
        """
        self.after = LiveState([], [])
        self._kept = None if state is None else iter(state.kept)
        self._recent = None if state is None else iter(state.recent)
        self._first = None if first is None else first[:, None]

    def extended(self, x: Array, lags: int) -> Array:
        """Return the kept values and the newest one, and keep all but the oldest for the next step."""
        old = repeated(x, lags) if self._recent is None else next(self._recent)
        if isinstance(x, np.ndarray):
            # Each row of all tracks is contiguous in memory.
            full = np.empty((*x.shape[:-2], lags + 1, x.shape[-2])).swapaxes(-1, -2)
            full[..., :-1], full[..., -1:] = old, x
            if self._first is not None:
                np.copyto(full, x, where=self._first)
        else:
            xp = namespace(x)
            full = xp.concat([old if self._first is None else xp.where(self._first, x, old), x], axis=-1)
        self.after.recent.append(full[..., 1:])
        return full

    def rows(self, steps: int, lags: int) -> int:
        """Return the number of steps, since earlier rows are kept."""
        del lags
        return steps

    def carried(self, start: Sequence[Array]) -> Carried:
        """Return the kept values, and a function that keeps values for the next step."""
        place = slice(len(self.after.kept), len(self.after.kept) + len(start))
        self.after.kept.extend(start)

        def keep(values: Sequence[Array]) -> None:
            # A copy, because a value may share its memory with another kept one.
            self.after.kept[place] = [np.array(x) if isinstance(x, np.ndarray) else x for x in values]

        if self._kept is None:
            return start, keep
        old = [next(self._kept) for _ in start]
        if self._first is not None:
            old = [namespace(x).where(self._first, x, earlier) for x, earlier in zip(start, old, strict=True)]
        return old, keep


def last(x: Array, rows: int, lag: int = 0) -> Array:
    """Select the last rows, or the same number of rows a given lag earlier: (..., n) -> (..., rows)."""
    # A trace records `first` and `lag`, which do not depend on T.
    first = int(x.shape[-1]) - lag - int(rows)
    return x[..., first : -lag or None]
