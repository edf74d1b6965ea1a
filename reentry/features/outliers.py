"""Replacement of bursts of up to three outliers in a measured quantity by a prediction from earlier measurements.

Seven lines, each through two measurements that lie seven rows apart, are extrapolated to the current step. A burst of
three affects at most three of the seven lines, so it cannot move their median, which is the prediction. The rule is
causal, since each line uses only earlier measurements. It is also elementwise on lagged arrays, so a whole track and
its stream give bit-identical results.

Shapes: B tracks, T steps, N = HISTORY + T rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

LINES: Final = 7
"""Number of lines that predict a measurement, and number of rows between the two measurements of each line."""

HISTORY: Final = 2 * LINES
"""Number of measurements before a step that predict it."""

SPREADS: Final = 5.0
"""Difference from the prediction that is accepted beyond the limit, as a multiple of the spread of the lines."""

_MIDDLE: Final = LINES // 2


def without_outliers(time: Float64, values: Float64, limit: float) -> Float64:
    """Replace each value that is far from its prediction by that prediction.

    Args:
        time: time in non-decreasing order, (B, N), s.
        values: finite values, (B, N).
        limit: difference from the prediction that is always accepted, in the unit of `values`. More is accepted where
            the lines disagree because the quantity is noisy or curved.

    Returns:
        Values from row HISTORY on, (B, T). A step with fewer than HISTORY distinct times before it keeps its value.
    """
    steps = values.shape[1] - HISTORY

    def lagged(x: Float64, lag: int) -> Float64:
        end = x.shape[1] - lag
        return x[:, end - steps : end]

    elapsed = time[:, LINES:] - time[:, :-LINES]
    rate = np.divide(values[:, LINES:] - values[:, :-LINES], elapsed, out=np.zeros_like(elapsed), where=elapsed > 0.0)
    now = lagged(time, 0)
    lines = np.empty((LINES, *now.shape))
    for line in range(LINES):
        lag = line + 1
        lines[line] = lagged(values, lag) + lagged(rate, lag) * (now - lagged(time, lag))
    lines.sort(axis=0)
    predicted = lines[_MIDDLE]
    spread = (lines[_MIDDLE:] - lines[: LINES - _MIDDLE]).min(axis=0)  # narrowest range of any four lines
    measured = lagged(values, 0)
    predictable = lagged(time, HISTORY - 1) > lagged(time, HISTORY)
    is_outlier = predictable & (np.abs(measured - predicted) > limit + SPREADS * spread)
    return np.where(is_outlier, predicted, measured)
