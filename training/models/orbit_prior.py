"""Learns how frequent each ballistic coefficient is, from what the orbit filter knows of training flights.

The drag of a body is small until its onset and large soon after it, so seconds after the onset the filter knows the
coefficient of each training flight well. The prior is the distribution of coefficients, at each speed at entry, under
which these estimates are most probable. It is found by expectation maximisation, smoothed and drawn towards the mean of
all speeds where flights are few.

Shapes: N flights, F features, R speeds, G coefficients.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.features.orbit_posterior import COEFFICIENTS, SPEEDS, log_likelihood, speed_shares
from reentry.schema import FEATURES

Float64 = npt.NDArray[np.float64]

ITERATIONS: Final = 60
"""Number of steps of the expectation maximisation."""

SMOOTHING: Final = 1.5
"""Standard deviation of the smoothing, in steps of the grid of coefficients."""

SHARED: Final = 5.0
"""Weight of the mean of all speeds at each speed, as a number of flights."""

MOST_FLIGHTS: Final = 10_000
"""Largest number of flights that the prior is learned from, with 72 MB for an array (N, R, G). Of more flights, evenly
spaced ones are used."""


def learned_prior(settled: npt.NDArray[np.float32]) -> Float64:
    """Return the probability of each coefficient at each speed, (R, G).

    Args:
        settled: features of each training flight some seconds after its onset, (N, F); where the orbit filter knows
            nothing, the flight does not count. Without any flight all coefficients are equally probable.
    """
    known, drag_factor, deviation, entry_speed = (
        settled[:, FEATURES.index(name)].astype(np.float64)
        for name in ("orbit_known", "orbit_drag_factor", "orbit_drag_deviation", "orbit_entry_speed")
    )
    used = np.flatnonzero(known > 0.0)
    if len(used) > MOST_FLIGHTS:
        used = used[np.linspace(0, len(used) - 1, MOST_FLIGHTS).astype(np.int64)]
    near = speed_shares(entry_speed[used])  # (N, R)
    logarithm = log_likelihood(drag_factor[used], deviation[used])  # (N, G)
    likelihood = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    grid = np.arange(len(COEFFICIENTS))
    kernel = np.exp(-0.5 * ((grid[:, None] - grid) / SMOOTHING) ** 2)
    kernel /= kernel.sum(axis=0)
    prior = np.full((len(SPEEDS), len(COEFFICIENTS)), 1.0 / len(COEFFICIENTS))
    for _ in range(ITERATIONS if len(used) else 0):
        joint = near[:, :, None] * prior * likelihood[:, None, :]  # (N, R, G)
        joint /= np.maximum(joint.sum(axis=(1, 2), keepdims=True), 1e-300)
        flights = joint.sum(axis=0) @ kernel.T
        flights += SHARED * flights.sum(axis=0) / flights.sum() + 1.0 / len(COEFFICIENTS)
        prior = flights / flights.sum(axis=1, keepdims=True)
    return prior
