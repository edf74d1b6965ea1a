"""When a retraining is due, on a table of features with two versions."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.features.build import build_features
from pipeline.lake.lake import Lake
from pipeline.lake.tables import VERDICTS
from pipeline.retraining.due import why_not_due
from pipeline.retraining.reason import Reason
from pipeline.settings import PipelineSettings
from tests.lake import write_clean
from tests.training_data import short_flights

NOW = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake whose table of features has 6 tracks in version 1 and 10 in version 2; read only."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    for tracks in (6, 10):
        write_clean(lake, short_flights(tracks))
        build_features(lake, groups=frozenset())
    return lake.location


@pytest.fixture
def lake(features: str, tmp_path: Path) -> Lake:
    """The same tables, with an empty table of verdicts of its own."""
    (tmp_path / "features").symlink_to(Path(features) / "features")
    return Lake(str(tmp_path))


def judged(lake: Lake, table: str, *, days_ago: float, reason: str = "schedule", command: str = "retrain") -> None:
    time = NOW - dt.timedelta(days=days_ago)
    row = {"time": time, "challenger": "c", "champion": "p", "reason": reason, "command": command}
    row |= {
        "table": table,
        "tracks": 30,
        "verdict": "same",
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
        "margin": 0.1,
        "allowed": False,
    }
    rows = pa.Table.from_pylist([row], schema=VERDICTS.schema)
    lake.commit_once(VERDICTS.name, [f"{table} {days_ago}"], lambda *_: rows)


def why_not(lake: Lake, reason: Reason, **settings: object) -> str | None:
    return why_not_due(lake, reason, PipelineSettings(**settings), now=NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", Reason)
def test_the_first_retraining_is_always_due(lake: Lake, reason: Reason) -> None:
    assert why_not(lake, reason) is None


def test_a_gate_by_hand_is_no_retraining_whatever_its_reason(lake: Lake) -> None:
    judged(lake, "lake:features@2", days_ago=0, reason="drift", command="gate")
    assert [why_not(lake, reason) for reason in Reason] == [None, None, None]


@pytest.mark.parametrize("reason", Reason)
def test_nothing_is_due_without_a_new_version_of_the_table(lake: Lake, reason: Reason) -> None:
    judged(lake, "lake:features@2", days_ago=300)
    assert "lake:features@2 is still the newest version" in str(why_not(lake, reason, retrain_tracks=1))


def test_a_version_with_the_same_rows_makes_nothing_due(lake: Lake) -> None:
    judged(lake, "lake:features@2", days_ago=300)
    lake.fence("features")
    lake.open("features").optimize.compact()
    assert lake.open("features").version() > 2
    assert "lake:features@2 is still the newest version" in str(why_not(lake, Reason.SCHEDULE))


def test_a_version_of_a_table_that_was_deleted_is_not_the_newest_one(lake: Lake) -> None:
    judged(lake, "lake:features@40", days_ago=30)
    assert [why_not(lake, reason) for reason in Reason] == [None] * 3


def test_a_schedule_is_due_when_the_newest_retraining_is_old_enough(lake: Lake) -> None:
    judged(lake, "lake:features@1", days_ago=30)
    judged(lake, "lake:features@1", days_ago=6.5)
    assert "6.5 of 7 days ago" in str(why_not(lake, Reason.SCHEDULE))
    assert why_not(lake, Reason.SCHEDULE, retrain_days=6.0) is None


def test_data_is_due_when_the_table_has_enough_new_tracks(lake: Lake) -> None:
    judged(lake, "lake:features@1", days_ago=0)
    assert "4 new tracks since lake:features@1, fewer than 5" in str(why_not(lake, Reason.DATA, retrain_tracks=5))
    assert why_not(lake, Reason.DATA, retrain_tracks=4) is None


def test_drift_is_due_at_once(lake: Lake) -> None:
    judged(lake, "lake:features@1", days_ago=0)
    assert why_not(lake, Reason.DRIFT) is None
