"""The orbit filter: an extended Kalman filter of a body in free flight, compiled by numba.

docs/features.md says what it estimates and why. The functions work on one track and one measurement, so a whole track
and a live one run the same machine code, and give the same bits. They change the state of the track in place.

The filter starts after the boost, from a window of measurements, and follows position and velocity by gravity with J2,
the rotation of the Earth and drag. Each sensor has a bias and a clock offset, which are unknown again after a handover.
The noise is estimated from third differences, in which a smooth flight cancels.

The filter answers only after the measurements have excluded an upward acceleration besides gravity and drag, such as
thrust, lift or support by the ground. That acceleration is estimated beside the filter, by how it would shift the
estimates (Friedland, 1969, "Treatment of Bias in Recursive Filtering"). A track that contradicts free
flight makes the filter start again, and in the end give up.

Numba compiles a file again only if that file itself has changed, so all compiled functions are in this one, and
`orbit.COMPILED_FROM` names the files whose constants they use.

Positions and velocities are relative to the Earth, in m and m/s (ECEF). Kappa is the inverse of the ballistic
coefficient, in 1e-3 m2/kg.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import njit

from reentry.features.motion import ECCENTRICITY, EQUATOR, GRAVITATION, TURNING
from reentry.features.standard_atmosphere import HIGHEST, SPACING, log_density

OBLATENESS: Final = 1.082_629_8e-3
"""Second zonal harmonic J2 of the Earth (WGS 84)."""

KAPPA_UNIT: Final = 1e-3
"""Unit of kappa, m2/kg."""

FIRST_KAPPA: Final = 0.25
"""Kappa at the start: a ballistic coefficient of 4,000 kg/m2."""

KAPPA_SPREAD: Final = 30.0
"""Standard deviation of kappa at the start, so large that the measurements alone decide."""

LEAST_KAPPA: Final = 0.06
"""Lower limit of the kappa along whose path the drag is computed; from there on the drag is taken to be linear."""

LARGEST_KAPPA: Final = 17.0
"""Upper limit of that kappa."""

LIGHTS: Final = 5
"""Number of intensities of which the median is taken, so that two flashes are not the plume."""

BURNT_OUT: Final = 1.0 / 30.0
"""Share of the brightest intensity so far below which the engine has stopped."""

FALLEN: Final = 5e3
"""Distance below its highest altitude, m, from which a body without a visible end of its boost is in free flight."""

LEAST_ALTITUDE: Final = 20e3
"""Altitude above which such a body is taken to be in free flight, m."""

WINDOW: Final = 8
"""Number of measurements from which the filter starts."""

SHORTEST_SPAN: Final = 1.5
"""Shortest time between two measurements whose difference gives a velocity, s."""

SPACING_IN_WINDOW: Final = 0.22
"""Shortest time between rows of the window besides the latest one, s. A full window spans at least six times as much.
If it spans no more than `SHORTEST_SPAN`, the filter waits for further measurements."""

POSITION_SPREAD: Final = 5_000.0
"""Standard deviation of the position at the start, m."""

VELOCITY_SPREAD: Final = 300.0
"""Standard deviation of the velocity at the start, m/s."""

NOISE_FLOOR: Final = 1.0
"""Smallest standard deviation of a measured position, m."""

FIRST_NOISE: Final = 100.0
"""Standard deviation of a measured position if the window is too sparse to estimate it, m."""

MEDIAN_SHARE: Final = 0.79
"""Median of the mean of three squared normal deviates, relative to their variance (chi-square of 3 degrees)."""

NOISE_SPAN: Final = 8.0
"""Longest time over which a third difference is taken, s."""

NOISE_CLIP: Final = 9.0
"""Upper limit of a squared third difference, as a multiple of the variance so far, against outliers."""

BIAS: Final = 1.0
"""Standard deviation of the bias of a sensor, as a multiple of its noise."""

CLOCK: Final = 5.5e-4
"""Standard deviation of the clock offset of a sensor, s for each m of its noise."""

VELOCITY_WALK: Final = 1e-5
"""Random walk of the velocity, m/s per square root of a second."""

KAPPA_WALK: Final = 0.02
"""Random walk of kappa as a share of it, per square root of a second, because the air differs from its table."""

LONGEST_SUBSTEP: Final = 3.0
"""Longest step of the integration, s."""

LONGEST_GAP: Final = 120.0
"""Longest time without a measurement that the filter bridges, s."""

GATE: Final = 30.0
"""Squared Mahalanobis distance above which a measurement is an outlier: 1 in 700,000 normal deviates in space."""

REJECTIONS: Final = 3
"""Number of consecutive outliers after which the covariance is widened, because the state may be wrong."""

MEMORY: Final = 0.9
"""Factor by which the share of outliers forgets at each measurement."""

DOUBTFUL: Final = 0.3
"""Share of outliers above which the filter does not answer."""

LOST: Final = 0.5
"""Share of outliers above which the filter starts again."""

MOST_STARTS: Final = 50
"""Number of starts after which a track is not ballistic."""

SETTLED: Final = 18
"""Number of measurements from which the filter answers, those of the window that it starts from included."""

LIFT: Final = 3.0
"""Upward acceleration besides gravity and drag that free flight excludes, m/s2.

