"""Random shots of the ballistic profile: launch site, range, trajectory and body.

Shapes: K shots.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.simulation.earth import MEAN_RADIUS

Float64 = npt.NDArray[np.float64]

DECOYS_FROM: Final = 1_500_000.0
"""Shortest range with decoys, m; bodies of shorter range barely leave the atmosphere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotConfig:
    """Distributions of the shots. A pair is the lowest and highest value; the distribution is uniform unless noted."""

    distance: tuple[float, float] = (300_000.0, 12_000_000.0)
    """Range over ground, m; log-uniform."""
    latitude: tuple[float, float] = (-70.0, 70.0)
    """Latitude of the launch site, degrees; uniform over the Earth's surface."""
    lofted: float = 0.25
    """Fraction of shots on a lofted trajectory, above the minimum-energy one."""
    depressed: float = 0.25
    """Fraction of shots on a depressed trajectory, below the minimum-energy one."""
    failed: float = 0.08
    """Fraction of shots whose thrust ends early, so that they fall short."""
    decoys: float = 0.25
    """Fraction of the shots of 1,500 km or more that are decoys, which are light and slow down at high altitude."""
    ballistic_coefficient: tuple[float, float] = (1_500.0, 15_000.0)
    """Ballistic coefficient (mass over drag area) of reentry vehicles, kg/m^2; log-uniform."""
    decoy_coefficient: tuple[float, float] = (60.0, 600.0)
    """Ballistic coefficient of decoys, kg/m^2; log-uniform."""

    def __post_init__(self) -> None:
        for name in ("lofted", "depressed", "failed", "decoys"):
            require_between(name, getattr(self, name), 0, 1)
        if self.lofted + self.depressed > 1.0:
            raise ConfigError(
                "lofted and depressed out of range",
                expected="a sum of at most 1",
                got=f"{self.lofted + self.depressed:g}",
            )
        limits = {
            "distance": (100_000.0, 15_000_000.0),
            "latitude": (-90.0, 90.0),
            "ballistic_coefficient": (1.0, 1e6),
            "decoy_coefficient": (1.0, 1e6),
        }
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ConfigError(
                    f"{name} out of range", expected=f"{least:g} <= low <= high <= {most:g}", got=f"{low:g}, {high:g}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """Parameters of K shots, (K,) each."""

    latitude: Float64
    """Latitude of the launch site, degrees."""
    longitude: Float64
    """Longitude of the launch site, degrees."""
    azimuth: Float64
    """Launch azimuth, rad, clockwise from north."""
    distance: Float64
    """Intended range over ground, m."""
    elevation: Float64
    """Flight-path angle to which the boost is steered, rad."""
    thrust_ends: Float64
    """Fraction of `distance` at which the impact point must be for the boost to end; below 1 if the boost fails."""
    first_thrust: Float64
    """Acceleration at the start of a stage, m/s^2."""
    exhaust_speed: Float64
    """Exhaust speed of the engine, m/s."""
    propellant: Float64
    """Fraction of a stage's start mass that is propellant."""
    ballistic_coefficient: Float64
    """Ballistic coefficient after boost, kg/m^2."""
    decoy: npt.NDArray[np.bool_]
    """Whether the body is a decoy."""
    brightness: Float64
    """Relative size of the body, by which its brightness scales."""

    def take(self, indices: npt.NDArray[np.int64]) -> Shots:
        """Return the shots with the given indices."""
        return Shots(**{field.name: getattr(self, field.name)[indices] for field in fields(self)})


def draw_shots(config: ShotConfig, count: int, random: np.random.Generator) -> Shots:
    """Draw `count` random shots."""

    def log_uniform(low: float, high: float) -> Float64:
        drawn: Float64 = np.exp(random.uniform(np.log(low), np.log(high), count))
        return drawn

    south, north = np.sin(np.radians(config.latitude))
    distance = log_uniform(*config.distance)
    # Minimum-energy elevation: Bate, Mueller and White, Fundamentals of Astrodynamics, section 6.2. It tends to 45
    # degrees for short ranges.
    least_energy = (np.pi - distance / MEAN_RADIUS) / 4.0
    trajectory = random.random(count)
    offset = np.where(
        trajectory < config.lofted,
        random.uniform(0.12, 0.30, count),
        np.where(
            trajectory < config.lofted + config.depressed,
            random.uniform(-0.22, -0.10, count),
            random.uniform(-0.04, 0.04, count),
        ),
    )
    fails = random.random(count) < config.failed
    decoy = (random.random(count) < config.decoys) & (distance >= DECOYS_FROM)
    return Shots(
        latitude=np.degrees(np.arcsin(random.uniform(south, north, count))),
        longitude=random.uniform(-180.0, 180.0, count),
        azimuth=random.uniform(0.0, 2.0 * np.pi, count),
        distance=distance,
        elevation=np.clip(least_energy + offset, 0.2, 1.35),
        thrust_ends=np.where(fails, random.uniform(0.45, 0.95, count) ** 2, 1.0),
        first_thrust=random.uniform(18.0, 26.0, count),
        exhaust_speed=random.uniform(2_500.0, 2_850.0, count),
        propellant=random.uniform(0.80, 0.86, count),
        ballistic_coefficient=np.where(
            decoy, log_uniform(*config.decoy_coefficient), log_uniform(*config.ballistic_coefficient)
        ),
        decoy=decoy,
        brightness=random.uniform(0.5, 2.0, count),
    )
