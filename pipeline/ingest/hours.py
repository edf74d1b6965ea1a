"""Hours of ingestion, written as 2026-12-01T08, in UTC."""

from __future__ import annotations

import datetime as dt
from typing import Final

from reentry.errors import InputError

FORMAT: Final = "%Y-%m-%dT%H"
_ONE: Final = dt.timedelta(hours=1)
_MOST: Final = 24 * 366 * 10


def parse_hour(text: str) -> dt.datetime:
    """Parse an hour.

    Raises:
        InputError: The text is not an hour.
    """
    try:
        hour = dt.datetime.strptime(text, FORMAT).replace(tzinfo=dt.UTC)
    except ValueError as error:
        raise InputError("not an hour", expected="YYYY-MM-DDTHH in UTC, such as 2026-12-01T08", got=text) from error
    if hour_name(hour) != text:  # strptime also takes 2026-1-1T8
        raise InputError("not an hour", expected=hour_name(hour), got=text)
    return hour


def hour_name(time: dt.datetime) -> str:
    """Return the name of the hour that a time lies in."""
    return time.astimezone(dt.UTC).strftime(FORMAT)


def last_hours(count: int, now: dt.datetime) -> list[str]:
    """Return the names of `count` hours, oldest first, of which the last one contains `now`."""
    return [hour_name(now - step * _ONE) for step in reversed(range(count))]


def hours_between(first: str, last: str) -> list[str]:
    """Return the names of the hours from `first` to `last`, both included.

    Raises:
        InputError: A text is not an hour, the last hour is before the first one, or there are more than ten years.
    """
    start, end = parse_hour(first), parse_hour(last)
    count = (end - start) // _ONE + 1
    if not 1 <= count <= _MOST:
        expected = "--since before --until" if count < 1 else f"at most {_MOST:,} hours, about ten years"
        raise InputError("invalid range of hours", expected=expected, got=f"{first} to {last}")
    return [hour_name(start + step * _ONE) for step in range(count)]
