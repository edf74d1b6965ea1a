"""The latency limit and the search for the highest load that holds it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perf.analyzer.slo import Objective, highest_level
from reentry.errors import ConfigError
from tests.perf_report import make_result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p99=10ms", Objective(99, 10.0)),
        ("p50=0.5s", Objective(50, 500.0)),
        ("p95=250us", Objective(95, 0.25)),
    ],
)
def test_a_limit_has_a_percentile_and_a_unit(text: str, expected: Objective) -> None:
    assert Objective.parse(text) == expected


@pytest.mark.parametrize("text", ["", "p99", "p99=10", "p98=10ms", "p99=0ms", "p99=-1ms", "p99=nanms", "99=10ms"])
def test_another_text_is_no_limit(text: str) -> None:
    with pytest.raises(ConfigError, match="invalid objective"):
        Objective.parse(text)


def test_a_limit_is_held_up_to_itself() -> None:
    assert Objective(99, 8.0).held_by(make_result(p99=8.0))
    assert not Objective(99, 7.9).held_by(make_result(p99=8.0))
    assert Objective(50, 2.0).held_by(make_result(p99=8.0))


def test_an_unstable_late_or_failed_result_does_not_hold_a_limit() -> None:
    limit, result = Objective(99, 100.0), make_result()
    assert limit.held_by(result)
    assert result.figures is not None
    assert not limit.held_by(replace(result, stable=False))
    assert not limit.held_by(replace(result, figures=replace(result.figures, late=5.0)))
    assert not limit.held_by(replace(result, figures=None, failure="queue full"))


@pytest.mark.parametrize("best", [1, 2, 17, 63, 64])
def test_the_search_finds_the_highest_concurrency_in_few_measurements(best: int) -> None:
    measured = []

    def holds(level: float) -> bool:
        measured.append(level)
        return level <= best

    assert highest_level([1, 4, 64], holds, whole=True) == best
    assert len(measured) == len(set(measured)) <= 8
    assert all(level == int(level) for level in measured)


def test_the_search_ends_at_a_lowest_level_that_does_not_hold() -> None:
    measured = []
    assert highest_level([4, 64], lambda level: bool(measured.append(level)), whole=True) is None
    assert measured == [4]


def test_a_single_level_is_measured_once() -> None:
    measured = []
    assert highest_level([4], lambda level: not measured.append(level), whole=True) == 4
    assert measured == [4]


def test_the_search_finds_a_rate_within_five_per_cent() -> None:
    found = highest_level([10.0, 1000.0], lambda rate: rate <= 333.0, whole=False)
    assert found is not None
    assert 333.0 / 1.05 <= found <= 333.0
