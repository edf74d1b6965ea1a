"""Point-mass flight of many bodies at once: boost, coast, reentry, by the classical Runge-Kutta method.

Shapes: K shots, N rows of all of them. Positions and velocities are (3, K), m and m/s, in the axes of `earth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.simulation import earth
from reentry.simulation.atmosphere import density
from reentry.simulation.impact import impact_point
from reentry.simulation.shots import Shots

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

SUBSTEP: Final = 0.25
"""s, the longest step of the integration: a tenth of the time in which the densest descent changes its drag e-fold."""

LONGEST: Final = 7_200.0
"""s. What is not down by then has left the range of these shots."""

_VERTICAL: Final = 8.0
"""s of vertical rise after the launch."""

_PITCHED: Final = 45.0
"""s in which the thrust turns from the vertical to the shot's elevation."""

_SHORTEST_BOOST: Final = 25.0
"""s. Nothing flies straight enough before."""

_STAGES: Final = 3

_BOOSTER_COEFFICIENT: Final = 20_000.0
"""kg/m^2 of the whole missile under thrust."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flights:
    """Rows of all flights, shot by shot, by time."""

    shot: npt.NDArray[np.int64]
    """(N,), index into the shots."""
    time: Float64
    """(N,), s since the launch."""
    position: Float64
    """(3, N), m, ECI."""
    velocity: Float64
    """(3, N), m/s, ECI."""
    drag: Float64
    """(N,), m/s^2, deceleration by the air."""
    boosting: Bool
    """(N,), under thrust."""
    height: Float64
    """(N,), m."""


@dataclass(slots=True)
class Bodies:
    """What flies, compacted as bodies come down."""

    number: npt.NDArray[np.int64]
    shots: Shots
    position: Float64
    velocity: Float64
    plane: Float64
    """(3, K), normal of the plane that the boost steers in."""
    launched_at: Float64
    """(3, K), unit vector to the launch site, in axes that turn with the Earth."""
    boosting: Bool
    burnt: Float64
    """(K,), s since the present stage began to burn."""
    stage: npt.NDArray[np.int64]

    def keep(self, flying: Bool) -> None:
        """Drop those that do not fly any more."""
        self.number, self.burnt, self.stage = self.number[flying], self.burnt[flying], self.stage[flying]
        self.position, self.velocity = self.position[:, flying], self.velocity[:, flying]
        self.plane, self.launched_at = self.plane[:, flying], self.launched_at[:, flying]
        self.boosting = self.boosting[flying]
        self.shots = self.shots.take(np.flatnonzero(flying))


def fly(bodies: Bodies, step: float) -> Flights:
    """Fly every body until it is down, a row each `step` s; `bodies` ends empty."""
    substeps = int(np.ceil(step / SUBSTEP))
    pieces: list[tuple[Float64 | npt.NDArray[np.int64] | Bool, ...]] = []
    number = 0
    while len(bodies.number) and number * step < LONGEST:
        distance = _length(bodies.position)
        height = earth.height(bodies.position, distance)
        drag = _length(_drag(bodies, bodies.position, bodies.velocity, height))
        time = np.full(len(distance), number * step)
        pieces.append((bodies.number, time, bodies.position, bodies.velocity, drag, bodies.boosting, height))
        for part in range(substeps):
            _advance(bodies, number * step + part * step / substeps, step / substeps)
        number += 1
        down = earth.height(bodies.position, _length(bodies.position)) <= 0.0
        if down.any():
            bodies.keep(~down)
    columns = [np.concatenate(column, axis=-1) for column in zip(*pieces, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    shot, when, position, velocity, drag, boosting, height = (column[..., order] for column in columns)
    return Flights(
        shot=shot, time=when, position=position, velocity=velocity, drag=drag, boosting=boosting, height=height
    )


def launch(shots: Shots) -> Bodies:
    """The shots on their pads."""
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
        velocity=earth.turning(site),
        plane=_cross(up, heading),
        launched_at=site / _length(site),
        boosting=np.ones(count, dtype=bool),
        burnt=np.zeros(count),
        stage=np.zeros(count, dtype=np.int64),
    )


def _advance(bodies: Bodies, time: float, step: float) -> None:
    """One step of the classical Runge-Kutta method; the thrust is held over it."""
    thrust = _thrust(bodies, time, step) if bodies.boosting.any() else None

    def acceleration(position: Float64, velocity: Float64) -> Float64:
        distance = _length(position)
        total = earth.gravity(position, distance)
        total += _drag(bodies, position, velocity, earth.height(position, distance))
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


def _drag(bodies: Bodies, position: Float64, velocity: Float64, height: Float64) -> Float64:
    """Deceleration by air that turns with the Earth: density * speed^2 / (2 * ballistic coefficient).

    Regan and Anandakrishnan, Dynamics of Atmospheric Re-Entry, chapter 6.
    """
    through_air = velocity - earth.turning(position)
    coefficient = np.where(bodies.boosting, _BOOSTER_COEFFICIENT, bodies.shots.ballistic_coefficient)
    slowed: Float64 = through_air * (-density(height) * _length(through_air) / (2.0 * coefficient))
    return slowed


def _thrust(bodies: Bodies, time: float, step: float) -> Float64:
    """Acceleration by thrust, (3, K); ends the boost of those that are fast enough, and changes stages.

    A stage's thrust and mass flow are constant, so its acceleration grows as first / (1 - share burnt) (Tsiolkovsky).
    The programme: vertical, then turned evenly to the elevation, then steered to hold that flight-path angle.
    Thrust ends when the body would come down far enough from the launch site.
    """
    shots, position, velocity = bodies.shots, bodies.position, bodies.velocity
    distance = _length(position)
    up = position / distance
    forward = _cross(bodies.plane, up)
    forward /= _length(forward)
    through_air = velocity - earth.turning(position)
    path = np.arctan2(_dot(through_air, up), np.maximum(_dot(through_air, forward), 1e-3))
    turned = np.clip((time - _VERTICAL) / _PITCHED, 0.0, 1.0)
    wanted = np.pi / 2 + (shots.elevation - np.pi / 2) * turned
    elevation = np.clip(wanted + (1.2 * (wanted - path) if time > _VERTICAL + 12.0 else 0.0), -0.2, np.pi / 2)

    if time >= _SHORTEST_BOOST:
        cosine = _dot(impact_point(position, velocity, time), bodies.launched_at)
        short = cosine > np.cos(
            shots.thrust_ends * shots.distance / earth.MEAN_RADIUS
        )  # False where it leaves for good
        bodies.boosting = bodies.boosting & short & (bodies.stage < _STAGES)
    burn_time = shots.propellant * shots.exhaust_speed / shots.first_thrust
    magnitude = np.where(bodies.boosting, shots.first_thrust / (1.0 - shots.propellant * bodies.burnt / burn_time), 0.0)
    bodies.burnt = bodies.burnt + step * bodies.boosting
    burnt_out = bodies.burnt >= burn_time
    bodies.stage = bodies.stage + burnt_out
    bodies.burnt = np.where(burnt_out, 0.0, bodies.burnt)
    push: Float64 = magnitude * (np.cos(elevation) * forward + np.sin(elevation) * up)
    return push


def _length(vectors: Float64) -> Float64:
    norm: Float64 = np.sqrt(_dot(vectors, vectors))
    return norm


def _dot(left: Float64, right: Float64) -> Float64:
    product: Float64 = left[0] * right[0] + left[1] * right[1] + left[2] * right[2]
    return product


def _cross(left: Float64, right: Float64) -> Float64:
    product: Float64 = np.cross(left, right, axis=0)
    return product
