"""History of a table up to a version."""

from __future__ import annotations

from pipeline.lake.history import commits, version_of_rows
from pipeline.lake.lake import Lake
from tests.lake import write_clean
from tests.training_data import short_flights


def test_the_history_of_an_earlier_version_ends_there(lake: Lake) -> None:
    write_clean(lake, short_flights(2))
    second = write_clean(lake, short_flights(2, seed=1))
    write_clean(lake, short_flights(2, seed=2))
    operations = [(commit["version"], commit["operation"]) for commit in commits(lake.open("clean", second))]
    assert operations == [(2, "WRITE"), (1, "WRITE"), (0, "CREATE TABLE")]
    assert commits(lake.open("clean"))[0]["version"] == 3


def test_compactions_and_fences_do_not_count_as_versions_of_the_rows(lake: Lake) -> None:
    written = write_clean(lake, short_flights(4))
    table = lake.open("clean")
    table.optimize.z_order(["track_id"])
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert lake.open("clean").version() > written
    lake.fence("clean")
    assert version_of_rows(lake.open("clean")) == version_of_rows(lake.open("clean", written)) == written
