"""Files of a report."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

from perf.analyzer.report import as_dict, markdown, write_report
from perf.analyzer.results import Highest
from tests.perf_report import make_report, make_result

FAILED = replace(make_result(level=64), figures=None, failure="queue full")


def test_every_file_names_machine_versions_settings_and_revision(tmp_path: Path) -> None:
    report = make_report(make_result(level=1), make_result(stable=False), FAILED)
    written = write_report(report, tmp_path)
    assert [path.name for path in written] == ["perf.csv", "perf.json", "perf.md", "throughput.png", "times.png"]
    assert all(path.stat().st_size > 0 for path in written)
    for name in ("perf.csv", "perf.json", "perf.md"):
        text = (tmp_path / name).read_text()
        for origin in ("a processor", "24", "2.51.0", "1.31.1", "abcd"):
            assert origin in text
    content = json.loads((tmp_path / "perf.json").read_text())
    assert content["config"]["concurrency"] == [1, 4]
    assert content["results"][0]["figures"]["p99"] == 8.0
    assert content["results"][2]["failure"] == "queue full"


def test_the_csv_file_has_one_row_for_each_workload(tmp_path: Path) -> None:
    write_report(make_report(make_result(level=1), FAILED), tmp_path)
    with (tmp_path / "perf.csv").open() as file:
        first, failed = csv.DictReader(file)
    assert (first["level"], first["p99"], first["queue"], first["status"]) == ("1", "8.0", "0.1", "stable")
    assert (failed["level"], failed["p99"], failed["status"]) == ("64", "", "failed")


def test_the_markdown_report_names_what_cannot_be_relied_on() -> None:
    text = markdown(make_report(make_result(level=1), make_result(stable=False), FAILED))
    rows = [line.split(" | ") for line in text.splitlines() if "| concurrency" in line]
    assert [row[-1].removesuffix(" |") for row in rows[:3]] == ["stable", "unstable", "failed"]
    assert rows[0][-2] == "2 of 100"
    assert "cannot be relied on" in text
    assert "queue full" in text
    assert "cannot be relied on" not in markdown(make_report(make_result()))


def test_the_report_of_a_search_names_the_highest_load() -> None:
    scenario = {"model": "reentry", "protocol": "grpc", "batch": 1, "length": "900", "load": "concurrency"}
    found = Highest(**scenario, level=4, at_limit=False)
    report = make_report(make_result(), highest=(found,), objective="p99 <= 10 ms")
    assert "concurrency: **4**" in markdown(report)
    assert not report.failed
    assert as_dict(report)["highest"][0]["level"] == 4
    nothing = replace(report, highest=[replace(found, level=None)])
    assert "**none**" in markdown(nothing)
    assert nothing.failed


def test_a_report_without_any_figures_is_written(tmp_path: Path) -> None:
    report = make_report(FAILED)
    assert write_report(report, tmp_path)
    assert report.failed
