"""Bursts of up to three outliers in a measured quantity, replaced by what the measurements before them predict.

Seven lines, each through two measurements that lie seven apart, are extended to now. A burst of three touches at most
three of the seven, so that their median is a prediction which the burst cannot move. Every line uses earlier
measurements alone, so the rule is causal, and it is elementwise on lagged copies: a whole track and its stream give the
same bits.

Shapes: B tracks, T steps, N = HISTORY + T rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

LINES: Final = 7
"""Lines that predict a measurement, and the rows between the two measurements of each."""

HISTORY: Final = 2 * LINES
"""Measurements before a step that predict it."""

SPREADS: Final = 5.0
"""Spreads of the lines by which a measurement may differ from their median, on top of the given limit."""

_MIDDLE: Final = LINES // 2


def without_outliers(time: Float64, values: Float64, limit: float) -> Float64:
    """Replace each value that is far from its prediction by the prediction.

    Args:
        time: (B, N), s, never falling.
        values: (B, N), finite.
        limit: largest difference from the prediction that is always accepted, in the unit of `values`. Where the lines
            disagree, because the quantity is noisy or curved, more is accepted.

    Returns:
        (B, T), the values from row HISTORY on. A step with fewer than HISTORY different instants before it is kept.
    """
    steps = values.shape[1] - HISTORY

    def lagged(x: Float64, lag: int) -> Float64:
        end = x.shape[1] - lag
        return x[:, end - steps : end]

    apart = time[:, LINES:] - time[:, :-LINES]
    rate = np.divide(values[:, LINES:] - values[:, :-LINES], apart, out=np.zeros_like(apart), where=apart > 0.0)
    now = lagged(time, 0)
    lines = np.empty((LINES, *now.shape))
    for line in range(LINES):
        lag = line + 1
        lines[line] = lagged(values, lag) + lagged(rate, lag) * (now - lagged(time, lag))
    lines.sort(axis=0)
    predicted = lines[_MIDDLE]
    spread = (lines[_MIDDLE:] - lines[: LINES - _MIDDLE]).min(axis=0)  # the narrowest range of four of the seven
    measured = lagged(values, 0)
    known = lagged(time, HISTORY - 1) > lagged(time, HISTORY)
    is_outlier = known & (np.abs(measured - predicted) > limit + SPREADS * spread)
    return np.where(is_outlier, predicted, measured)
