"""A real Prometheus over the exporter of a lake: every query of the pipeline's alerts and panels finds its series."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import pytest

from pipeline.clean.build import build_clean
from pipeline.ingest.hours import last_hours
from pipeline.ingest.ingest import ingest
from pipeline.lake.exporter import LakeCollector, serve_metrics
from pipeline.lake.lake import Lake
from pipeline.settings import PipelineSettings
from tests.gateway_servers import wait_until
from tests.landing import flat_track, land, pipeline_settings
from tests.prometheus import (
    Prometheus,
    concrete,
    dashboard_queries,
    of_lake,
    rule_queries,
    running_prometheus,
    selectors,
)

QUERIES = [query for query in (*dashboard_queries(), *rule_queries()) if of_lake(query)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> PipelineSettings:
    """A lake with a good file, a bad row, and a file that cannot be used, in the current hour."""
    settings = pipeline_settings(tmp_path_factory.mktemp("pipeline"))
    [hour] = last_hours(1, dt.datetime.now(dt.UTC))
    broken = flat_track(9).astype({"latitude": object})
    broken.loc[3, "latitude"] = "north"
    land(settings, "a.csv", *(flat_track(number) for number in range(5)), broken, hour=hour)
    land(settings, "unusable.csv", flat_track(1).drop(columns="altitude"), hour=hour)
    ingest(settings, [hour])
    build_clean(Lake(settings.lake))
    return settings


@pytest.fixture(scope="module")
def prometheus(settings: PipelineSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    Lake(settings.lake).create("verdicts")
    port, _ = serve_metrics(Lake(settings.lake), "127.0.0.1", 0)
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), lake=f"127.0.0.1:{port}") as running:
        wait_until(lambda: running.query('reentry_lake_readable{job="reentry-lake"}') != [], what="the first scrape")
        yield running


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_is_valid_and_finds_its_series(prometheus: Prometheus, query: str) -> None:
    prometheus.query(concrete(query))  # raises an exception if the query is invalid
    named = selectors(concrete(query))
    assert named
    for selector in named:
        # Two samples are needed for a difference, and no entry is superseded.
        wait_until(lambda: prometheus.query(selector) != [], what=f"a series of {selector}")  # noqa: B023


@pytest.mark.parametrize("query", [query for query in QUERIES if query in dashboard_queries()])
def test_every_panel_has_a_value(prometheus: Prometheus, query: str) -> None:
    wait_until(lambda: any(isfinite(float(each["value"][1])) for each in prometheus.query(concrete(query))))


def test_the_values_are_those_of_the_tables(prometheus: Prometheus) -> None:
    found = prometheus.query("reentry_lake_quarantine_entries")
    entries = {(each["metric"]["status"], each["metric"]["kind"]): float(each["value"][1]) for each in found}
    assert entries == {("open", "row"): 1.0, ("open", "file"): 1.0}
    rows = {each["metric"]["table"]: float(each["value"][1]) for each in prometheus.query("reentry_lake_table_rows")}
    assert (rows["raw"], rows["quarantine"]) == (119.0, 2.0)


def test_no_alert_of_the_pipeline_is_pending_for_a_healthy_lake(prometheus: Prometheus) -> None:
    assert [each["metric"]["alertname"] for each in prometheus.query('ALERTS{job="reentry-lake"}')] == []


def test_an_unreadable_lake_has_no_figure_but_that_it_is_unreadable(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.create("raw")
    collector = LakeCollector(lake, seconds=0.0)
    assert {family.name for family in collector.collect()} > {"reentry_lake_readable", "reentry_lake_table_rows"}
    (Path(lake.location) / "raw" / "_delta_log" / "00000000000000000000.json").write_text("{")
    [family] = collector.collect()
    assert (family.name, family.samples[0].value) == ("reentry_lake_readable", 0.0)


def test_scrapes_in_quick_succession_read_the_tables_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(str(tmp_path / "lake"))
    reads: list[str] = []
    exists = lake.exists
    monkeypatch.setattr(lake, "exists", lambda name: reads.append(name) or exists(name))
    collector = LakeCollector(lake)
    for _ in range(3):
        list(collector.collect())
    assert reads.count("raw") == 1
