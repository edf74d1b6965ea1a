"""A replay waits until the time of each measurement, in the time of the data."""

from __future__ import annotations

import math

import pytest

from client.stream import pace
from client.stream.pace import Pace, rate_of
from reentry.errors import ConfigError


@pytest.mark.parametrize(("text", "rate"), [("1x", 1.0), ("10x", 10.0), ("0.5x", 0.5), ("4", 4.0), ("max", math.inf)])
def test_a_rate_is_a_multiple_of_real_time_or_max(text: str, rate: float) -> None:
    assert rate_of(text) == rate


@pytest.mark.parametrize("text", ["", "x", "0x", "-1x", "fast", "1e3x", "2xx"])
def test_another_text_is_not_a_rate(text: str) -> None:
    with pytest.raises(ConfigError, match="not a rate"):
        rate_of(text)


def test_the_time_until_a_measurement_is_that_of_the_data_divided_by_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    tenfold = Pace(10.0)
    assert tenfold.due(5e9) == 0.0
    assert tenfold.due(5e9 + 20.0) == pytest.approx(2.0)
    now += 1.5
    assert tenfold.due(5e9 + 20.0) == pytest.approx(0.5)
    assert tenfold.due(5e9 + 10.0) == 0.0  # overdue
    assert tenfold.due(math.nan) == 0.0


def test_the_rate_max_never_waits() -> None:
    fastest = Pace(math.inf)
    assert fastest.due(0.0) == fastest.due(1e9) == 0.0
