"""Drift of each day from the inference log, over both databases."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from numpy.random import default_rng

from gateway import metrics
from gateway.comparison import daily_drift
from gateway.comparison.daily_drift import DAY_SECONDS, DailyDrift
from gateway.database.engine import Database
from gateway.inference_log.retention import delete_before
from reentry.drift import REFERENCE_FILE
from reentry.schema import FEATURES, SIMPLE_FEATURES
from tests.unit.gateway.comparison.conftest import Api
from tests.unit.reentry.test_drift import flights, reference_of

TODAY = time.time() // DAY_SECONDS * DAY_SECONDS


@pytest.fixture(autouse=True)
def during_today(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be a time of the day on which the tests were collected, although midnight may have passed since."""
    monkeypatch.setattr(daily_drift, "time", SimpleNamespace(time=lambda: TODAY + 43_200.0))


def day_rows(days_ago: int, count: int, *, seed: int, peak: float = 2e5, **given: Any) -> list[dict[str, Any]]:
    """Rows of a day, whose peak altitudes are distributed around `peak`."""
    generator = default_rng(seed)
    return [
        {
            "at": TODAY - days_ago * DAY_SECONDS + 60.0 + track * 1e-3,
            "track_id": seed * 100_000 + track,
            "peak_altitude": generator.normal(peak, 2e4),
            **given,
        }
        for track in range(count)
    ]


def quantity(day: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in day["quantities"] if each["quantity"] == name]
    return dict(found)


def test_a_day_with_other_tracks_than_the_first_ones_has_drift(api: Api) -> None:
    api.log(day_rows(3, 2_000, seed=1))
    api.log(day_rows(2, 400, seed=2))
    moved = day_rows(1, 400, seed=3, peak=2.4e5)
    api.log(moved)
    api.log([row | {"peak_altitude": 9e9} for row in moved])  # each track counts once, with its latest answer
    api.log(moved)
    api.log(day_rows(1, 100, seed=4, peak=9e9, shadow=True) + day_rows(1, 100, seed=5, peak=9e9, degraded=True))
    api.account("two").log(day_rows(2, 400, seed=6, peak=9e9))
    found = api.send("GET", "/v1/drift?days=5")
    assert found["baseline"]["tracks"] == 2_000
    assert [day["tracks"] for day in found["days"]] == [0, 400, 400, 2_000, 0]
    today, yesterday, before, first, _ = found["days"]
    assert today["date"] == time.strftime("%Y-%m-%d", time.gmtime(TODAY))
    changed, same = quantity(yesterday, "peak_altitude"), quantity(before, "peak_altitude")
    assert (changed["is_large"], same["is_large"]) == (True, False)
    assert changed["p_value"] < 1e-9 < 0.05 < same["p_value"]
    assert quantity(yesterday, "duration")["stability_index"] < 0.1
    assert quantity(first, "peak_altitude")["p_value"] is None  # it would be compared with itself
    assert quantity(today, "steps")["tracks"] == 0


def test_the_first_tracks_stay_when_their_rows_are_deleted(api: Api) -> None:
    api.log(day_rows(3, 300, seed=1))
    assert api.send("GET", "/v1/drift")["baseline"]["tracks"] == 300
    api.log(day_rows(2, 1_900, seed=2))
    before = api.send("GET", "/v1/drift")["baseline"]
    assert before["tracks"] == 2_000
    assert api.portal.call(delete_before, api.services.database, TODAY) == 2_200
    api.log(day_rows(1, 400, seed=3, peak=2.4e5))
    found = api.send("GET", "/v1/drift")
    assert found["baseline"] == before
    assert quantity(found["days"][1], "peak_altitude")["is_large"]


def test_requests_for_drift_at_once_are_measured_once_and_take_few_connections(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.log(day_rows(1, 600, seed=1))
    most = using = measured = 0
    database = Database(api.settings)
    drift = DailyDrift(database, tmp_path)
    reading, day = database.reading, drift._day

    @asynccontextmanager
    async def counted() -> AsyncIterator[Any]:
        nonlocal most, using
        using += 1
        most = max(most, using)
        try:
            async with reading() as connection:
                yield connection
        finally:
            using -= 1

    def measured_day(*given: Any) -> Any:
        nonlocal measured
        measured += 1
        assert using <= 1  # the computation holds no connection
        return day(*given)

    async def measure() -> None:
        await asyncio.gather(*(drift.of(api.account_id, 2) for _ in range(20)))
        assert measured == 2
        await asyncio.gather(*(drift.of(f"acct_{each}", 1) for each in range(20)))
        await database.close()

    monkeypatch.setattr(database, "reading", counted)
    monkeypatch.setattr(drift, "_day", measured_day)
    api.portal.call(measure)
    assert most <= 2


def test_features_are_compared_with_the_reference_of_the_version_in_use(api: Api, tmp_path: Path) -> None:
    reference = reference_of(flights(300, seed=1))
    folder = tmp_path / "reentry_lstm" / "2"
    folder.mkdir(parents=True)
    (folder / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    steps = flights(300, seed=2)[:, 50]
    rows = day_rows(0, 300, seed=1, model_version=2)
    for row, step in zip(rows, steps, strict=True):
        row["quantities"] = {name: float(step[FEATURES.index(name)]) for name in SIMPLE_FEATURES}
        row["quantities"]["intensity"] *= 20.0
    api.log(rows)
    api.log(day_rows(0, 100, seed=2, model_version=1))
    drift = DailyDrift(api.services.database, tmp_path)

    async def found() -> Any:
        return await drift.of(api.account_id, 1)

    baseline, (day,) = api.portal.call(found)
    assert (baseline.tracks, day.tracks, day.model_version) == (400, 400, 2)
    by_name = {each.quantity: each for each in day.quantities}
    assert (by_name["intensity"].compared_with, by_name["intensity"].is_large) == ("training", True)
    assert by_name["intensity"].tracks == 300
    assert by_name["peak_altitude"].stability_index is None

    async def watch() -> None:
        async with drift.watching():
            while drift_metric("intensity") == 0.0:
                await asyncio.sleep(0.01)

    metrics.DRIFT_PSI.labels("intensity").set(0.0)
    api.portal.call(watch)
    assert drift_metric("intensity") == by_name["intensity"].stability_index


def drift_metric(feature: str) -> float:
    return float(metrics.DRIFT_PSI.labels(feature)._value.get())


@pytest.mark.parametrize("days", ["0", "32", "x"])
@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_an_invalid_number_of_days_is_refused(api: Api, days: str) -> None:
    assert api.send("GET", f"/v1/drift?days={days}", status=422)["faults"][0]["where"] == "query.days"
