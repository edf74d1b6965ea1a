"""Errors of `reentry.features.motion` and of a Kalman filter on simulated flights, whose true motion is known.

    python -m training.studies.motion_filters --flights 80

Shapes: T steps of a flight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from reentry.features import motion
from reentry.features.history import WholeTracks
from reentry.simulation import ballistic, earth
from reentry.simulation.ballistic import BallisticConfig
from reentry.simulation.flight import fly, launch
from reentry.simulation.sensors import Truth, observe, of_severity
from reentry.simulation.shots import draw_shots

NOISE = (5.0, 35.0, 100.0, 250.0)
"""Position noise that the Kalman filter assumes, by severity, m. `reentry.features.motion` assumes none."""

JERK = 0.3
"""Process noise of the Kalman filter, m/s2 per root second: the best of 0.3, 1 and 3 at severities 1 to 3."""

Array = npt.NDArray[Any]
Estimate = dict[str, Array]


@dataclass(frozen=True)
class Seen:
    """Measurements of a flight and its true motion."""

    measurements: Array
    """Measurement columns of the track, (T, M)."""
    truth: Estimate
    """True speed and climb, m/s, and drag, m/s2, (T,) each."""
    phases: dict[str, Array]
    """Steps of "coast", without drag, and of "onset", with a drag of 0.1 to 5 m/s2, as masks, (T,) each.
    Both start 50 steps after the boost."""


def flights(severity: int, count: int, seed: int = 77) -> list[Seen]:
    """Simulated ballistic flights."""
    config = BallisticConfig(tracks=count, seed=seed)
    drawing, seeing = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    shots = draw_shots(config.shots, count, drawing)
    flown = fly(launch(shots), config.step)
    place = earth.to_ecef(flown.position, flown.time)
    velocity = earth.to_ecef(earth.velocity_through_air(flown.position, flown.velocity), flown.time)
    truth = Truth(
        shot=flown.shot,
        time=flown.time,
        position=place,
        velocity=velocity,
        brightness=ballistic.brightness(flown, shots),
        reentry_phase=np.arange(len(flown.shot)),  # in place of labels: tells the true row of each measurement
    )
    seen = observe(truth, of_severity(severity), step=config.step, random=seeing)
    found = []
    for shot in range(count):
        order = np.flatnonzero(seen.shot == shot)
        order = order[np.argsort(seen.time[order], kind="stable")]
        order = order[np.diff(seen.time[order], prepend=-1.0) > 0.0]  # duplicates have the time of their original
        rows = seen.reentry_phase[order]
        columns = (seen.latitude, seen.longitude, seen.altitude, seen.intensity, seen.sensor)
        later = np.arange(len(rows)) > np.max(np.flatnonzero(flown.boosting[rows]), initial=0) + 50
        drag = flown.drag[rows]
        up = place[:, rows] / np.linalg.norm(place[:, rows], axis=0)
        found.append(
            Seen(
                measurements=np.stack([1.7e9 + seen.time[order], *(column[order] for column in columns)], axis=1),
                truth={
                    "speed": np.linalg.norm(velocity[:, rows], axis=0),
                    "climb": (velocity[:, rows] * up).sum(axis=0),
                    "drag": drag,
                },
                phases={"coast": later & (drag < 0.01), "onset": later & (drag > 0.1) & (drag < 5.0)},
            )
        )
    return found


def by_blocks(measurements: Array, block: int) -> Estimate:
    """Motion by `reentry.features.motion`, with the drag of the given block."""
    first = np.repeat(measurements[:1], motion.HISTORY, axis=0)
    columns = np.ascontiguousarray(np.concatenate([first, measurements]).T)[:, None]
    time, latitude, longitude, altitude, _, sensor = columns
    found = motion.motion(time, latitude, longitude, altitude, sensor, WholeTracks())
    return {"speed": found.speed[0], "climb": found.climb[0], "drag": found.drags[motion.BLOCKS.index(block)][0]}


def by_kalman(measurements: Array, noise: float) -> Estimate:
    """Motion by a Kalman filter. Its state is position, velocity, and non-gravitational acceleration as a random walk.

    The prediction includes gravity and the rotation of the Earth. A measurement more than 5 standard deviations off is
    ignored. After three of them in a row, the filter accepts the next one and increases its covariance.
    """
    time = measurements[:, 0]
    place = motion.positions(*measurements[:, 1:4].T)[:3].T
    state, covariance = np.zeros((3, 3)), np.diag([noise**2, 1e4, 1e2])
    state[0] = place[0]
    states = np.empty((len(time), 3, 3))
    missed = 0
    for step in range(len(time)):
        d = time[step] - time[step - 1] if step else 0.0
        if d > 0.0:
            pull = _gravity(state[0], state[1])
            turn = np.array([[1.0, d, d * d / 2], [0.0, 1.0, d], [0.0, 0.0, 1.0]])
            state = turn @ state + np.outer([d * d / 2, d, 0.0], pull)
            walk = [[d**5 / 20, d**4 / 8, d**3 / 6], [d**4 / 8, d**3 / 3, d**2 / 2], [d**3 / 6, d**2 / 2, d]]
            covariance = turn @ covariance @ turn.T + JERK**2 * np.array(walk)
            if missed >= 3:
                covariance, missed = covariance + np.diag([noise**2, 1e5, 1e3]), -1
            off = place[step] - state[0]
            expected = covariance[0, 0] + noise**2
            if missed < 0 or np.abs(off).max() < 5.0 * np.sqrt(expected):
                gain = covariance[:, 0] / expected
                state = state + np.outer(gain, off)
                covariance = covariance - np.outer(gain, covariance[0])
                missed = 0
            else:
                missed += 1
        states[step] = state
    velocity = states[:, 1]
    speed = np.linalg.norm(velocity, axis=1)
    climb = (velocity * place).sum(axis=1) / np.linalg.norm(place, axis=1)
    drag = -(states[:, 2] * velocity).sum(axis=1) / np.maximum(speed, motion.SLOWEST)
    return {"speed": speed, "climb": climb, "drag": drag}


def _gravity(place: Array, velocity: Array) -> Array:
    turning = motion.TURNING
    x, y, _ = place
    outwards = turning**2 * np.array([x, y, 0.0]) + 2.0 * turning * np.array([velocity[1], -velocity[0], 0.0])
    pull: Array = outwards - motion.GRAVITATION * place / np.linalg.norm(place) ** 3
    return pull


def errors(seen: list[Seen], estimate: Callable[[Array], Estimate]) -> dict[tuple[str, str], float]:
    """Root-mean-square error by phase and quantity."""
    estimates = [estimate(flight.measurements) for flight in seen]
    found = {}
    for phase in ("coast", "onset"):
        for name in ("speed", "climb", "drag"):
            off = [
                (e[name] - flight.truth[name])[flight.phases[phase]] for e, flight in zip(estimates, seen, strict=True)
            ]
            found[phase, name] = float(np.sqrt(np.mean(np.concatenate(off) ** 2)))
    return found


def main(count: Annotated[int, typer.Option("--flights", help="Flights of each severity.")] = 80) -> None:
    """Print the root-mean-square errors of `reentry.features.motion` and of the Kalman filter at each severity.

    Example: `python -m training.studies.motion_filters --flights 80`
    """
    names = [f"{phase} {name}" for phase in ("coast", "onset") for name in ("speed", "climb", "drag")]
    typer.echo(f"| severity | by | {' | '.join(names)} |\n| --- | --- |{' ---: |' * len(names)}")
    for severity, noise in enumerate(NOISE):
        seen = flights(severity, count)
        rows = {f"blocks of {block}": errors(seen, partial(by_blocks, block=block)) for block in motion.BLOCKS}
        rows["Kalman"] = errors(seen, partial(by_kalman, noise=noise))
        for name, found in rows.items():
            typer.echo(f"| {severity} | {name} | {' | '.join(f'{value:.2f}' for value in found.values())} |")


if __name__ == "__main__":
    typer.run(main)
