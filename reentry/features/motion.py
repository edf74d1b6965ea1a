"""Causal estimates of speed, drag and dynamic pressure that are robust to noise, outliers, gaps and handovers.

Drag is estimated from the Jacobi constant v^2/2 - mu/r - omega^2 (x^2 + y^2)/2, where v is the speed relative to the
rotating Earth (Goldstein, Classical Mechanics, 3rd ed., 2.7). The gravity of a spherical Earth and its rotation do not
change the constant. Thrust increases it, and a deceleration d by drag decreases it at the rate d v. So the estimate
needs no second difference of positions and no gravity model beyond mu. Ignoring the Earth's flattening costs about
0.01 m/s2.

Three measures reduce the effect of measurement errors:

- A position far from the line through the positions before it is an outlier and is replaced by that line.
- At a handover the displacement contains the difference of the sensors' biases and clocks. It is replaced by the
  velocity before the handover times the elapsed time.
- A velocity is the difference between the means of two blocks of 2, 4 or 8 measurements. A block twice as long has a
  third of the noise and twice the delay.

The result is the mean drag in a window that lies seconds in the past, and on descent the air density grows e-fold
within seconds. So each drag is extrapolated to the current step by the ratio of the densities, at most tenfold.

All operations, block sums included, are elementwise on lagged arrays, so a whole track and its stream give
bit-identical results. They work on float64 arrays of numpy and of other libraries, see `reentry.arrays`.

Shapes: B tracks, T steps, N = HISTORY + T rows, n <= N rows that remain after differences and sums.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from reentry.arrays import Array, clipped, cosine, namespace, quotient
from reentry.features.history import History, last
from reentry.features.standard_atmosphere import log_density

BLOCKS: Final = (2, 4, 8)
"""Numbers of measurements in a short, a medium and a long block."""

MIDPOINTS: Final = 4
"""Number of velocities, one block apart, that a drag is fitted to."""

CLEANING: Final = 6
"""Number of earlier measurements that predict a position: three pairs."""

_HANDOVER_HISTORY: Final = 5
"""Number of measurements before a handover that its velocity is computed from."""

_DEPTH: Final = (MIDPOINTS + 1) * BLOCKS[-1] - 2
"""Number of increments before a step on which its motion depends."""

HISTORY: Final = CLEANING + _HANDOVER_HISTORY + _DEPTH
"""Number of measurements before a step on which its motion depends."""

GRAVITATION: Final = 3.986004418e14
"""Gravitational parameter mu of the Earth, m3/s2 (WGS 84)."""

TURNING: Final = 7.292115e-5
"""Angular velocity omega of the Earth, rad/s (WGS 84)."""

RADIANS_PER_DEGREE: Final = math.pi / 180.0

EQUATOR: Final = 6_378_137.0
"""Equatorial radius of the Earth, m (WGS 84)."""

ECCENTRICITY: Final = 6.694379990141e-3
"""Squared first eccentricity of the ellipsoid (WGS 84)."""

OUTLIER: Final = 200.0
"""Minimum distance of an outlier from its prediction along an axis, m, in addition to `SPREADS`."""

SPREADS: Final = 1.0
"""Additional minimum distance of an outlier, as a multiple of the spread of the three predictions. Noise and changes of
the velocity increase the spread."""

SHORTEST_TIME: Final = 1e-6
"""Shortest measurable time, s: a Unix time in float64 has a resolution of 2.4e-7 s. A shorter time counts as zero."""

SLOWEST: Final = 50.0
"""Minimum speed in the division that gives the drag, m/s, so that noise on the launch pad is not amplified."""

SPEED_BLOCK: Final = 8
"""Block of `BLOCKS` that speed and climb rate are computed from."""

LONGEST_FALL: Final = 60.0
"""Maximum time over which a velocity is extrapolated by gravity, s."""

FASTEST: Final = 1e5
"""Upper limit of the speed, m/s. Noise in two almost simultaneous measurements could exceed it, but no track does."""

THINNEST: Final = -6.0
"""Lower limit of the dynamic pressure, as log10 of Pa."""

LARGEST_DENSITY_RATIO: Final = 10.0
"""Maximum ratio of the current density to the mean density of the window, and of its inverse. A higher ratio would
mostly amplify the noise of a drag near zero."""


class Motion(NamedTuple):
    """Estimated motion at each step; every array is (B, T)."""

    speed: Array
    """Speed relative to the rotating Earth, m/s."""
    climb: Array
    """Climb rate, m/s."""
    log_dynamic_pressure: Array
    """Dynamic pressure, as log10 of Pa."""
    drags: tuple[Array, ...]
    """Deceleration by drag for each block of `BLOCKS`, extrapolated from five blocks to the step, m/s2; negative under
    thrust."""


def motion(time: Array, latitude: Array, longitude: Array, altitude: Array, sensor: Array, history: History) -> Motion:
    """Estimate the motion at the steps from row HISTORY on: (B, N) each, in s, degrees and m -> (B, T) each.

    Live tracks have one row of latitude, longitude and altitude, CLEANING + 1 of the time and two of the sensor.
    """
    xp = namespace(time)
    measured = positions(latitude, longitude, altitude)
    cleaned = _without_outliers(time, history.extended(measured, CLEANING))
    position, log_air = cleaned[:3], log_density(cleaned[3])
    air = xp.exp(log_air)
    travelled, elapsed = _increments(time, history.extended(position, _HANDOVER_HISTORY), sensor)
    steps = int(elapsed.shape[-1]) - history.rows(0, _DEPTH)
    drags: list[Array] = []
    position_sum, travelled_sum, elapsed_sum, age_sum = position, travelled, elapsed, xp.zeros_like(elapsed)
    air_sum, air_width = air, 1
    width = 1
    for block in BLOCKS:
        while width < block:
            earlier_elapsed = history.extended(elapsed_sum, width)
            age_sum = _doubled(age_sum, width, history) + width * earlier_elapsed[..., width:]
            position_sum, travelled_sum = (_doubled(x, width, history) for x in (position_sum, travelled_sum))
            elapsed_sum = earlier_elapsed[..., width:] + earlier_elapsed[..., :-width]
            width *= 2
        lags = (MIDPOINTS - 1) * block
        rows = history.rows(steps, lags)
        moved, duration = (_summed(x, block, history) for x in (travelled_sum, elapsed_sum))
        velocity = last(moved * _inverse(duration), rows)
        middle = last(_doubled(position_sum, block, history), rows) / (2 * block)
        squared_speed = _dot(velocity, velocity)
        constant, speeds, durations = (
            history.extended(x, lags)
            for x in (_jacobi(middle, squared_speed), xp.sqrt(squared_speed), last(duration, rows) / block)
        )
        drag = _drag(constant, speeds, durations, block, steps)
        # The fit gives the mean drag of the window without half a block at either end, so take the mean density there.
        while air_width < MIDPOINTS * block:
            air_sum = _doubled(air_sum, air_width, history)
            air_width *= 2
        mean_air = last(history.extended(air_sum, block // 2), steps, block // 2) / (MIDPOINTS * block)
        ratio = last(air, steps) / mean_air
        drags.append(drag * clipped(ratio, 1.0 / LARGEST_DENSITY_RATIO, LARGEST_DENSITY_RATIO))
        if block == SPEED_BLOCK:
            earlier_elapsed = history.extended(elapsed_sum, block)
            ages = _doubled(age_sum, block, history) + block * earlier_elapsed[..., block:]
            age = last(ages, steps) / (2 * block)
            speed, climb = _extrapolated(last(middle, steps), last(velocity, steps), age, last(position, steps))
    pressure = last(log_air, steps) + 2.0 * xp.log(clipped(speed, SLOWEST, FASTEST)) + math.log(0.5)
    return Motion(
        speed=xp.minimum(speed, FASTEST),
        climb=clipped(climb, -FASTEST, FASTEST),
        log_dynamic_pressure=xp.maximum(pressure / math.log(10.0), THINNEST),
        drags=tuple(drags),
    )


def _dot(a: Array | list[Array], b: Array | list[Array]) -> Array:
    """Dot product: (3, B, n) -> (B, n)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _extrapolated(position: Array, velocity: Array, age: Array, current: Array) -> tuple[Array, Array]:
    """Extrapolate a velocity by gravity and the Earth's rotation to the current step: speed and climb rate, (B, T).

    Args:
        position: position that the velocity belongs to, (3, B, T), m.
        velocity: velocity, (3, B, T), m/s.
        age: age of the velocity, (B, T), s; limited to `LONGEST_FALL`.
        current: current position, which defines the vertical, (3, B, T), m.
    """
    xp = namespace(age)
    distance = xp.maximum(xp.sqrt(_dot(position, position)), 1.0)
    seconds = xp.minimum(age, LONGEST_FALL)
    pull = GRAVITATION / distance**3  # 1/s2
    acceleration = [
        TURNING**2 * position[0] - pull * position[0] + 2.0 * TURNING * velocity[1],
        TURNING**2 * position[1] - pull * position[1] - 2.0 * TURNING * velocity[0],
        -pull * position[2],
    ]
    later = [velocity[axis] + acceleration[axis] * seconds for axis in range(3)]
    radius = xp.maximum(xp.sqrt(_dot(current, current)), 1.0)
    return xp.sqrt(_dot(later, later)), _dot(later, current) / radius


