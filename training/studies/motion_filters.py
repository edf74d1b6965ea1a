"""The motion of `reentry.features.motion` beside a Kalman filter, held against what simulated flights really did.

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
from reentry.simulation import ballistic, earth
from reentry.simulation.ballistic import BallisticConfig
from reentry.simulation.flight import fly, launch
from reentry.simulation.sensors import Truth, observe, of_severity
from reentry.simulation.shots import draw_shots

NOISE = (5.0, 35.0, 100.0, 250.0)
"""m, by severity: what the Kalman filter is told of the sensors' position noise.
`reentry.features.motion` is told nothing."""

JERK = 0.3
"""m/s2 a root second, the Kalman filter's: the best of 0.3, 1 and 3 from severity 1 on."""

Array = npt.NDArray[Any]
Estimate = dict[str, Array]


@dataclass(frozen=True)
class Seen:
    """A flight as its sensors see it, and as it is."""

    measurements: Array
    """(T, M)."""
    truth: Estimate
    """(T,) each: speed and climb, m/s, drag, m/s2."""
    phases: dict[str, Array]
    """(T,) each: "coast", without drag, and "onset", with a drag of 0.1 to 5 m/s2; from 50 steps after boost on."""


def flights(severity: int, count: int, seed: int = 77) -> list[Seen]:
    """Flights of the ballistic profile; the row of the truth travels in the place of the label."""
    config = BallisticConfig(tracks=count, seed=seed)
    drawing, seeing = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    shots = draw_shots(config.shots, count, drawing)
    flown = fly(launch(shots), config.step)
    place = earth.to_ecef(flown.position, flown.time)
    velocity = earth.to_ecef(flown.velocity - earth.rotation_velocity(flown.position), flown.time)
    truth = Truth(
        shot=flown.shot,
        time=flown.time,
        position=place,
        velocity=velocity,
        brightness=ballistic.brightness(flown, shots),
        reentry_phase=np.arange(len(flown.shot)),
    )
    seen = observe(truth, of_severity(severity), step=config.step, random=seeing)
    found = []
    for shot in range(count):
        mine = np.flatnonzero(seen.shot == shot)
        mine = mine[np.argsort(seen.time[mine], kind="stable")]
        mine = mine[np.diff(seen.time[mine], prepend=-1.0) > 0.0]  # a copy has the time of its original
        rows = seen.reentry_phase[mine]
        columns = (seen.latitude, seen.longitude, seen.altitude, seen.intensity, seen.sensor)
        later = np.arange(len(rows)) > np.max(np.flatnonzero(flown.boosting[rows]), initial=0) + 50
        drag = flown.drag[rows]
        up = place[:, rows] / np.linalg.norm(place[:, rows], axis=0)
        found.append(
            Seen(
                measurements=np.stack([1.7e9 + seen.time[mine], *(column[mine] for column in columns)], axis=1),
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
    """What `reentry.features.motion` makes of it, with the drag of the given block."""
    first = np.repeat(measurements[:1], motion.HISTORY, axis=0)
    columns = np.ascontiguousarray(np.concatenate([first, measurements]).T)[:, None]
    time, latitude, longitude, altitude, _, sensor = columns
    found = motion.motion(time, latitude, longitude, altitude, sensor)
    return {"speed": found.speed[0], "climb": found.climb[0], "drag": found.drags[motion.BLOCKS.index(block)][0]}


def by_kalman(measurements: Array, noise: float) -> Estimate:
    """A Kalman filter of position, velocity and what gravity leaves of the acceleration, which walks at random.

    Gravity and the Earth's turning move the prediction. A measurement more than 5 standard deviations off is left out,
    after three of them in a row the filter takes the next and trusts itself less.
    """
    time = measurements[:, 0]
    place = motion._place(*measurements[:, 1:4].T)[:3].T
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
    """RMS error by phase and quantity."""
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
    """Print the RMS errors of both at each severity.

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
