"""The benchmark of `reentry features build` on a small table."""

from __future__ import annotations

from perf.feature_build import BuildCost, markdown, measure


def test_a_full_build_and_one_after_a_change_of_one_bucket_are_measured() -> None:
    full, changed = measure(27_000, orbit=False)
    assert (full.build, full.computed, changed.build, changed.computed) == ("full", 16, "one bucket", 1)
    assert full.rows == changed.rows
    assert 18_000 <= full.rows <= 36_000
    for cost in (full, changed):
        assert 0.1 < cost.cpu_seconds < 100.0
        assert 50.0 < cost.peak_mib < 2_000.0


def test_the_report_is_a_table() -> None:
    cost = BuildCost(build="full", computed=16, rows=2_700_000, cpu_seconds=8.04, peak_mib=355.2)
    assert "| full | 2,700,000 | 16 | 8.0 | 355 |" in markdown([cost])
