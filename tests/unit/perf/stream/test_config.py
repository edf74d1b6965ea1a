"""Settings of a replay of live tracks."""

from __future__ import annotations

from typing import Any

import pytest

from perf.stream.config import StreamConfig, parse_rate
from reentry.errors import ConfigError


def test_a_sequence_is_a_feed_or_a_track() -> None:
    assert StreamConfig(mode="scan", tracks=10, feeds=2).sequences == 2
    assert StreamConfig(mode="tracks", tracks=10, feeds=2).sequences == 10


def test_the_default_number_of_requests_in_flight_depends_on_the_mode() -> None:
    assert StreamConfig(mode="scan", feeds=3, rate=None).limit == 6
    assert StreamConfig(mode="tracks", rate=None).limit == 64
    assert StreamConfig(rate=None, in_flight=5).limit == 5


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"mode": "both"}, "unknown mode"),
        ({"tracks": 0}, "tracks"),
        ({"tracks": 3, "feeds": 4}, "feeds"),
        ({"tracks": 20_001, "feeds": 2}, "too many tracks in one scan"),
        ({"rate": 0.0}, "rate"),
        ({"duration": 0.0}, "duration"),
        ({"rate": 2.0, "in_flight": 4}, "in flight at a fixed rate"),
        ({"rate": None, "in_flight": 0}, "requests in flight"),
    ],
)
def test_an_invalid_setting_is_named(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        StreamConfig(**wrong)


def test_a_rate_is_a_number_or_max() -> None:
    assert parse_rate("2.5") == 2.5
    assert parse_rate("max") is None
    with pytest.raises(ConfigError, match="invalid rate"):
        parse_rate("fast")
