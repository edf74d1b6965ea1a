"""Comparison of two measurements."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from perf.analyzer.compare import PerfComparison, compare_files, parse_threshold
from perf.analyzer.config import PerfConfig
from perf.analyzer.report import as_dict
from perf.analyzer.results import Report, WorkloadResult
from reentry.errors import InputError
from tests.perf_report import make_report, make_result

FAILED = replace(make_result(), figures=None, failure="queue full")
UNSTABLE = make_result(stable=False)


def written(path: Path, report: Report) -> Path:
    path.write_text(json.dumps(as_dict(report)))
    return path


def compared(folder: Path, old: Report, new: Report, *, force: bool = False) -> PerfComparison:
    files = written(folder / "a.json", old), written(folder / "b.json", new)
    return compare_files(*files, threshold=0.05, force=force)


@pytest.mark.parametrize(
    ("new", "verdict", "regression"),
    [
        (make_result(), "same", False),
        (make_result(tracks_per_second=951.0, p99=8.39), "same", False),
        (make_result(tracks_per_second=949.0), "worse", True),
        (make_result(p99=8.41), "worse", True),
        (make_result(tracks_per_second=2000.0, p99=8.41), "worse", True),
        (make_result(tracks_per_second=1051.0), "better", False),
        (make_result(p99=7.59), "better", False),
        (FAILED, "failed", True),
    ],
)
def test_a_workload_is_worse_beyond_the_threshold(
    tmp_path: Path, new: WorkloadResult, verdict: str, regression: bool
) -> None:
    found = compared(tmp_path, make_report(make_result()), make_report(new))
    assert [each.verdict for each in found.workloads] == [verdict]
    assert bool(found.regressions) == regression


@pytest.mark.parametrize(
    ("old", "new"), [(UNSTABLE, make_result()), (make_result(), UNSTABLE), (FAILED, make_result())]
)
def test_workloads_without_reliable_figures_are_not_judged(
    tmp_path: Path, old: WorkloadResult, new: WorkloadResult
) -> None:
    with pytest.raises(InputError, match="nothing can be compared"):
        compared(tmp_path, make_report(old), make_report(new))
    other = make_result(level=1)
    found = compared(tmp_path, make_report(old, other), make_report(new, other))
    assert [each.verdict for each in found.workloads] == ["not judged", "same"]
    assert not found.regressions


def test_workloads_of_one_measurement_only_are_listed(tmp_path: Path) -> None:
    found = compared(tmp_path, make_report(make_result(), make_result(level=1)), make_report(make_result()))
    assert found.only_one == [str(make_result(level=1).workload)]


def test_measurements_of_other_settings_or_machines_are_compared_only_if_forced(tmp_path: Path) -> None:
    old = make_report(make_result())
    new = replace(old, config=PerfConfig(window=3.0), machine=old.machine | {"cores": 4})
    with pytest.raises(InputError) as error:
        compared(tmp_path, old, new)
    for difference in ("config.window (2.0 and 3.0)", "machine.cores (2 and 4)"):
        assert difference in error.value.problem
    assert "--force" in (error.value.fix or "")
    found = compared(tmp_path, old, new, force=True)
    assert found.differences["machine.cores"] == (2, 4)


def test_measurements_with_and_without_a_ceiling_are_compared(tmp_path: Path) -> None:
    old = make_report(make_result())
    found = compared(tmp_path, old, replace(old, config=replace(old.config, ceiling=False)))
    assert found.differences == {}
    assert [each.verdict for each in found.workloads] == ["same"]


def test_versions_and_the_revision_may_differ(tmp_path: Path) -> None:
    old = make_report(make_result())
    found = compared(tmp_path, old, replace(old, git_revision="other", versions=old.versions | {"server": "2.60.0"}))
    assert found.differences == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"results": [{}]}', '{"results": 1}'])
def test_another_file_is_no_report(tmp_path: Path, text: str) -> None:
    good = written(tmp_path / "good.json", make_report(make_result()))
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    with pytest.raises(InputError, match="not a report") as error:
        compare_files(good, bad, threshold=0.05, force=False)
    assert error.value.where == str(bad)


@pytest.mark.parametrize("text", ["5", "5 %", "0%", "100%", "-5%", "nan%", ""])
def test_a_threshold_is_a_percentage(text: str) -> None:
    with pytest.raises(InputError, match="threshold"):
        parse_threshold(text)


def test_the_command_prints_a_table_and_its_exit_status_says_whether_there_is_a_regression(tmp_path: Path) -> None:
    old = str(written(tmp_path / "old.json", make_report(make_result())))
    new = str(written(tmp_path / "new.json", make_report(make_result(p99=9.0))))
    shown = CliRunner().invoke(cli.app, ["perf", "compare", old, new])
    assert shown.exit_code == 1
    assert "+12.5%" in shown.output
    assert "1 of 1 workloads are worse" in shown.output
    assert CliRunner().invoke(cli.app, ["perf", "compare", old, new, "--threshold", "15%"]).exit_code == 0
    content = json.loads(CliRunner().invoke(cli.app, ["perf", "compare", old, new, "--json"]).output)
    assert content["workloads"][0]["verdict"] == "worse"
