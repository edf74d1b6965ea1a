"""Report of a comparison of servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf.peers.report import markdown, write_report
from perf.peers.results import PeersConfig
from reentry.errors import ConfigError
from tests.peers import make_comparison, make_peer, make_turn

TURNS = (make_turn(900.0, p99=9.0), make_turn(1100.0, p99=5.0), make_turn(1000.0, p99=8.0))
TRITON = make_peer("Triton, reentry", *TURNS, body="binary (KServe)", install_size=2000.0)
FASTER = make_peer("FastAPI", make_turn(2000.0, memory=300.0), versions={"fastapi": "0.165.0"})
FAILED = make_peer("MLServer", failure="cannot be installed; got no wheel", install_size=None)


def rows(text: str) -> list[list[str]]:
    """Cells of the table of figures."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.count("|") == 10]


def test_the_figures_of_a_server_are_medians_over_the_rounds() -> None:
    median = TRITON.median
    assert median is not None
    assert (median.tracks_per_second, median.p99) == (1000.0, 8.0)


def test_a_server_that_failed_in_any_round_has_no_figures() -> None:
    assert FAILED.median is None
    assert make_comparison(TRITON, FAILED).failed
    assert not make_comparison(TRITON, FASTER).failed


def test_the_fastest_server_comes_first_and_the_best_figures_are_bold() -> None:
    heading, first, second, third = rows(markdown(make_comparison(TRITON, FAILED, FASTER)))
    assert heading[:3] == ["server", "body", "tracks/s"]
    assert first[:3] == ["FastAPI", "binary", "**2,000**"]
    assert second[:3] == ["Triton, reentry", "binary (KServe)", "1,000"]
    assert (first[6], second[6]) == ("300", "**200**")
    assert (first[8], second[8]) == ("**100**", "2,000")
    assert third == ["MLServer", "binary", "failed", *["-"] * 6]


def test_a_failed_server_is_listed_with_its_reason() -> None:
    text = markdown(make_comparison(TRITON, FAILED))
    assert "- MLServer: cannot be installed; got no wheel" in text
    assert "Not measured" not in markdown(make_comparison(TRITON))


def test_the_report_says_whether_other_programs_used_the_cores() -> None:
    quiet = markdown(make_comparison(make_peer("A", make_turn(others=1.0), make_turn(others=2.0))))
    assert "other programs used 2 % of the cores meanwhile, at most 2 %" in quiet
    assert "not quiet" not in quiet
    assert "at most 40 %. **The machine was not quiet**" in markdown(
        make_comparison(make_peer("A", make_turn(others=40.0)))
    )


def test_both_files_name_machine_versions_settings_and_revision(tmp_path: Path) -> None:
    written = write_report(make_comparison(TRITON, FASTER), tmp_path)
    assert [path.name for path in written] == ["peers.md", "peers.json"]
    for path in written:
        text = path.read_text()
        for origin in ("a processor", "24", "4.1.0", "0.165.0", "2 workers", "abcd"):
            assert origin in text
    content = json.loads((tmp_path / "peers.json").read_text())
    assert content["config"]["connections"] == 8
    assert content["results"][0]["median"]["p99"] == 8.0
    assert [turn["p99"] for turn in content["results"][0]["turns"]] == [9.0, 5.0, 8.0]
    assert content["results"][0]["versions"]["numpy"] == "1.26.4"


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"connections": 0}, {"steps": 3}, {"only": ("a", "a")}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        PeersConfig(**wrong)
