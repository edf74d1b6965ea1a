"""Names of hours."""

from __future__ import annotations

import datetime as dt

import pytest

from pipeline.ingest.hours import hours_between, last_hours, parse_hour
from reentry.errors import InputError


def test_the_last_hours_end_with_the_current_one() -> None:
    now = dt.datetime(2026, 1, 1, 0, 59, tzinfo=dt.UTC)
    assert last_hours(3, now) == ["2025-12-31T22", "2025-12-31T23", "2026-01-01T00"]


def test_a_local_time_is_converted_to_utc() -> None:
    zone = dt.timezone(dt.timedelta(hours=2))
    assert last_hours(1, dt.datetime(2026, 1, 1, 1, tzinfo=zone)) == ["2025-12-31T23"]


def test_a_range_includes_both_ends() -> None:
    assert hours_between("2024-02-28T23", "2024-02-29T01") == ["2024-02-28T23", "2024-02-29T00", "2024-02-29T01"]


@pytest.mark.parametrize(
    "text", ["2026-12-01", "2026-12-01T8", "2026-12-01T24", "2026-12-01T08:00", "x", "2026-1-01T08"]
)
def test_a_text_that_is_no_hour_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not an hour"):
        parse_hour(text)


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InputError, match="invalid range"):
        hours_between("2026-12-01T08", "2026-12-01T07")


def test_a_range_of_decades_is_refused_with_the_longest_one() -> None:
    with pytest.raises(InputError) as raised:
        hours_between("2000-01-01T00", "2026-01-01T00")
    assert raised.value.problem == "invalid range of hours"
    assert "87,840" in str(raised.value.expected)
