"""The Earth that missiles fly over: WGS 84, its gravity with J2, its rotation.

Shapes: K bodies. Positions and velocities are (3, K), m and m/s, in axes that do not turn (ECI): z to the north pole, x
to the meridian of Greenwich at time 0.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

MU: Final = 3.986004418e14
"""m^3/s^2, gravity times mass; NIMA TR8350.2 (WGS 84), third edition, table 3.1."""

ROTATION: Final = 7.292115e-5
"""rad/s; the same table."""

EQUATOR: Final = 6_378_137.0
"""m, semi-major axis; the same table."""

FLATTENING: Final = 1.0 / 298.257223563
"""The same table."""

J2: Final = 1.082_629_8e-3
"""Second zonal harmonic, from the table's C20 of -0.484166774985e-3 times the square root of 5."""

MEAN_RADIUS: Final = 6_371_008.8
"""m; mean radius R1 of the IUGG."""

STANDARD_GRAVITY: Final = 9.80665
"""m/s^2; the third CGPM, 1901."""


def gravity(position: Float64, distance: Float64) -> Float64:
    """Acceleration by a point mass and J2, (3, K) m/s^2; `distance` is the length of `position`, (K,) m.

    Vallado, Fundamentals of Astrodynamics and Applications, section 8.6 (perturbation by J2 in Cartesian form).
    """
    oblate = 1.5 * J2 * (EQUATOR / distance) ** 2
    polar = 5.0 * (position[2] / distance) ** 2
    pull = -MU / distance**3
    across = 1.0 + oblate * (1.0 - polar)
    pulled: Float64 = position * (pull * np.stack([across, across, across + 2.0 * oblate]))
    return pulled


def height(position: Float64, distance: Float64) -> Float64:
    """Over the ellipsoid along the line to the Earth's centre, (K,) m.

    Less than 50 m from the geodetic height up to 1,000 km, which no density tells apart; sensors see the geodetic one.
    """
    sine_squared = (position[2] / distance) ** 2
    eccentricity_squared = FLATTENING * (2.0 - FLATTENING)
    ellipse = EQUATOR * (1.0 - FLATTENING) / np.sqrt(1.0 - eccentricity_squared * (1.0 - sine_squared))
    above: Float64 = distance - ellipse
    return above


def turning(position: Float64) -> Float64:
    """Velocity of the air and of the ground that turn with the Earth, (3, K) m/s."""
    return np.stack([-ROTATION * position[1], ROTATION * position[0], np.zeros_like(position[0])])


def to_turning_axes(vectors: Float64, time: Float64) -> Float64:
    """Rotate (3, N) from ECI to axes fixed to the Earth (ECEF), `time` (N,) s after time 0."""
    angle = ROTATION * time
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([cosine * vectors[0] + sine * vectors[1], cosine * vectors[1] - sine * vectors[0], vectors[2]])
