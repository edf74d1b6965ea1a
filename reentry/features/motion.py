"""Motion as noisy sensors show it: speed, drag and dynamic pressure, robust to outliers, gaps and handovers; causal.

Drag is seen as the loss of the Jacobi constant v^2/2 - mu/r - omega^2 (x^2 + y^2)/2, v being the speed over the turning
Earth: gravity of a round Earth and the Earth's turning leave it as it is (Goldstein, Classical Mechanics, 3rd ed.,
2.7), thrust raises it, and drag of deceleration d lowers it by d v each second. So the drag needs no second difference
of positions and no model of gravity beyond mu; the Earth's flattening is an error of 0.01 m/s2 or so.

Each measurement is weighed in three ways before it counts:

- one far off the line through those before it is replaced by that line;
- a step from one sensor to another is replaced by what the velocity before it makes of its time, for it holds the
  difference of the sensors' biases and clocks;
- velocities are those between means of blocks of 2, 4 or 8 measurements, so that a block twice as long has a third of
  the noise and twice the delay.

A drag so found is that of its window, seconds ago, and on descent the air grows denser e-fold in seconds. So each is
carried to now, times what the density has grown by, tenfold at most.

All is elementwise on lagged copies, block sums included, so a whole track and its stream give the same bits.

Shapes: B tracks, T steps, M measurement columns, N = HISTORY + T rows, n <= N rows that are left of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from reentry.features.standard_atmosphere import log_density

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

BLOCKS: Final = (2, 4, 8)
"""Measurements of a block: short, medium, long."""

MIDPOINTS: Final = 4
"""Velocities that a drag is fitted over, one block apart."""

_CLEANING: Final = 6
"""Measurements before one that say where it should be: three pairs."""

_PREDICTING: Final = 5
"""Measurements before a handover that say how fast the track goes."""

HISTORY: Final = _CLEANING + _PREDICTING + (MIDPOINTS + 1) * BLOCKS[-1] - 2
"""Measurements before a step on which its motion depends."""

GRAVITATION: Final = 3.986004418e14
"""m3/s2, of the Earth (WGS 84)."""

TURNING: Final = 7.292115e-5
"""rad/s, of the Earth (WGS 84)."""

EQUATOR: Final = 6_378_137.0
"""m, radius of the equator (WGS 84)."""

ECCENTRICITY: Final = 6.694379990141e-3
"""Square of the ellipsoid's first eccentricity (WGS 84)."""

OUTLIER: Final = 200.0
"""m. Off the line by more than this and `SPREADS` times what the pairs differ by, along any axis, is an outlier."""

SPREADS: Final = 1.0
"""See `OUTLIER`. The pairs differ by the noise, and where the velocity changes."""

SHORTEST_TIME: Final = 1e-6
"""s. Within less, time stands still: a Unix time in float64 has no finer steps."""

SLOWEST: Final = 50.0
"""m/s. The drag of a slower body is taken as of this speed: the launch pad's noise is not divided by nothing."""

SPEED_BLOCK: Final = 8
"""Which of BLOCKS tells speed and climb."""

LONGEST_FALL: Final = 60.0
"""s. An older velocity is not told what gravity made of it since."""

FASTEST: Final = 1e5
"""m/s. No track is faster; what noise makes of two measurements at almost the same instant is cut there."""

THINNEST: Final = -6.0
"""log10 of the lowest dynamic pressure, Pa, that is told from none."""

CARRIED: Final = 10.0
"""How many times denser, or thinner, than in the window the air is taken to be now at most; more would be noise, many
times: that of a drag which is none."""


class Motion(NamedTuple):
    """(B, T) each."""

    speed: Float64
    """m/s, over the turning Earth."""
    climb: Float64
    """m/s."""
    log_dynamic_pressure: Float64
    """log10 of Pa."""
    drags: tuple[Float64, ...]
    """m/s2, over windows of five blocks, for each of BLOCKS, carried to now; negative under thrust."""