def _doubled(sums: Array, width: int, history: History) -> Array:
    """Sums over 2 * width rows from the sums over width rows: (..., n) -> (..., n - width)."""
    sums = history.extended(sums, width)
    return sums[..., width:] + sums[..., :-width]


def _summed(x: Array, count: int, history: History) -> Array:
    """Sums over the last `count` rows, where `count` is a power of two: (..., n) -> (..., n - count + 1)."""
    width = 1
    while width < count:
        x = _doubled(x, width, history)
        width *= 2
    return x


def _inverse(x: Array) -> Array:
    """Reciprocal of a time in s, or 0 if the time is not longer than `SHORTEST_TIME`."""
    return quotient(1.0, x, where=x > SHORTEST_TIME)


def positions(latitude: Array, longitude: Array, altitude: Array) -> Array:
    """Positions in Earth-centred, Earth-fixed axes (WGS 84) and the altitude: (B, N) each -> (4, B, N), m."""
    xp = namespace(latitude)
    parallel, meridian = latitude * RADIANS_PER_DEGREE, longitude * RADIANS_PER_DEGREE
    sine = xp.sin(parallel)
    normal = EQUATOR / xp.sqrt(1.0 - ECCENTRICITY * sine**2)
    from_axis = (normal + altitude) * cosine(parallel)
    up = (normal * (1.0 - ECCENTRICITY) + altitude) * sine
    return xp.stack([from_axis * cosine(meridian), from_axis * xp.sin(meridian), up, altitude])


