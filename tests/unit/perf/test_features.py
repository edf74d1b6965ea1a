"""Benchmark of the features."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

from perf import features
from reentry.schema import COSTLY_GROUPS


def test_every_group_of_features_has_a_cost() -> None:
    costs = features.measure_features(tracks=3, steps=40, rounds=1)
    assert [cost.group for cost in costs] == ["simple", *COSTLY_GROUPS, "all"]
    for cost in costs:
        assert 0.0 < cost.live_microseconds < 1e5
        assert 0.0 < cost.whole_milliseconds < 1e4


def test_short_flights_are_padded_to_the_number_of_steps() -> None:
    assert features._flights(51, 3_000).shape == (51, 3_000, 6)


def test_the_command_prints_a_table() -> None:
    app = typer.Typer()
    app.command()(features.main)
    result = CliRunner().invoke(app, ["--tracks", "2", "--steps", "20", "--rounds", "1"])
    assert result.exit_code == 0
    assert "| orbit |" in result.output
