"""The orbit filter: a compiled extended Kalman filter of the coast and the descent of one track.

See `reentry.features.orbit` for what it estimates and why. All functions work on one track and one measurement, so a
whole track and a live one run the same machine code. Vectors are in Earth-fixed axes (ECEF), in m and m/s.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from reentry.features.motion import ECCENTRICITY, EQUATOR, GRAVITATION, TURNING
from reentry.features.standard_atmosphere import log_density

OBLATENESS: Final = 1.082_629_8e-3
"""Second zonal harmonic J2 of the Earth (WGS 84)."""

WINDOW: Final = 8
"""Number of measurements after the boost from which the filter starts."""

STATES: Final = 11
"""Position, velocity, inverse ballistic coefficient, bias of the sensor, and offset of its clock."""

KAPPA_UNIT: Final = 1e-3
"""Unit of the inverse ballistic coefficient kappa in the filter, m2/kg."""

FIRST_KAPPA: Final = 0.25
KAPPA_SPREAD: Final = 30.0
"""Mean and standard deviation of kappa before the first measurement; so wide that the measurements decide."""

_WAITING, _FILTERING, _GAVE_UP = 0, 1, 2

BURNT_OUT: Final = 1.0 / 30.0
"""Share of the brightest intensity below which the engine has stopped."""

LEAST_ALTITUDE: Final = 60e3
"""Altitude above which a descending track is in free flight even if its intensity never dropped, m."""

FALLEN: Final = 10e3
"""Distance below its highest altitude at which a track counts as descending, m."""

GATE: Final = 30.0
"""Squared Mahalanobis distance above which a measurement is an outlier; 1 in 700,000 by a normal distribution."""

REJECTIONS: Final = 3
"""Consecutive outliers after which the filter widens its covariance, because its state may be wrong."""

NOISE_FLOOR: Final = 1.0
"""Smallest standard deviation of a position, m."""

FIRST_NOISE: Final = 100.0
"""Standard deviation of a position before it is estimated, m."""

BIAS: Final = 1.0
"""Standard deviation of the bias of a sensor, as a multiple of its noise."""

CLOCK: Final = 5.5e-4
"""Standard deviation of the clock offset of a sensor, s per m of its noise."""

VELOCITY_SPREAD: Final = 300.0
"""Standard deviation of the velocity at the start, m/s."""

POSITION_SPREAD: Final = 5_000.0
"""Standard deviation of the position at the start, m."""

WALK: Final = 1e-5
"""Random walk of the velocity, m/s per square root of a second."""

LONGEST_SUBSTEP: Final = 3.0
"""Longest step of the integration, s."""

LONGEST_GAP: Final = 120.0
"""Longest time without a measurement that the filter bridges, s."""

SURPRISE_MEMORY: Final = 0.9
MOST_SURPRISE: Final = 0.5
"""Mean share of outliers above which the filter starts again."""

MOST_STARTS: Final = 6
"""Number of starts after which a track counts as not ballistic."""

SETTLED: Final = 10
"""Number of measurements after its start from which the filter answers."""

_DENSITY: Final = log_density(np.arange(0.0, 1_000_001.0, 1_000.0))

STATE: Final = np.dtype(
    [
        ("count", "f8"),
        ("mode", "f8"),
        ("starts", "f8"),
        ("updates", "f8"),
        ("time", "f8"),
        ("sensor", "f8"),
        ("light", "f8", 3),
        ("brightest", "f8"),
        ("highest", "f8"),
        ("window", "f8", (WINDOW, 4)),
        ("fill", "f8"),
        ("x", "f8", STATES),
        ("p", "f8", (STATES, STATES)),
        ("noise", "f8"),
        ("noise_count", "f8"),
        ("rejections", "f8"),
        ("surprise", "f8"),
        ("pressure", "f8"),
    ]
)

compiled = njit(cache=True, error_model="numpy")


@compiled
def _density(height):
    p = min(max(height / 1_000.0, 0.0), 999.999)
    i = int(p)
    return math.exp(_DENSITY[i] + (p - i) * (_DENSITY[i + 1] - _DENSITY[i]))


@compiled
def _ecef(latitude, longitude, altitude, out):
    p, l = math.radians(latitude), math.radians(longitude)
    s = math.sin(p)
    n = EQUATOR / math.sqrt(1.0 - ECCENTRICITY * s * s)
    out[0] = (n + altitude) * math.cos(p) * math.cos(l)
    out[1] = (n + altitude) * math.cos(p) * math.sin(l)
    out[2] = (n * (1.0 - ECCENTRICITY) + altitude) * s


@compiled
def _height(x):
    d = math.sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2])
    return d - EQUATOR * math.sqrt((1.0 - ECCENTRICITY) / (1.0 - ECCENTRICITY * (1.0 - (x[2] / d) ** 2)))


@compiled
def _acceleration(r, v, kappa, a, u):
    """a: total; u: drag of kappa = 1 unit."""
    d2 = r[0] * r[0] + r[1] * r[1] + r[2] * r[2]
    d = math.sqrt(d2)
    oblate = 1.5 * OBLATENESS * EQUATOR * EQUATOR / d2
    polar = 5.0 * r[2] * r[2] / d2
    pull = -GRAVITATION / (d2 * d)
    c = pull * (1.0 + oblate * (1.0 - polar)) + TURNING * TURNING
    f = -0.5 * KAPPA_UNIT * _density(_height(r)) * math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    for i in range(3):
        u[i] = f * v[i]
    a[0] = r[0] * c + 2.0 * TURNING * v[1] + kappa * u[0]
    a[1] = r[1] * c - 2.0 * TURNING * v[0] + kappa * u[1]
    a[2] = r[2] * pull * (1.0 + oblate * (3.0 - polar)) + kappa * u[2]


@compiled
def _predict(x, p, dt):
    """One Runge-Kutta step and the covariance."""
    kappa = min(max(x[6], 0.06), 17.0)
    extra = x[6] - kappa
    r, v = x[0:3].copy(), x[3:6].copy()
    a = np.empty((4, 3))
    u = np.empty((4, 3))
    vs = np.empty((4, 3))
    rs = r.copy()
    vs[0] = v
    _acceleration(rs, vs[0], kappa, a[0], u[0])
    for k in range(1, 4):
        h = dt if k == 3 else 0.5 * dt
        for i in range(3):
            rs[i] = r[i] + h * vs[k - 1, i]
            vs[k, i] = v[i] + h * a[k - 1, i]
        _acceleration(rs, vs[k], kappa, a[k], u[k])
    # Phi
    mid = np.empty(3)
    for i in range(3):
        mid[i] = r[i] + 0.5 * dt * v[i]
    d2 = mid[0] ** 2 + mid[1] ** 2 + mid[2] ** 2
    g = GRAVITATION / (d2 * math.sqrt(d2))
    A = np.zeros((6, 6))
    for i in range(3):
        A[i, 3 + i] = dt
        for j in range(3):
            A[3 + i, j] = 3.0 * g * mid[i] * mid[j] / d2 * dt
        A[3 + i, i] -= g * dt
    A[3, 0] += TURNING * TURNING * dt
    A[4, 1] += TURNING * TURNING * dt
    A[3, 4] += 2.0 * TURNING * dt
    A[4, 3] -= 2.0 * TURNING * dt
    F = np.zeros((7, 7))
    A2 = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            t = 0.0
            for k in range(6):
                t += A[i, k] * A[k, j]
            A2[i, j] = t
    for i in range(6):
        for j in range(6):
            t = A[i, j] + 0.5 * A2[i, j]
            for k in range(6):
                t += A2[i, k] * A[k, j] / 6.0
            F[i, j] = t
        F[i, i] += 1.0
    F[6, 6] = 1.0
    for i in range(3):
        um = 0.5 * (u[1, i] + u[2, i])
        F[i, 6] = dt * dt / 6.0 * (u[0, i] + 2.0 * um)
        F[3 + i, 6] = dt / 6.0 * (u[0, i] + 4.0 * um + u[3, i])
        x[i] = r[i] + dt / 6.0 * (vs[0, i] + 2.0 * vs[1, i] + 2.0 * vs[2, i] + vs[3, i]) + extra * F[i, 6]
        x[3 + i] = v[i] + dt / 6.0 * (a[0, i] + 2.0 * a[1, i] + 2.0 * a[2, i] + a[3, i]) + extra * F[3 + i, 6]
    column = np.empty(7)
    for j in range(STATES):
        for i in range(7):
            t = 0.0
            for k in range(7):
                t += F[i, k] * p[k, j]
            column[i] = t
        for i in range(7):
            p[i, j] = column[i]
    for j in range(STATES):
        for i in range(7):
            t = 0.0
            for k in range(7):
                t += F[i, k] * p[j, k]
            column[i] = t
        for i in range(7):
            p[j, i] = column[i]
    for i in range(3, 6):
        p[i, i] += WALK * WALK * dt


@compiled
def _reset_sensor(x, p, noise2):
    for i in range(7, STATES):
        x[i] = 0.0
        for j in range(STATES):
            p[i, j] = 0.0
            p[j, i] = 0.0
    for i in range(7, 10):
        p[i, i] = BIAS * BIAS * noise2
    p[10, 10] = CLOCK * CLOCK * noise2


@compiled
def _update(s, z):
    """Update by a position."""
    x, p, noise2 = s.x, s.p, s.noise
    ph = np.empty((3, STATES))
    for i in range(3):
        for j in range(STATES):
            ph[i, j] = p[j, i] + p[j, 7 + i] - x[3 + i] * p[j, 10]
    S = np.empty((3, 3))
    e = np.empty(3)
    for i in range(3):
        e[i] = z[i] - (x[i] - x[3 + i] * x[10] + x[7 + i])
        for j in range(3):
            S[i, j] = ph[i, j] + ph[i, 7 + j] - x[3 + j] * ph[i, 10]
        S[i, i] += noise2
    distance = _distance(S, e)
    if distance > GATE:
        s.rejections += 1
        s.surprise = SURPRISE_MEMORY * s.surprise + (1.0 - SURPRISE_MEMORY)
        if s.rejections > REJECTIONS:
            for i in range(3):
                p[i, i] += distance * noise2
                p[3 + i, 3 + i] += distance * noise2 / 25.0
            s.rejections = 0
        return
    s.rejections = 0
    s.surprise *= SURPRISE_MEMORY
    # one axis after the other: whitened by L D L^T
    for axis in range(3):
        h = np.empty(STATES)
        for j in range(STATES):
            h[j] = p[j, axis] + p[j, 7 + axis] - x[3 + axis] * p[j, 10]
        innovation_variance = h[axis] + h[7 + axis] - x[3 + axis] * h[10] + noise2
        innovation = z[axis] - (x[axis] - x[3 + axis] * x[10] + x[7 + axis])
        for j in range(STATES):
            k = h[j] / innovation_variance
            for i in range(STATES):
                p[j, i] -= k * h[i]
        for j in range(STATES):
            x[j] += h[j] / innovation_variance * innovation
    for i in range(STATES):
        for j in range(i):
            m = 0.5 * (p[i, j] + p[j, i])
            p[i, j] = m
            p[j, i] = m


@compiled
def _distance(S, e):
    l00 = S[0, 0]
    l10 = S[1, 0] / l00
    l20 = S[2, 0] / l00
    d1 = S[1, 1] - l10 * S[1, 0]
    l21 = (S[2, 1] - l20 * S[1, 0]) / d1
    d2 = S[2, 2] - l20 * S[2, 0] - l21 * l21 * d1
    y0 = e[0]
    y1 = e[1] - l10 * y0
    y2 = e[2] - l20 * y0 - l21 * y1
    return y0 * y0 / l00 + y1 * y1 / d1 + y2 * y2 / d2


@compiled
def _third_difference(w, last):
    """Mean square of the normalised third divided difference of the four rows up to last; -1 if too long."""
    if w[last, 0] - w[last - 3, 0] > 8.0:
        return -1.0
    c = np.empty(4)
    norm = 0.0
    for i in range(4):
        q = 1.0
        for j in range(4):
            if j != i:
                q *= max(abs(w[last - i, 0] - w[last - j, 0]), 1e-3) * (1.0 if i < j else -1.0)
        c[i] = 1.0 / q
        norm += c[i] * c[i]
    total = 0.0
    for axis in range(1, 4):
        t = 0.0
        for i in range(4):
            t += c[i] * w[last - i, axis]
        total += t * t
    return total / (3.0 * norm)


@compiled
def _learn_noise(s):
    fill = int(s.fill)
    if fill < 4:
        return
    f = _third_difference(s.window, WINDOW - 1)
    if f < 0.0:
        return
    s.noise = max(s.noise + (min(f, 9.0 * s.noise) - s.noise) / (s.noise_count + 1.0), NOISE_FLOOR * NOISE_FLOOR)
    s.noise_count += 0.5


@compiled
def _start(s):
    """Start from the window."""
    w, x, p = s.window, s.x, s.p
    n = 0
    found = np.empty(WINDOW)
    for k in range(3, WINDOW):
        f = _third_difference(w, k)
        if f >= 0.0:
            found[n] = f
            n += 1
    s.noise = FIRST_NOISE * FIRST_NOISE
    s.noise_count = 2.0
    if n > 0:
        s.noise = max(np.median(found[:n]) / 0.79, NOISE_FLOOR * NOISE_FLOOR)
        s.noise_count = 4.0
    d = math.sqrt(w[0, 1] ** 2 + w[0, 2] ** 2 + w[0, 3] ** 2)
    slopes = np.empty(WINDOW * WINDOW)
    x[:] = 0.0
    for axis in range(3):
        g = -GRAVITATION / d**3 * w[0, 1 + axis]
        n = 0
        for i in range(WINDOW):
            for j in range(i + 1, WINDOW):
                span = w[j, 0] - w[i, 0]
                if span > 1.5:
                    ti, tj = w[i, 0] - w[0, 0], w[j, 0] - w[0, 0]
                    slopes[n] = (w[j, 1 + axis] - w[i, 1 + axis] - 0.5 * g * (tj * tj - ti * ti)) / span
                    n += 1
        if n == 0:
            return False
        x[axis] = w[0, 1 + axis]
        x[3 + axis] = np.median(slopes[:n])
    x[6] = FIRST_KAPPA
    p[:] = 0.0
    for i in range(3):
        p[i, i] = POSITION_SPREAD**2
        p[3 + i, 3 + i] = VELOCITY_SPREAD**2
    p[6, 6] = KAPPA_SPREAD**2
    _reset_sensor(x, p, s.noise)
    s.rejections = 0
    s.surprise = 0.0
    s.updates = 0
    s.starts += 1
    s.mode = _FILTERING
    s.pressure = 0.0
    time = w[0, 0]
    for k in range(WINDOW):
        _move(s, w[k, 0] - time, w[k, 1:])
        time = w[k, 0]
    return True


@compiled
def _move(s, dt, z):
    if dt > 0.0:
        n = int(math.ceil(dt / LONGEST_SUBSTEP))
        for _ in range(n):
            _predict(s.x, s.p, dt / n)
    _update(s, z)
    s.updates += 1


@compiled
def _median3(a, b, c):
    return max(min(a, b), min(max(a, b), c))


@compiled
def advance(s, m, out):
    """One measurement of one track; out: (6,)."""
    time, altitude, light, sensor = m[0], m[3], m[4], m[5]
    z = np.empty(3)
    _ecef(m[1], m[2], altitude, z)
    w = s.window
    last = WINDOW - 1
    if not (s.count > 0.0 and time == s.time and z[0] == w[last, 1] and z[1] == w[last, 2] and z[2] == w[last, 3]):
        changed = s.count > 0.0 and sensor != s.sensor
        dt = time - s.time
        s.light[0], s.light[1], s.light[2] = s.light[1], s.light[2], light
        if changed or dt > LONGEST_GAP:
            s.fill = 0
        for k in range(last):
            for i in range(4):
                w[k, i] = w[k + 1, i]
        w[last, 0] = time
        w[last, 1], w[last, 2], w[last, 3] = z[0], z[1], z[2]
        s.fill = min(s.fill + 1, WINDOW)
        s.count += 1
        burnt = False
        if s.count >= 3.0:
            steady = _median3(s.light[0], s.light[1], s.light[2])
            s.brightest = max(s.brightest, steady)
            burnt = steady < s.brightest * BURNT_OUT
        if s.count == 1.0:
            s.highest = altitude
        s.highest = max(s.highest, altitude)
        burnt = burnt or (s.highest - altitude > FALLEN and altitude > LEAST_ALTITUDE)
        s.time = time
        s.sensor = sensor
        if s.mode == _WAITING:
            if not burnt and s.starts == 0:
                s.fill = 0  # only measurements after burnout
            elif s.fill == WINDOW:
                if s.starts >= MOST_STARTS:
                    s.mode = _GAVE_UP
                else:
                    _start(s)
        elif s.mode == _FILTERING:
            if dt > LONGEST_GAP:
                s.mode = _WAITING
            else:
                if changed:
                    s.noise_count = 2.0
                    _reset_sensor(s.x, s.p, s.noise)
                _learn_noise(s)
                _move(s, dt, z)
                if s.surprise > MOST_SURPRISE:
                    s.mode = _WAITING
                    s.fill = 1
    _answer(s, out)


@compiled
def _answer(s, out):
    out[:] = 0.0
    x = s.x
    if s.mode != _FILTERING or s.updates < WINDOW + SETTLED or s.surprise > 0.3:
        return
    v2 = x[3] ** 2 + x[4] ** 2 + x[5] ** 2
    d = math.sqrt(x[0] ** 2 + x[1] ** 2 + x[2] ** 2)
    climb = (x[0] * x[3] + x[1] * x[4] + x[2] * x[5]) / d
    h = _height(x[0:3])
    q = 0.5 * _density(h) * v2
    if climb < 0.0 and q > s.pressure:
        s.pressure = q
    variance = max(s.p[6, 6], 1e-12)
    information = max(1.0 / variance - 1.0 / KAPPA_SPREAD**2, 1e-9)
    out[0] = 1.0
    out[1] = (x[6] / variance - FIRST_KAPPA / KAPPA_SPREAD**2) / information
    out[2] = 1.0 / math.sqrt(information)
    out[3] = math.log10(max(s.pressure, 1e-6))
    rise = (math.log(_density(h - 500.0)) - math.log(_density(h + 500.0))) / 1000.0
    out[4] = max(-climb, 0.0) * rise
    out[5] = math.sqrt(max(v2 + 2 * GRAVITATION * (1 / 6.478e6 - 1 / d), 0.0))


@compiled
def advance_all(states, measurements, out):
    """(B,), (B, M), (B, 6)"""
    for b in range(len(states)):
        advance(states[b], measurements[b], out[b])


@compiled
def run_all(measurements, out):
    """(B, T, M) -> (B, T, 6)"""
    for b in range(len(measurements)):
        state = np.zeros(1, STATE)
        for t in range(measurements.shape[1]):
            advance(state[0], measurements[b, t], out[b, t])


@compiled
def continue_all(states, measurements, out):
    """Continue tracks from their states, (B,), which change in place: (B, T, M) -> (B, T, 6)."""
    for b in range(len(measurements)):
        for t in range(measurements.shape[1]):
            advance(states[b], measurements[b, t], out[b, t])
