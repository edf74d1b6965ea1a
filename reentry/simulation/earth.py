"""Model of the Earth: the WGS 84 ellipsoid, gravity with J2, and rotation.

Shapes: K bodies. Positions and velocities are (3, K), in m and m/s, in inertial axes (ECI): z points to the north pole,
and x to the meridian of Greenwich at time 0.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

MU: Final = 3.986004418e14
"""Gravitational parameter, m^3/s^2; NIMA TR8350.2 (WGS 84), third edition, table 3.1."""

ROTATION: Final = 7.292115e-5
"""Angular velocity, rad/s; from the same table as `MU`."""

EQUATOR: Final = 6_378_137.0
"""Equatorial radius (semi-major axis), m; from the same table as `MU`."""

FLATTENING: Final = 1.0 / 298.257223563
"""Flattening of the ellipsoid; from the same table as `MU`."""

J2: Final = 1.082_629_8e-3
"""Second zonal harmonic, which is -sqrt(5) times the coefficient C20 = -0.484166774985e-3 of that table."""

MEAN_RADIUS: Final = 6_371_008.8
"""Mean radius R1 as defined by the IUGG, m."""

STANDARD_GRAVITY: Final = 9.80665
"""Standard gravity, m/s^2; third CGPM, 1901."""


def gravity(position: Float64, distance: Float64) -> Float64:
    """Return the acceleration by gravity with J2, (3, K), m/s^2; `distance` is the length of `position`, (K,), m.

    Vallado, Fundamentals of Astrodynamics and Applications, section 8.6 (perturbation by J2 in Cartesian form).
    """
    oblate = 1.5 * J2 * (EQUATOR / distance) ** 2
    polar = 5.0 * (position[2] / distance) ** 2
    pull = -MU / distance**3
    equatorial = 1.0 + oblate * (1.0 - polar)
    acceleration: Float64 = position * (pull * equatorial)
    acceleration[2] = position[2] * (pull * (equatorial + 2.0 * oblate))
    return acceleration


def height(position: Float64, distance: Float64) -> Float64:
    """Return the height over the ellipsoid along the line to the Earth's centre, (K,), m.

    Up to 1,000 km it differs from the geodetic height by less than 50 m, which is negligible for the air density.
    Sensors measure the geodetic height instead.
    """
    sine_squared = (position[2] / distance) ** 2
    eccentricity_squared = FLATTENING * (2.0 - FLATTENING)
    ellipse = EQUATOR * (1.0 - FLATTENING) / np.sqrt(1.0 - eccentricity_squared * (1.0 - sine_squared))
    result: Float64 = distance - ellipse
    return result


def rotation_velocity(position: Float64) -> Float64:
    """Return the velocity of the ground and the air, which rotate with the Earth, (3, K), m/s."""
    return np.stack([-ROTATION * position[1], ROTATION * position[0], np.zeros_like(position[0])])


def velocity_through_air(position: Float64, velocity: Float64) -> Float64:
    """Return the velocity relative to the air, which rotates with the Earth, (3, K), m/s."""
    relative = velocity.copy()
    relative[0] += ROTATION * position[1]
    relative[1] -= ROTATION * position[0]
    return relative


def to_ecef(vectors: Float64, time: Float64) -> Float64:
    """Rotate vectors (3, N) from ECI to Earth-fixed axes (ECEF), at `time` (N,), s after time 0."""
    angle = ROTATION * time
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([cosine * vectors[0] + sine * vectors[1], cosine * vectors[1] - sine * vectors[0], vectors[2]])
