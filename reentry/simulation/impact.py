"""Where a body would come down if its thrust ended now: the instantaneous impact point of range safety.

Shapes: K bodies. Positions and velocities are (3, K), m and m/s, in the axes of `earth`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reentry.simulation import earth

Float64 = npt.NDArray[np.float64]


def impact_point(position: Float64, velocity: Float64, time: float) -> Float64:
    """Unit vectors to the points of impact in vacuum, without J2, in axes that turn with the Earth, (3, K).

    The orbit's conic (Vallado, Fundamentals of Astrodynamics and Applications, sections 1.4 and 2.2): from the true
    anomaly now to the one on descent at which the distance is that of the ground below the body now; Kepler's equation
    gives the time between them, in which the Earth turns on. NaN for an orbit that does not come down.
    """
    distance = np.linalg.norm(position, axis=0)
    ground = distance - earth.height(position, distance)
    climb = np.einsum("kn,kn->n", position, velocity) / distance
    spin = np.cross(position, velocity, axis=0)
    momentum = np.linalg.norm(spin, axis=0)
    parameter = momentum**2 / earth.MU
    with np.errstate(invalid="ignore"):
        size = 1.0 / (2.0 / distance - np.einsum("kn,kn->n", velocity, velocity) / earth.MU)
        eccentricity = np.sqrt(1.0 - parameter / size)
        now = np.arctan2(np.sqrt(parameter / earth.MU) * climb, parameter / distance - 1.0)
        then = 2.0 * np.pi - np.arccos((parameter / ground - 1.0) / eccentricity)
        begun, done = (_mean_anomaly(anomaly, eccentricity) for anomaly in (now, then))
        falls_for = (done - begun) * np.sqrt(size**3 / earth.MU)
    up = position / distance
    forward = np.cross(spin / momentum, up, axis=0)
    return earth.to_turning_axes(np.cos(then - now) * up + np.sin(then - now) * forward, time + falls_for)


def _mean_anomaly(true_anomaly: Float64, eccentricity: Float64) -> Float64:
    half = true_anomaly / 2.0
    eccentric = 2.0 * np.arctan2(np.sqrt(1.0 - eccentricity) * np.sin(half), np.sqrt(1.0 + eccentricity) * np.cos(half))
    mean: Float64 = eccentric - eccentricity * np.sin(eccentric)
    return mean
