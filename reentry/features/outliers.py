"""Replacement of bursts of up to three outliers in a measured quantity by a prediction from earlier measurements.

Seven lines, each through two measurements that lie seven rows apart, are extrapolated to the current step. A burst of
three affects at most three of the seven lines, so it cannot move their median, which is the prediction. The rule is
causal, since each line uses only earlier measurements. It is also elementwise on lagged arrays, so a whole track and
its stream give bit-identical results.

Shapes: B tracks, T steps, N = HISTORY + T rows.
"""

from __future__ import annotations

from typing import Final

from reentry.arrays import Array, namespace, quotient
from reentry.features.history import History, last

LINES: Final = 7
"""Number of lines that predict a measurement, and number of rows between the two measurements of each line."""

HISTORY: Final = 2 * LINES
"""Number of measurements before a step that predict it."""

SPREADS: Final = 5.0
"""Difference from the prediction that is accepted beyond the limit, as a multiple of the spread of the lines."""

_MIDDLE: Final = LINES // 2

_COMPARISONS: Final = (
    *((0, 6), (2, 3), (4, 5), (0, 2), (1, 4), (3, 6), (0, 1), (2, 5)),
    *((3, 4), (1, 2), (4, 6), (2, 3), (4, 5), (1, 2), (3, 4), (5, 6)),
)
"""Pairs of lines that are put in order one after the other, which sorts all seven: a sorting network (Knuth, The Art of
Computer Programming, vol. 3, 5.3.4). Unlike a sort, it is elementwise."""


def without_outliers(time: Array, values: Array, limit: float, history: History) -> Array:
    """Replace each value that is far from its prediction by that prediction.

    Args:
        time: time in non-decreasing order, with HISTORY earlier rows, (B, N), s.
        values: finite values, with `LINES` earlier rows at least, (B, n).
        limit: difference from the prediction that is always accepted, in the unit of `values`. More is accepted where
            the lines disagree because the quantity is noisy or curved.
        history: earlier rates of change.

    Returns:
        Values from row HISTORY of the time on, (B, T). A step with fewer than HISTORY distinct times before it keeps
        its value.
    """
    xp = namespace(values)
    # A trace records the bounds of these slices, which do not depend on T.
    steps = time.shape[-1] - HISTORY
    rows = history.rows(steps, LINES)
    elapsed = last(time, rows) - last(time, rows, LINES)
    change = last(values, rows) - last(values, rows, LINES)
    rate = history.extended(quotient(change, elapsed, where=elapsed > 0.0), LINES)
    now = last(time, steps)
    lines = [
        last(values, steps, lag) + last(rate, steps, lag) * (now - last(time, steps, lag))
        for lag in range(1, LINES + 1)
    ]
    for low, high in _COMPARISONS:
        lines[low], lines[high] = xp.minimum(lines[low], lines[high]), xp.maximum(lines[low], lines[high])
    predicted = lines[_MIDDLE]
    spread = lines[_MIDDLE] - lines[0]  # of any four lines, the narrowest range
    for low in range(1, LINES - _MIDDLE):
        spread = xp.minimum(spread, lines[low + _MIDDLE] - lines[low])
    measured = last(values, steps)
    predictable = last(time, steps, HISTORY - 1) > last(time, steps, HISTORY)
    is_outlier = predictable & (xp.abs(measured - predicted) > limit + SPREADS * spread)
    return xp.where(is_outlier, predicted, measured)
