"""Pace of a replay: when the next request is due, in an open loop and in a closed loop.

In an open loop requests are due at a constant rate, whether or not earlier ones are answered. Latencies count from that
time. A generator that counted from the actual sending would leave out the waits behind a slow answer, which is called
coordinated omission.
"""

from __future__ import annotations

from typing import Protocol


class Pace(Protocol):
    """Says when the next request is due. All times are those of one clock, s."""

    def due(self, now: float, in_flight: int) -> float | None:
        """Return the time at which the next request was due and count it as sent; None if it must wait."""

    def wait(self, now: float) -> float | None:
        """Return the time until the next request is due; None if only an answer can make it due."""

    def finished(self, now: float) -> bool:
        """Return whether no further request follows."""


class OpenLoop:
    """A constant rate: request n is due n / rate seconds after the first one."""

    def __init__(self, begun: float, *, rate: float, duration: float) -> None:
        """Begin at a time, s, with a number of requests per second, for a duration, s."""
        self._begun, self._rate = begun, rate
        self._count = max(1, round(rate * duration))
        self._next = 0

    def due(self, now: float, in_flight: int) -> float | None:
        """Return the time of the schedule, however many requests are in flight."""
        del in_flight
        due = self._begun + self._next / self._rate
        if now < due or self.finished(now):
            return None
        self._next += 1
        return due

    def wait(self, now: float) -> float | None:
        """Return the time until the next request of the schedule."""
        return None if self.finished(now) else max(0.0, self._begun + self._next / self._rate - now)

    def finished(self, now: float) -> bool:
        """Return whether all requests of the schedule are sent."""
        del now
        return self._next >= self._count


class ClosedLoop:
    """A number of requests in flight: the next one is due when one is answered."""

    def __init__(self, limit: int, *, count: int | None = None, end: float | None = None) -> None:
        """Send until a number of requests is sent, or until a time, s."""
        self._limit, self._count, self._end = limit, count, end
        self._sent = 0

    def due(self, now: float, in_flight: int) -> float | None:
        """Return the present time if fewer requests than the limit are in flight."""
        if in_flight >= self._limit or self.finished(now):
            return None
        self._sent += 1
        return now

    def wait(self, now: float) -> float | None:
        """Return None, since answers make requests due."""
        del now
        return None

    def finished(self, now: float) -> bool:
        """Return whether the number or the time is reached."""
        return (self._count is not None and self._sent >= self._count) or (self._end is not None and now >= self._end)