A body at rest or in level flight has 9.8 m/s2 less speed^2 / 6.4e6 m.
"""

SURE: Final = 4.0
"""Number of standard deviations by which an estimate has to contradict free flight, or agree with it."""

LOWEST_KAPPA: Final = 0.02
"""Smallest kappa of a body in free flight: a ballistic coefficient of 50,000 kg/m2."""

HIGHEST_KAPPA: Final = 50.0
"""Largest kappa of a body in free flight: a ballistic coefficient of 20 kg/m2."""

FASTEST_ENTRY: Final = 8_200.0
"""Highest speed at entry of a body in free flight, m/s; a body in orbit has 7,900 m/s."""

SLOWEST: Final = 300.0
"""Least speed at which the measurements can show free flight, m/s. A slower one in dense air may be at rest."""

LARGEST_SPREAD: Final = 10e3
"""Largest standard deviation of the velocity, m/s, for which the linearisation may be of use."""

FASTEST: Final = 12e3
"""Speed above which the filter has diverged, m/s."""

ENTRY_ALTITUDE: Final = 100e3
"""Altitude at which the speed at entry is given, m."""

SLOWED_ALTITUDE: Final = 70e3
"""Altitude below which that speed stays as it is, m, since the air slows the body."""

STATES: Final = 11
"""Number of estimates: position 0 to 2, velocity 3 to 5, kappa 6, bias 7 to 9, and clock offset 10."""

_ORBIT: Final = 7
"""Number of estimates that change with time: position, velocity and kappa."""

_WAITING, _FOLLOWING, _GAVE_UP = range(3)

STATE: Final = np.dtype(
    [
        ("mode", "f8"),
        ("starts", "f8"),  # number of starts
        ("measured", "f8"),  # number of measurements of the track
        ("updates", "f8"),  # number of measurements since the start of the filter
        ("time", "f8"),  # s
        ("sensor", "f8"),
        ("run", "f8"),  # number of measurements since the latest handover
        ("light", "f8", LIGHTS),  # latest intensities
        ("brightest", "f8"),
        ("highest", "f8"),  # m
        ("window", "f8", (WINDOW, 4)),  # latest times and positions, oldest first
        ("filled", "f8"),  # number of rows of the window that may be used
        ("x", "f8", STATES),
        ("p", "f8", (STATES, STATES)),  # covariance of x
        ("variance", "f8"),  # of the noise of a position along an axis, m2
        ("variance_count", "f8"),  # number of independent squares in it
        ("rejections", "f8"),  # consecutive outliers
        ("outliers", "f8"),  # share of outliers among the latest measurements
        ("lifted", "f8", STATES),  # how far the estimates are off by an unmodelled upward acceleration of 1 m/s2
        ("lift_score", "f8"),  # estimate of that acceleration, times its information
        ("lift_information", "f8"),  # inverse variance of that estimate, s4/m2
        ("proved", "f8"),  # 1 once the measurements have shown free flight
        ("pressure", "f8"),  # highest dynamic pressure of the descent, Pa
        ("entry_speed", "f8"),  # m/s
    ]
)
"""State of a track; 0 before its first measurement."""

_LOG_DENSITY: Final = log_density(np.arange(0.0, HIGHEST + 1.0, SPACING))

_compiled = njit(error_model="numpy")


@njit(cache=True, error_model="numpy")
def continue_all(states, measurements, features):
    """Continue tracks from their states.

    Args:
        states: states before the steps, (B,) of `STATE`; afterwards those after the steps.
        measurements: finite measurements in time order, (B, T, M).
        features: filled with the features of `schema.ORBIT_FEATURES`, (B, T, 6).
    """
    for track in range(measurements.shape[0]):
        for step in range(measurements.shape[1]):
            _advance(states[track], measurements[track, step], features[track, step])


@_compiled
def _advance(state, measurement, features):
    """Take one measurement, (M,), and fill in the features after it, (6,)."""
    position = _position(measurement[1], measurement[2], measurement[3])
    if not _is_repeated(state, measurement[0], position):
        elapsed = measurement[0] - state.time if state.measured > 0.0 else 0.0
        changed = state.measured > 0.0 and measurement[5] != state.sensor
        free = _is_in_free_flight(state, measurement[3], measurement[4])
        # Sensors that alternate would never fill a window each, so they share it.
        parted = changed and (state.mode == _FOLLOWING or state.run >= WINDOW)
        state.time, state.sensor, state.run = measurement[0], measurement[5], 1.0 if changed else state.run + 1.0
        _remember(state, measurement[0], position, parted or elapsed > LONGEST_GAP)
        if state.mode == _WAITING:
            _start_if_possible(state, free)
        elif state.mode == _FOLLOWING:
            _follow(state, elapsed, position, changed)
    _answer(state, features)


@_compiled
def _is_repeated(state, time, position):
    """Whether a measurement repeats the latest one, as padding does."""
    latest = state.window[WINDOW - 1]
    same = time == latest[0] and position[0] == latest[1] and position[1] == latest[2] and position[2] == latest[3]
    return state.measured > 0.0 and same


@_compiled
def _is_in_free_flight(state, altitude, intensity):
    """Whether the boost has ended: the plume is gone, or the body falls from high altitude."""
    light = state.light
    for i in range(LIGHTS - 1):
        light[i] = light[i + 1]
    light[LIGHTS - 1] = intensity
    if state.measured == 0.0:
        state.highest = -math.inf
    else:  # the lower of two, since one of them may be an outlier
        state.highest = max(state.highest, min(altitude, _height(state.window[WINDOW - 1, 1:])))
    state.measured += 1.0
    dark = False
    if state.measured >= LIGHTS:
        steady = np.median(light)
        state.brightest = max(state.brightest, steady)
        dark = steady < state.brightest * BURNT_OUT
    return dark or (state.highest - altitude > FALLEN and altitude > LEAST_ALTITUDE)


@_compiled
def _remember(state, time, position, begins):
    """Add a measurement to the window, whose earlier rows are not used if a new part of the track begins.

    It replaces the latest row if that is too close to the row before it.
    """
    window = state.window
    if begins:
        state.filled = 0.0
    if state.filled < 2.0 or window[WINDOW - 1, 0] - window[WINDOW - 2, 0] > SPACING_IN_WINDOW:
        for row in range(WINDOW - 1):
            for column in range(4):
                window[row, column] = window[row + 1, column]
        state.filled = min(state.filled + 1.0, float(WINDOW))
    window[WINDOW - 1, 0] = time
    for axis in range(3):
        window[WINDOW - 1, 1 + axis] = position[axis]


@_compiled
def _start_if_possible(state, free):
    """Start the filter when the window is full of measurements in free flight."""
    if not free and not state.proved:
        state.filled = 0.0
    elif state.filled == WINDOW:
        if state.starts == MOST_STARTS:
            state.mode = _GAVE_UP
        else:
            _start(state)


@_compiled
def _start(state):
    """Start from the window: the noise, the velocity as the median of all slopes, then all measurements in turn."""
    window, x, p = state.window, state.x, state.p
    squares = np.empty(WINDOW)
    count = 0
    for last in range(3, WINDOW):
        square = _third_difference(window, last)
        if square >= 0.0:
            squares[count] = square
            count += 1
    state.variance, state.variance_count = FIRST_NOISE**2, 2.0
    if count > 0:
        state.variance = max(np.median(squares[:count]) / MEDIAN_SHARE, NOISE_FLOOR**2)
        state.variance_count = 4.0
    distance = math.sqrt(_squared(window[0, 1:]))
    slopes = np.empty(WINDOW * WINDOW)
    x[:] = 0.0
    for axis in range(3):
        fall = -0.5 * GRAVITATION / distance**3 * window[0, 1 + axis]  # half of the acceleration, m/s2
        count = 0
        for first in range(WINDOW):
            for second in range(first + 1, WINDOW):
                earlier, later = window[first, 0] - window[0, 0], window[second, 0] - window[0, 0]
                if later - earlier > SHORTEST_SPAN:
                    moved = window[second, 1 + axis] - window[first, 1 + axis]
                    slopes[count] = (moved - fall * (later**2 - earlier**2)) / (later - earlier)
                    count += 1
        if count == 0:
            return
        x[axis] = window[0, 1 + axis]
        x[3 + axis] = np.median(slopes[:count])
    x[6] = FIRST_KAPPA
    p[:] = 0.0
    for axis in range(3):
        p[axis, axis] = POSITION_SPREAD**2
        p[3 + axis, 3 + axis] = VELOCITY_SPREAD**2
    p[6, 6] = KAPPA_SPREAD**2
    _forget_sensor(state)
    state.mode = _FOLLOWING
    state.starts += 1.0
    state.updates = state.rejections = state.outliers = 0.0
    _forget_lift(state)
    for row in range(WINDOW):
        _move(state, window[row, 0] - window[max(row - 1, 0), 0], window[row, 1:])


@_compiled
def _follow(state, elapsed, position, changed):
    """Take the next measurement, or begin to wait for a new start."""
    if elapsed > LONGEST_GAP:
        state.mode = _WAITING
        return
    if changed:
        state.variance_count = 2.0
        _forget_sensor(state)
    square = _third_difference(state.window, WINDOW - 1) if state.filled >= 4.0 else -1.0
    if square >= 0.0:
        change = (min(square, NOISE_CLIP * state.variance) - state.variance) / (state.variance_count + 1.0)
        state.variance = max(state.variance + change, NOISE_FLOOR**2)
        state.variance_count += 0.5  # third differences of successive measurements are correlated
    _move(state, elapsed, position)
    lift, deviation = _lift(state)
    if abs(lift) + SURE * deviation < LIFT and _squared(state.x[3:6]) > SLOWEST**2:
        state.proved = 1.0
    elif abs(lift) - SURE * deviation > LIFT:
        state.proved = state.pressure = state.entry_speed = 0.0
        _wait(state)
    spread = state.p[3, 3] + state.p[4, 4] + state.p[5, 5]
    diverged = not (spread < LARGEST_SPREAD**2 and _squared(state.x[3:6]) < FASTEST**2)  # True for NaN, too
    if diverged or state.outliers > LOST or not _is_plausible(*_kappa(state)):
        _wait(state)


@_compiled
def _wait(state):
    """Wait for a new start after the latest measurement."""
    state.mode = _WAITING
    state.filled = 1.0


@_compiled
def _kappa(state):
    """Return the estimate of kappa and its deviation, without the distribution of kappa at the start."""
    variance = max(state.p[6, 6], 1e-12)
    information = max(1.0 / variance - 1.0 / KAPPA_SPREAD**2, 1e-9)
    kappa = (state.x[6] / variance - FIRST_KAPPA / KAPPA_SPREAD**2) / information
    return kappa, 1.0 / math.sqrt(information)


@_compiled
def _is_plausible(kappa, deviation):
    """Whether kappa may be that of a body in free flight; during the boost it is negative."""
    return LOWEST_KAPPA - SURE * deviation <= kappa <= HIGHEST_KAPPA + SURE * deviation


@_compiled
def _third_difference(window, last):
    """Estimate the variance of a position, m2, from the four rows of a window up to `last`; -1 if they span too long.

    The third divided difference of times and positions cancels motion of constant acceleration.
    """
    if window[last, 0] - window[last - 3, 0] > NOISE_SPAN:
        return -1.0
    weights = np.empty(4)
    for i in range(4):
        product = 1.0
        for j in range(4):
            if j != i:
                apart = max(abs(window[last - i, 0] - window[last - j, 0]), 1e-3)
                product *= apart if i < j else -apart
        weights[i] = 1.0 / product
    squares = 0.0
    for axis in range(3):
        difference = 0.0
        for i in range(4):
            difference += weights[i] * window[last - i, 1 + axis]
        squares += difference**2
    return squares / (3.0 * (weights**2).sum())


@_compiled
def _lift(state):
    """Return the estimate of a constant upward acceleration besides gravity and drag, and its deviation, m/s2."""
    information = max(state.lift_information, 1e-12)
    return state.lift_score / information, 1.0 / math.sqrt(information)


@_compiled
def _forget_lift(state):
    """Begin a new estimate of the upward acceleration."""
    state.lifted[:] = 0.0
    state.lift_score = state.lift_information = 0.0


@_compiled
def _forget_sensor(state):
    """Make the bias and the clock offset of the sensor unknown."""
    x, p = state.x, state.p
    for i in range(_ORBIT, STATES):
        x[i] = state.lifted[i] = 0.0
        for j in range(STATES):
            p[i, j] = p[j, i] = 0.0
        p[i, i] = (CLOCK if i == STATES - 1 else BIAS) ** 2 * state.variance


@_compiled
def _move(state, elapsed, position):
    """Predict over a time, s, and correct by a measured position."""
    if elapsed > 0.0:
        substeps = math.ceil(elapsed / LONGEST_SUBSTEP)
        for _ in range(substeps):
            _predict(state.x, state.p, state.lifted, elapsed / substeps)
    _correct(state, position)
    state.updates += 1.0


@_compiled
def _predict(x, p, lifted, step):
    """Advance by a step, s: the estimates by the classical Runge-Kutta method, the rest by its linearisation."""
    kappa = min(max(x[6], LEAST_KAPPA), LARGEST_KAPPA)
    position, velocity = x[0:3].copy(), x[3:6].copy()
    velocities, accelerations, drags = np.empty((4, 3)), np.empty((4, 3)), np.empty((4, 3))
    at = position.copy()
    velocities[0] = velocity
    _accelerate(at, velocities[0], kappa, accelerations[0], drags[0])
    for stage in range(1, 4):
        part = step if stage == 3 else 0.5 * step
        for axis in range(3):
            at[axis] = position[axis] + part * velocities[stage - 1, axis]
            velocities[stage, axis] = velocity[axis] + part * accelerations[stage - 1, axis]
        _accelerate(at, velocities[stage], kappa, accelerations[stage], drags[stage])
    change = _change_of_state(position + 0.5 * step * velocity, step)
    for axis in range(3):
        middle = 0.5 * (drags[1, axis] + drags[2, axis])
        change[axis, 6] = step * step / 6.0 * (drags[0, axis] + 2.0 * middle)
        change[3 + axis, 6] = step / 6.0 * (drags[0, axis] + 4.0 * middle + drags[3, axis])
        moved = velocities[0, axis] + 2.0 * (velocities[1, axis] + velocities[2, axis]) + velocities[3, axis]
        gained = accelerations[0, axis] + 2.0 * (accelerations[1, axis] + accelerations[2, axis])
        x[axis] += step / 6.0 * moved + (x[6] - kappa) * change[axis, 6]
        x[3 + axis] += step / 6.0 * (gained + accelerations[3, axis]) + (x[6] - kappa) * change[3 + axis, 6]
    column = np.empty(_ORBIT)
    for i in range(_ORBIT):
        column[i] = 0.0
        for k in range(_ORBIT):
            column[i] += change[i, k] * lifted[k]
    lifted[:_ORBIT] = column
    upward = step / math.sqrt(_squared(position))
    for axis in range(3):
        lifted[axis] += 0.5 * step * upward * position[axis]
        lifted[3 + axis] += upward * position[axis]
    for j in range(STATES):
        for i in range(_ORBIT):
            column[i] = 0.0
            for k in range(_ORBIT):
                column[i] += change[i, k] * p[k, j]
        p[:_ORBIT, j] = column
    for i in range(STATES):
        for j in range(_ORBIT):
            column[j] = 0.0
            for k in range(_ORBIT):
                column[j] += p[i, k] * change[j, k]
        p[i, :_ORBIT] = column
    for i in range(3, 6):
        p[i, i] += VELOCITY_WALK**2 * step
    if p[6, 6] < kappa * kappa:  # otherwise kappa is unknown anyway
        p[6, 6] += (KAPPA_WALK * kappa) ** 2 * step


@_compiled
def _accelerate(position, velocity, kappa, acceleration, drag):
    """Fill in the acceleration, (3,), and the acceleration by the drag of a kappa of 1, (3,), both in m/s2.

    Gravity with J2: Vallado, Fundamentals of Astrodynamics and Applications, section 8.6. The centrifugal and the
    Coriolis acceleration belong to the rotating axes.
    """
    squared = _squared(position)
    oblate = 1.5 * OBLATENESS * EQUATOR**2 / squared
    polar = 5.0 * position[2] ** 2 / squared
    pull = -GRAVITATION / (squared * math.sqrt(squared))
    speed = math.sqrt(_squared(velocity))
    slowing = -0.5 * KAPPA_UNIT * _density(_height(position)) * speed
    for axis in range(3):
        drag[axis] = slowing * velocity[axis]
    outward = pull * (1.0 + oblate * (1.0 - polar)) + TURNING**2
    acceleration[0] = outward * position[0] + 2.0 * TURNING * velocity[1] + kappa * drag[0]
    acceleration[1] = outward * position[1] - 2.0 * TURNING * velocity[0] + kappa * drag[1]
    acceleration[2] = pull * (1.0 + oblate * (3.0 - polar)) * position[2] + kappa * drag[2]


@_compiled
def _change_of_state(position, step):
    """Return how the estimates after a step depend on those before it, (7, 7), without the column of the drag.

    It is the exponential of the derivatives, by gravity of a spherical Earth and rotation, up to the third order.
    """
    squared = _squared(position)
    pull = GRAVITATION / (squared * math.sqrt(squared))
    rate = np.zeros((6, 6))
    for i in range(3):
        rate[i, 3 + i] = step
        for j in range(3):
            rate[3 + i, j] = 3.0 * pull * position[i] * position[j] / squared * step
        rate[3 + i, i] -= pull * step
    for i in range(2):
        rate[3 + i, i] += TURNING**2 * step
    rate[3, 4] = 2.0 * TURNING * step
    rate[4, 3] = -2.0 * TURNING * step
    second = _product(rate, rate)
    third = _product(second, rate)
    change = np.zeros((_ORBIT, _ORBIT))
    for i in range(6):
        for j in range(6):
            change[i, j] = rate[i, j] + second[i, j] / 2.0 + third[i, j] / 6.0
    for i in range(_ORBIT):
        change[i, i] += 1.0
    return change


@_compiled
def _squared(vector):
    """Return the squared length of a vector, (3,)."""
    return vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2


@_compiled
def _product(a, b):
    """Return the product of two (6, 6) matrices, in a fixed order of the sums."""
    result = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            for k in range(6):
                result[i, j] += a[i, k] * b[k, j]
    return result


@_compiled
def _correct(state, position):
    """Correct by a measured position, (3,), unless it is an outlier.

    A sensor sees the place of its clock's time, velocity * offset behind, with its bias.
    """
    x, p = state.x, state.p
    distance = _squared_distance(state, position)
    state.outliers *= MEMORY
    if distance > GATE:
        state.outliers += 1.0 - MEMORY
        state.rejections += 1.0
        if state.rejections > REJECTIONS:
            state.rejections = 0.0
            _forget_lift(state)
            for axis in range(3):
                p[axis, axis] += distance * state.variance
                p[3 + axis, 3 + axis] += distance * state.variance / 25.0
        return
    state.rejections = 0.0
    covariance = np.empty(STATES)
    for axis in range(3):  # the noise of the axes is independent, so they can be used one after the other
        for i in range(STATES):
            covariance[i] = _with_measured(p[i], x, axis)
        variance = _with_measured(covariance, x, axis) + state.variance
        missed = position[axis] - _with_measured(x, x, axis)
        seen = _with_measured(state.lifted, x, axis)
        state.lift_score += seen * missed / variance
        state.lift_information += seen * seen / variance
        for i in range(STATES):
            gain = covariance[i] / variance
            x[i] += gain * missed
            state.lifted[i] -= gain * seen
            for j in range(STATES):
                p[i, j] -= gain * covariance[j]
    for i in range(STATES):
        for j in range(i):
            p[i, j] = p[j, i] = 0.5 * (p[i, j] + p[j, i])


@_compiled
def _with_measured(row, x, axis):
    """Return the part of a row, (11,), that concerns a measured position along an axis."""
    return row[axis] + row[7 + axis] - x[3 + axis] * row[10]


@_compiled
def _squared_distance(state, position):
    """Return the squared Mahalanobis distance of a measured position from the predicted one."""
    x, p = state.x, state.p
    covariance, missed, row = np.empty((3, 3)), np.empty(3), np.empty(STATES)
    for i in range(3):
        for k in range(STATES):
            row[k] = _with_measured(p[k], x, i)
        for j in range(3):
            covariance[i, j] = _with_measured(row, x, j)
        covariance[i, i] += state.variance
        missed[i] = position[i] - _with_measured(x, x, i)
    # Cholesky decomposition without square roots.
    lower10, lower20 = covariance[1, 0] / covariance[0, 0], covariance[2, 0] / covariance[0, 0]
    second = covariance[1, 1] - lower10 * covariance[1, 0]
    lower21 = (covariance[2, 1] - lower20 * covariance[1, 0]) / second
    third = covariance[2, 2] - lower20 * covariance[2, 0] - lower21**2 * second
    left1 = missed[1] - lower10 * missed[0]
    left2 = missed[2] - lower20 * missed[0] - lower21 * left1
    return missed[0] ** 2 / covariance[0, 0] + left1**2 / second + left2**2 / third


@_compiled
def _answer(state, features):
    """Fill in the features of `schema.ORBIT_FEATURES`; 0 while nothing is known."""
    features[:] = 0.0
    if state.mode != _FOLLOWING or state.updates < SETTLED or state.outliers > DOUBTFUL or not state.proved:
        return
    x = state.x
    squared_speed = _squared(x[3:6])
    distance = math.sqrt(_squared(x[0:3]))
    climb = (x[0] * x[3] + x[1] * x[4] + x[2] * x[5]) / distance
    height = _height(x[0:3])
    if height > SLOWED_ALTITUDE or state.entry_speed == 0.0:
        at_entry = squared_speed + 2.0 * GRAVITATION * (1.0 / (EQUATOR + ENTRY_ALTITUDE) - 1.0 / distance)
        if at_entry > FASTEST_ENTRY**2:
            return
        state.entry_speed = math.sqrt(max(at_entry, 0.0))
    if climb < 0.0:
        state.pressure = max(state.pressure, 0.5 * _density(height) * squared_speed)
    features[0] = 1.0
    features[1], features[2] = _kappa(state)
    features[3] = math.log10(max(state.pressure, 1e-6))
    features[4] = max(-climb, 0.0) * math.log(_density(height - 500.0) / _density(height + 500.0)) / 1_000.0
    features[5] = state.entry_speed


@_compiled
def _density(height):
    """Return the air density, kg/m3, at a height in m (US Standard Atmosphere 1976)."""
    if not height > 0.0:  # True for NaN, too, which no integer represents
        height = 0.0
    row = min(height / SPACING, len(_LOG_DENSITY) - 1.001)
    below = int(row)
    return math.exp(_LOG_DENSITY[below] + (row - below) * (_LOG_DENSITY[below + 1] - _LOG_DENSITY[below]))


@_compiled
def _height(position):
    """Return the height over the ellipsoid, m, along the line to the Earth's centre."""
    distance = math.sqrt(_squared(position))
    sine_squared = (position[2] / distance) ** 2
    return distance - EQUATOR * math.sqrt((1.0 - ECCENTRICITY) / (1.0 - ECCENTRICITY * (1.0 - sine_squared)))


@_compiled
def _position(latitude, longitude, altitude):
    """Return the position, (3,), m, of geodetic coordinates in degrees and m."""
    north, east = math.radians(latitude), math.radians(longitude)
    sine = math.sin(north)
    normal = EQUATOR / math.sqrt(1.0 - ECCENTRICITY * sine * sine)
    position = np.empty(3)
    position[0] = (normal + altitude) * math.cos(north) * math.cos(east)
    position[1] = (normal + altitude) * math.cos(north) * math.sin(east)
    position[2] = (normal * (1.0 - ECCENTRICITY) + altitude) * sine
    return position
