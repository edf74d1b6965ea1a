"""Point-mass flight of many bodies at once through boost, coast and reentry, by the classical Runge-Kutta method.

Shapes: K bodies, N rows of all flights. Positions and velocities are (3, K), in m and m/s, in the axes of `earth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.simulation import earth
from reentry.simulation.atmosphere import density
from reentry.simulation.shots import Shots

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

SUBSTEP: Final = 0.25
"""Longest integration step, s; a tenth of the shortest time in which drag changes e-fold during a descent."""

LONGEST_FLIGHT: Final = 7_200.0
"""Maximum duration of a flight, s. A body that is still in flight by then has left the modelled range."""

_VERTICAL_RISE: Final = 8.0
"""Duration of the vertical rise after launch, s."""

_PITCH_OVER: Final = 45.0
"""Duration, s, of the turn of the thrust from vertical to the shot's elevation."""

_SHORTEST_BOOST: Final = 25.0
"""Shortest boost, s; earlier in the pitch-over the impact point is not meaningful."""

_STAGES: Final = 3

_BOOSTER_COEFFICIENT: Final = 20_000.0
"""Ballistic coefficient of the whole missile during boost, kg/m^2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flights:
    """Rows of all flights, sorted by shot and time."""

    shot: npt.NDArray[np.int64]
    """Index of the shot, (N,)."""
    time: Float64
    """Time since launch, (N,), s."""
    position: Float64
    """Position, (3, N), m, ECI."""
    velocity: Float64
    """Velocity, (3, N), m/s, ECI."""
    drag: Float64
    """Deceleration by drag, (N,), m/s^2."""
    boosting: Bool
    """Whether the engine burns, (N,)."""
    height: Float64
    """Height over the ellipsoid, (N,), m."""


@dataclass(slots=True)
class Bodies:
    """State of the bodies that are still in flight."""

    number: npt.NDArray[np.int64]
    shots: Shots
    position: Float64
    velocity: Float64
    plane: Float64
    """Unit normal of the plane in which the boost is steered, (3, K)."""
    launched_at: Float64
    """Unit vector to the launch site in Earth-fixed axes, (3, K)."""
    boosting: Bool
    burnt: Float64
    """Burn time of the current stage so far, (K,), s."""
    stage: npt.NDArray[np.int64]

    def coefficient(self) -> Float64:
        """Return the present ballistic coefficients, (K,), kg/m^2."""
        return np.where(self.boosting, _BOOSTER_COEFFICIENT, self.shots.ballistic_coefficient)

    def keep(self, flying: Bool) -> None:
        """Drop the bodies that are no longer in flight."""
        self.number, self.burnt, self.stage = self.number[flying], self.burnt[flying], self.stage[flying]
        self.position, self.velocity = self.position[:, flying], self.velocity[:, flying]
        self.plane, self.launched_at = self.plane[:, flying], self.launched_at[:, flying]
        self.boosting = self.boosting[flying]
        self.shots = self.shots.take(np.flatnonzero(flying))


def fly(bodies: Bodies, step: float) -> Flights:
    """Fly every body to the ground and return a row every `step` s; `bodies` is empty afterwards."""
    substeps = int(np.ceil(step / SUBSTEP))
    pieces: list[tuple[Float64 | npt.NDArray[np.int64] | Bool, ...]] = []
    number = 0
    while len(bodies.number) and number * step < LONGEST_FLIGHT:
        distance = _length(bodies.position)
        height = earth.height(bodies.position, distance)
        drag = _length(_drag(bodies.coefficient(), bodies.position, bodies.velocity, height))
        elapsed = np.full(len(distance), number * step)
        pieces.append((bodies.number, elapsed, bodies.position, bodies.velocity, drag, bodies.boosting, height))
        for part in range(substeps):
            _advance(bodies, number * step + part * step / substeps, step / substeps)
        number += 1
        landed = earth.height(bodies.position, _length(bodies.position)) <= 0.0
        if landed.any():
            bodies.keep(~landed)
    columns = [np.concatenate(column, axis=-1) for column in zip(*pieces, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    shot, time, position, velocity, drag, boosting, height = (column[..., order] for column in columns)
    return Flights(
        shot=shot, time=time, position=position, velocity=velocity, drag=drag, boosting=boosting, height=height
    )


def launch(shots: Shots) -> Bodies:
    """Return the bodies of the shots at rest on their launch sites."""
    import pymap3d

    site = np.stack(pymap3d.geodetic2ecef(shots.latitude, shots.longitude, np.zeros_like(shots.latitude)))
    latitude, longitude = np.radians(shots.latitude), np.radians(shots.longitude)
    up = np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)])
    east = np.stack([-np.sin(longitude), np.cos(longitude), np.zeros_like(longitude)])
    heading = np.cos(shots.azimuth) * _cross(up, east) + np.sin(shots.azimuth) * east
    count = len(shots.latitude)
    return Bodies(
        number=np.arange(count),
        shots=shots,
        position=site,
        velocity=earth.rotation_velocity(site),
        plane=_cross(up, heading),
        launched_at=site / _length(site),
        boosting=np.ones(count, dtype=bool),
        burnt=np.zeros(count),
        stage=np.zeros(count, dtype=np.int64),
    )


def _advance(bodies: Bodies, time: float, step: float) -> None:
    """Advance by one step of the classical Runge-Kutta method with constant thrust."""
    thrust = _thrust(bodies, time, step) if bodies.boosting.any() else None
    coefficient = bodies.coefficient()

    def acceleration(position: Float64, velocity: Float64) -> Float64:
        distance = _length(position)
        total = earth.gravity(position, distance)
        total += _drag(coefficient, position, velocity, earth.height(position, distance))
        return total if thrust is None else total + thrust

    position, velocity = bodies.position, bodies.velocity
    first = acceleration(position, velocity)
    second_velocity = velocity + step / 2 * first
    second = acceleration(position + step / 2 * velocity, second_velocity)
    third_velocity = velocity + step / 2 * second
    third = acceleration(position + step / 2 * second_velocity, third_velocity)
    fourth_velocity = velocity + step * third
    fourth = acceleration(position + step * third_velocity, fourth_velocity)
    bodies.position = position + step / 6 * (velocity + 2 * second_velocity + 2 * third_velocity + fourth_velocity)
    bodies.velocity = velocity + step / 6 * (first + 2 * second + 2 * third + fourth)


def _drag(coefficient: Float64, position: Float64, velocity: Float64, height: Float64) -> Float64:
    """Return the acceleration by drag of magnitude density * speed^2 / (2 * coefficient), (3, K), m/s^2.

    The speed is relative to the air, which rotates with the Earth.

    Regan and Anandakrishnan, Dynamics of Atmospheric Re-Entry, chapter 6.
    """
    through_air = earth.velocity_through_air(position, velocity)
    acceleration: Float64 = through_air * (-density(height) * _length(through_air) / (2.0 * coefficient))
    return acceleration


def _thrust(bodies: Bodies, time: float, step: float) -> Float64:
    """Return the acceleration by thrust, (3, K), m/s^2, and update the stages and the end of the boost in `bodies`.

    Each stage has constant thrust and mass flow, so its acceleration is the initial acceleration divided by
    (1 - fraction of the start mass burnt) (Tsiolkovsky). The thrust first points up, then turns evenly to the
    elevation, and then holds that flight-path angle. The boost ends when the impact point is far enough from the
    launch site.
    """
    shots, position, velocity = bodies.shots, bodies.position, bodies.velocity
    distance = _length(position)
    up = position / distance
    forward = _cross(bodies.plane, up)
    forward /= _length(forward)
    through_air = earth.velocity_through_air(position, velocity)
    path = np.arctan2(_dot(through_air, up), np.maximum(_dot(through_air, forward), 1e-3))
    turned = np.clip((time - _VERTICAL_RISE) / _PITCH_OVER, 0.0, 1.0)
    target = np.pi / 2 + (shots.elevation - np.pi / 2) * turned
    elevation = np.clip(target + (1.2 * (target - path) if time > _VERTICAL_RISE + 12.0 else 0.0), -0.2, np.pi / 2)

    if time >= _SHORTEST_BOOST:
        cosine = _dot(impact_point(position, velocity, time), bodies.launched_at)
        # The comparison is False for NaN, which marks an orbit that does not return.
        falls_short = cosine > np.cos(shots.thrust_ends * shots.distance / earth.MEAN_RADIUS)
        bodies.boosting = bodies.boosting & falls_short & (bodies.stage < _STAGES)
    burn_time = shots.propellant * shots.exhaust_speed / shots.first_thrust
    magnitude = np.where(bodies.boosting, shots.first_thrust / (1.0 - shots.propellant * bodies.burnt / burn_time), 0.0)
    bodies.burnt = bodies.burnt + step * bodies.boosting
    burnt_out = bodies.burnt >= burn_time
    bodies.stage = bodies.stage + burnt_out
    bodies.burnt = np.where(burnt_out, 0.0, bodies.burnt)
    acceleration: Float64 = magnitude * (np.cos(elevation) * forward + np.sin(elevation) * up)
    return acceleration


def impact_point(position: Float64, velocity: Float64, time: float) -> Float64:
    """Return the unit vectors, (3, K), to where the bodies would land if their thrust ended at `time`, in ECEF.

    This is the instantaneous impact point of range safety, in a vacuum and without J2. It follows from the conic of the
    orbit (Vallado, Fundamentals of Astrodynamics and Applications, sections 1.4 and 2.2). The body falls from its
    present true anomaly to the one, on descent, where its distance equals that of the ground below it now. Kepler's
    equation gives the duration of the fall, during which the Earth rotates. The vector of an orbit that does not return
    is NaN.
    """
    distance = np.linalg.norm(position, axis=0)
    ground = distance - earth.height(position, distance)
    climb = np.einsum("kn,kn->n", position, velocity) / distance
    spin = _cross(position, velocity)
    momentum = np.linalg.norm(spin, axis=0)
    parameter = momentum**2 / earth.MU
    with np.errstate(invalid="ignore"):
        semi_major_axis = 1.0 / (2.0 / distance - np.einsum("kn,kn->n", velocity, velocity) / earth.MU)
        eccentricity = np.sqrt(1.0 - parameter / semi_major_axis)
        start = np.arctan2(np.sqrt(parameter / earth.MU) * climb, parameter / distance - 1.0)
        end = 2.0 * np.pi - np.arccos((parameter / ground - 1.0) / eccentricity)
        mean_start, mean_end = (_mean_anomaly(anomaly, eccentricity) for anomaly in (start, end))
        duration = (mean_end - mean_start) * np.sqrt(semi_major_axis**3 / earth.MU)
    up = position / distance
    forward = _cross(spin / momentum, up)
    return earth.to_ecef(np.cos(end - start) * up + np.sin(end - start) * forward, time + duration)


def _mean_anomaly(true_anomaly: Float64, eccentricity: Float64) -> Float64:
    half = true_anomaly / 2.0
    eccentric = 2.0 * np.arctan2(np.sqrt(1.0 - eccentricity) * np.sin(half), np.sqrt(1.0 + eccentricity) * np.cos(half))
    mean: Float64 = eccentric - eccentricity * np.sin(eccentric)
    return mean


def _length(vectors: Float64) -> Float64:
    norm: Float64 = np.sqrt(_dot(vectors, vectors))
    return norm


def _dot(left: Float64, right: Float64) -> Float64:
    x, y, z = left * right
    product: Float64 = x + y + z
    return product


def _cross(left: Float64, right: Float64) -> Float64:
    product: Float64 = np.cross(left, right, axis=0)
    return product