def _without_outliers(time: Array, position: Array) -> Array:
    """Replace outliers by the median of three lines through pairs of earlier positions: (4, B, n) -> (4, B, n - 6)."""
    xp = namespace(time)
    rows = time.shape[-1] - CLEANING

    def line(newer: int) -> Array:
        since = last(time, rows) - last(time, rows, newer)
        share = since * _inverse(last(time, rows, newer) - last(time, rows, newer + 1))
        start = last(position, rows, newer)
        return start + (start - last(position, rows, newer + 1)) * share

    a, b, c = line(1), line(3), line(5)
    low, high = xp.minimum(a, b), xp.maximum(a, b)
    expected = xp.maximum(low, xp.minimum(high, c))
    spread = xp.maximum(high, c) - xp.minimum(low, c)
    measured = last(position, rows)
    error = xp.abs(measured - expected)
    is_outlier = xp.max(error, axis=0) > OUTLIER + SPREADS * xp.max(spread, axis=0)
    return xp.where(is_outlier, expected, measured)


def _increments(time: Array, position: Array, sensor: Array) -> tuple[Array, Array]:
    """Displacement, (3, B, n - 5), m, and elapsed time, (B, n - 5), s, from each row to the next.

    The displacement across a handover is the velocity over the four steps before it times the elapsed time.
    """
    rows = position.shape[-1] - _HANDOVER_HISTORY
    displacement = last(position, rows) - last(position, rows, 1)
    elapsed = last(time, rows) - last(time, rows, 1)
    handed_over = last(sensor, rows) != last(sensor, rows, 1)
    share = _inverse(last(time, rows, 1) - last(time, rows, _HANDOVER_HISTORY)) * elapsed
    predicted = (last(position, rows, 1) - last(position, rows, _HANDOVER_HISTORY)) * share
    return namespace(time).where(handed_over, predicted, displacement), elapsed


def _jacobi(position: Array, squared_speed: Array) -> Array:
    """Jacobi constant, m2/s2, of positions (3, B, n) and squared speeds relative to the rotating Earth (B, n)."""
    xp = namespace(position)
    from_axis = position[0] ** 2 + position[1] ** 2
    distance = xp.sqrt(from_axis + position[2] ** 2)
    return 0.5 * squared_speed - GRAVITATION / xp.maximum(distance, 1.0) - 0.5 * TURNING**2 * from_axis


def _drag(constant: Array, speed: Array, duration: Array, block: int, steps: int) -> Array:
    """Fit a least-squares line to the Jacobi constants of MIDPOINTS velocities: drag, (B, T), m/s2.

    Args:
        constant: Jacobi constant of each velocity, (B, n), m2/s2.
        speed: speed of each velocity, (B, n), m/s.
        duration: time between the two blocks of each velocity, (B, n), s.
        block: number of measurements between consecutive velocities.
        steps: number of steps T.
    """
    xp = namespace(constant)
    newest = last(constant, steps)
    times = [xp.zeros_like(newest)]
    for midpoint in range(1, MIDPOINTS):
        step = last(duration, steps, block * (midpoint - 1)) + last(duration, steps, block * midpoint)
        times.append(times[-1] - 0.5 * step)
    mean_time = (times[0] + times[1] + times[2] + times[3]) / MIDPOINTS
    slope, spread = xp.zeros_like(newest), xp.zeros_like(newest)
    for midpoint in range(MIDPOINTS):
        centred = times[midpoint] - mean_time
        spread = spread + centred * centred
        slope = slope + centred * (last(constant, steps, block * midpoint) - newest)
    total = last(speed, steps)
    for midpoint in range(1, MIDPOINTS):
        total = total + last(speed, steps, block * midpoint)
    return -slope * _inverse(spread) / xp.maximum(total / MIDPOINTS, SLOWEST)
