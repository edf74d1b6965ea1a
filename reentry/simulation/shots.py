"""What is drawn of each simulated shot: from where, how far, how high, what flies.

Shapes: K shots.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.errors import ConfigError
from reentry.simulation.earth import MEAN_RADIUS

Float64 = npt.NDArray[np.float64]

DECOYS_FROM: Final = 1_500_000.0
"""m. Shots of less range carry no decoys: they hardly leave the air."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotConfig:
    """The ranges that shots are drawn from, evenly where nothing else is said; pairs are lowest and highest."""

    distance: tuple[float, float] = (300_000.0, 12_000_000.0)
    """m over ground, evenly in its logarithm."""
    latitude: tuple[float, float] = (-70.0, 70.0)
    """Degrees, of the launch; evenly over the Earth's surface between them."""
    lofted: float = 0.25
    """Share that flies higher than the way of least energy."""
    depressed: float = 0.25
    """Share that flies lower."""
    failed: float = 0.08
    """Share whose thrust ends early, so that they fall short."""
    decoys: float = 0.25
    """Share of the shots of 1,500 km and more that are decoys: light, so that they slow down high."""
    ballistic_coefficient: tuple[float, float] = (1_500.0, 15_000.0)
    """kg/m^2, mass over drag area, of reentry vehicles; evenly in its logarithm."""
    decoy_coefficient: tuple[float, float] = (60.0, 600.0)
    """kg/m^2, of decoys; likewise."""

    def __post_init__(self) -> None:
        for name in ("lofted", "depressed", "failed", "decoys"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise ConfigError(f"{name} out of range", expected="a share, 0 to 1", got=str(share))
        if self.lofted + self.depressed > 1.0:
            raise ConfigError(
                "lofted and depressed out of range",
                expected="1 at most together",
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
    """K drawn shots, (K,) each."""

    latitude: Float64
    """Degrees, of the launch."""
    longitude: Float64
    azimuth: Float64
    """rad, of the launch, from north over east."""
    distance: Float64
    """m over ground, that the shot is aimed at."""
    elevation: Float64
    """rad, flight-path angle that the boost steers to."""
    thrust_ends: Float64
    """Share of `distance` that thrust ends at, by where the body would come down; less than 1 where the boost fails."""
    first_thrust: Float64
    """m/s^2, acceleration at the start of a stage."""
    exhaust_speed: Float64
    """m/s, of the boost's jet."""
    propellant: Float64
    """Share of a stage's start mass that burns."""
    ballistic_coefficient: Float64
    """kg/m^2, after the boost."""
    decoy: npt.NDArray[np.bool_]
    brightness: Float64
    """Of the body, relative: its size in a sensor's eyes."""

    def take(self, chosen: npt.NDArray[np.int64]) -> Shots:
        """Some of them."""
        return Shots(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def draw_shots(config: ShotConfig, count: int, random: np.random.Generator) -> Shots:
    """`count` shots."""

    def log_even(low: float, high: float) -> Float64:
        drawn: Float64 = np.exp(random.uniform(np.log(low), np.log(high), count))
        return drawn

    south, north = np.sin(np.radians(config.latitude))
    distance = log_even(*config.distance)
    # Bate, Mueller and White, Fundamentals of Astrodynamics, section 6.2; over a flat Earth 45 degrees.
    least_energy = (np.pi - distance / MEAN_RADIUS) / 4.0
    kind = random.random(count)
    off_least_energy = np.where(
        kind < config.lofted,
        random.uniform(0.12, 0.30, count),
        np.where(
            kind < config.lofted + config.depressed,
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
        elevation=np.clip(least_energy + off_least_energy, 0.2, 1.35),
        thrust_ends=np.where(fails, random.uniform(0.45, 0.95, count) ** 2, 1.0),
        first_thrust=random.uniform(18.0, 26.0, count),
        exhaust_speed=random.uniform(2_500.0, 2_850.0, count),
        propellant=random.uniform(0.80, 0.86, count),
        ballistic_coefficient=np.where(
            decoy, log_even(*config.decoy_coefficient), log_even(*config.ballistic_coefficient)
        ),
        decoy=decoy,
        brightness=random.uniform(0.5, 2.0, count),
    )
