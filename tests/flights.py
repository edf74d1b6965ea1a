"""Simulated ballistic flights that are computed once in a test process.

The flights of a simulation depend on its seed and shots, not on its sensors. Tests that vary only the sensors use
`fly_once` in place of `reentry.simulation.flight.fly`, which takes seconds.
"""

from __future__ import annotations

from dataclasses import astuple

from reentry.simulation.flight import Bodies, Flights, fly

_FLOWN: dict[tuple[bytes | float, ...], Flights] = {}


def fly_once(bodies: Bodies, step: float) -> Flights:
    """Return the flights of `bodies`, from an earlier call with the same bodies and step if there was one."""
    key = (step, bodies.position.tobytes(), *(values.tobytes() for values in astuple(bodies.shots)))
    if key not in _FLOWN:
        _FLOWN[key] = fly(bodies, step)
        for values in astuple(_FLOWN[key]):
            values.flags.writeable = False
    return _FLOWN[key]