def motion(time: Float64, latitude: Float64, longitude: Float64, altitude: Float64, sensor: Float64) -> Motion:
    """Motion at the steps from HISTORY on: (B, N) each, in s, degrees and m -> (B, T) each."""
    steps = time.shape[-1] - HISTORY
    cleaned = _cleaned(time, _place(latitude, longitude, altitude))
    place, log_air = cleaned[:3], log_density(cleaned[3])
    air = np.exp(log_air)
    travelled, elapsed = _increments(time, place, sensor)
    drags: list[Float64] = []
    place_sum, travelled_sum, elapsed_sum, age_sum = place, travelled, elapsed, np.zeros_like(elapsed)
    now = np.zeros((2, *time.shape[:-1], steps))
    width = 1
    for block in BLOCKS:
        while width < block:
            age_sum = _doubled(age_sum, width) + width * elapsed_sum[..., width:]
            place_sum, travelled_sum, elapsed_sum = (
                _doubled(x, width) for x in (place_sum, travelled_sum, elapsed_sum)
            )
            width *= 2
        rows = MIDPOINTS * block - block + steps
        moved, passed = _summed(travelled_sum, block), _summed(elapsed_sum, block)
        velocity = _last(moved * _inverse(passed), rows)
        middle = _last(_doubled(place_sum, block), rows) / (2 * block)
        squared = _dot(velocity, velocity)
        constant = _jacobi(middle, squared)
        drag = _loss_rate(constant, np.sqrt(squared), _last(passed, rows) / block, block, steps)
        # What the slope tells is the mean drag of the window, but for half a block at either end, as of its air.
        thick = _last(_summed(air, MIDPOINTS * block), steps, block // 2) / (MIDPOINTS * block)
        drags.append(drag * np.clip(_last(air, steps) / thick, 1.0 / CARRIED, CARRIED))
        if block == SPEED_BLOCK:
            age = _last(_doubled(age_sum, block) + block * elapsed_sum[..., block:], steps) / (2 * block)
            now = _advanced(_last(middle, steps), _last(velocity, steps), age, _last(place, steps))
    speed = np.clip(now[0], SLOWEST, FASTEST)
    pressure = _last(log_air, steps) + 2.0 * np.log(speed) + np.log(0.5)
    return Motion(
        speed=np.minimum(now[0], FASTEST),
        climb=np.clip(now[1], -FASTEST, FASTEST),
        log_dynamic_pressure=np.maximum(pressure / np.log(10.0), THINNEST),
        drags=tuple(drags),
    )


def _dot(a: Float64, b: Float64) -> Float64:
    """(3, B, n) -> (B, n)."""
    product: Float64 = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return product


def _advanced(place: Float64, velocity: Float64, age: Float64, now: Float64) -> Float64:
    """Speed and climb, (2, B, T), of a velocity so many seconds old, after gravity and the Earth's turning since.

    Args:
        place: (3, B, T), m.
        velocity: (3, B, T), m/s.
        age: (B, T), s; no more than `LONGEST_FALL` counts.
        now: (3, B, T), m, the place by now, over which the body climbs.
    """
    distance = np.maximum(np.sqrt(_dot(place, place)), 1.0)
    seconds = np.minimum(age, LONGEST_FALL)
    pull = GRAVITATION / distance**3 - TURNING**2
    gained = [-pull * place[0] + 2.0 * TURNING * velocity[1], -pull * place[1] - 2.0 * TURNING * velocity[0]]
    gained.append(-(pull + TURNING**2) * place[2])
    later = np.stack([velocity[axis] + gained[axis] * seconds for axis in range(3)])
    overhead = np.maximum(np.sqrt(_dot(now, now)), 1.0)
    return np.stack([np.sqrt(_dot(later, later)), _dot(later, now) / overhead])


def _last(x: Float64, rows: int, ago: int = 0) -> Float64:
    """The last rows, or those so many rows before them: (..., n) -> (..., rows)."""
    end = x.shape[-1] - ago
    return x[..., end - rows : end]


def _doubled(sums: Float64, width: int) -> Float64:
    """Sums of 2 * width rows of those of width rows, (..., n) -> (..., n - width)."""
    return sums[..., width:] + sums[..., :-width]


def _summed(x: Float64, count: int) -> Float64:
    """Sums of the last `count` rows, a power of two: (..., n) -> (..., n - count + 1)."""
    width = 1
    while width < count:
        x = _doubled(x, width)
        width *= 2
    return x


def _inverse(x: Float64) -> Float64:
    """1 / x, and 0 where time stands still."""
    return np.divide(1.0, x, out=np.zeros_like(x), where=x > SHORTEST_TIME)


def _place(latitude: Float64, longitude: Float64, altitude: Float64) -> Float64:
    """(4, B, N), m: Earth-centred, Earth-fixed axes (WGS 84), and the altitude itself."""
    parallel, meridian = np.radians(latitude), np.radians(longitude)
    sine, cosine = np.sin(parallel), np.cos(parallel)
    normal = EQUATOR / np.sqrt(1.0 - ECCENTRICITY * sine**2)
    from_axis = (normal + altitude) * cosine
    up = (normal * (1.0 - ECCENTRICITY) + altitude) * sine
    return np.stack([from_axis * np.cos(meridian), from_axis * np.sin(meridian), up, altitude])


def _cleaned(time: Float64, place: Float64) -> Float64:
    """Places (4, B, n - 6); one far off is replaced by the median of the lines through three pairs before it."""
    rows = time.shape[-1] - _CLEANING

    def line(newer: int) -> Float64:
        since = _last(time, rows) - _last(time, rows, newer)
        share = since * _inverse(_last(time, rows, newer) - _last(time, rows, newer + 1))
        at = _last(place, rows, newer)
        return at + (at - _last(place, rows, newer + 1)) * share

    a, b, c = line(1), line(3), line(5)
    low, high = np.minimum(a, b), np.maximum(a, b)
    expected = np.maximum(low, np.minimum(high, c))
    spread = np.maximum(high, c) - np.minimum(low, c)
    measured = _last(place, rows)
    off = np.abs(measured - expected)
    is_outlier = off.max(axis=0) > OUTLIER + SPREADS * spread.max(axis=0)
    return np.where(is_outlier, expected, measured)


def _increments(time: Float64, place: Float64, sensor: Float64) -> tuple[Float64, Float64]:
    """From each row to the next: the way, (3, B, n - 5), m, and the time, (B, n - 5), s.

    Across a handover it is the velocity of the four steps before that makes the way of the time.
    """
    rows = place.shape[-1] - _PREDICTING
    way = _last(place, rows) - _last(place, rows, 1)
    elapsed = _last(time, rows) - _last(time, rows, 1)
    handed_over = _last(sensor, rows) != _last(sensor, rows, 1)
    if handed_over.any():
        before = _inverse(_last(time, rows, 1) - _last(time, rows, _PREDICTING)) * elapsed
        way = np.where(handed_over, (_last(place, rows, 1) - _last(place, rows, _PREDICTING)) * before, way)
    return way, elapsed


def _jacobi(place: Float64, squared_speed: Float64) -> Float64:
    """The Jacobi constant, m2/s2, of places (3, B, n) and squared speeds over the turning Earth (B, n)."""
    from_axis = place[0] ** 2 + place[1] ** 2
    distance = np.sqrt(from_axis + place[2] ** 2)
    constant: Float64 = 0.5 * squared_speed - GRAVITATION / np.maximum(distance, 1.0) - 0.5 * TURNING**2 * from_axis
    return constant


def _loss_rate(constant: Float64, speed: Float64, apart: Float64, block: int, steps: int) -> Float64:
    """Drag, (B, T) m/s2, of a least-squares line through the Jacobi constants of MIDPOINTS velocities.

    Args:
        constant: (B, n), m2/s2.
        speed: (B, n), m/s.
        apart: (B, n), s between the two blocks of each velocity.
        block: measurements between one velocity and the next.
        steps: T.
    """
    newest = _last(constant, steps)
    at = [np.zeros_like(newest)]
    for midpoint in range(1, MIDPOINTS):
        step = _last(apart, steps, block * (midpoint - 1)) + _last(apart, steps, block * midpoint)
        at.append(at[-1] - 0.5 * step)
    mean_at = (at[0] + at[1] + at[2] + at[3]) / MIDPOINTS
    slope, spread = np.zeros_like(newest), np.zeros_like(newest)
    for midpoint in range(MIDPOINTS):
        centred = at[midpoint] - mean_at
        spread += centred * centred
        slope += centred * (_last(constant, steps, block * midpoint) - newest)
    total = _last(speed, steps)
    for midpoint in range(1, MIDPOINTS):
        total = total + _last(speed, steps, block * midpoint)
    drag: Float64 = -slope * _inverse(spread) / np.maximum(total / MIDPOINTS, SLOWEST)
    return drag
