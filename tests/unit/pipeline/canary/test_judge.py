"""The verdict of all checks together, waiting for it, and the exit status of the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli import app
from cli.canary import STATUS
from pipeline.canary import judge as module
from pipeline.canary.checks import CanaryVerdict, Check
from pipeline.canary.config import CanaryLimits, JudgeConfig
from pipeline.canary.judge import Judgement, judge, verdict_of
from tests.garbage_server import FINAL, garbage_server

PASS, FAIL, INCONCLUSIVE = CanaryVerdict


def checked(*verdicts: CanaryVerdict) -> list[Check]:
    return [Check(name=str(number), verdict=each, reason="") for number, each in enumerate(verdicts)]


@given(st.lists(st.sampled_from(CanaryVerdict), min_size=4, max_size=4))
def test_every_check_must_pass_and_one_that_fails_decides(verdicts: list[CanaryVerdict]) -> None:
    found = verdict_of(checked(*verdicts))
    assert (found is PASS) == (set(verdicts) == {PASS})
    assert (found is FAIL) == (FAIL in verdicts)


def test_no_check_at_all_is_not_a_pass() -> None:
    assert verdict_of([]) is INCONCLUSIVE


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Times that a judge has slept, s; it does not sleep."""
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    return slept


def judged(monkeypatch: pytest.MonkeyPatch, slept: list[float], *verdicts: CanaryVerdict, wait: int = 600) -> Judgement:
    """Return the judgement of a judge whose judgements, one after the other, have these verdicts; the last repeats."""
    given = chain(verdicts, repeat(verdicts[-1]))
    monkeypatch.setattr(
        module, "judge_once", lambda *_: Judgement(verdict=(each := next(given)), checks=tuple(checked(each)))
    )
    config = JudgeConfig(prometheus="http://127.0.0.1:9090", wait=wait, limits=CanaryLimits(window=60, interval=20))
    return judge(config, clock=lambda: sum(slept))


def test_a_waiting_judge_fails_a_canary_at_once(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    assert judged(monkeypatch, clock, FAIL).verdict is FAIL
    assert clock == []


def test_a_waiting_judge_passes_a_canary_after_a_full_window(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    assert judged(monkeypatch, clock, PASS).verdict is PASS
    assert sum(clock) == 60


def test_a_waiting_judge_fails_a_canary_that_passed_before_the_window_was_over(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    assert judged(monkeypatch, clock, PASS, INCONCLUSIVE, FAIL).verdict is FAIL
    assert sum(clock) == 40


def test_a_canary_without_a_verdict_at_the_deadline_does_not_pass(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    assert judged(monkeypatch, clock, INCONCLUSIVE, wait=130).verdict is INCONCLUSIVE
    assert sum(clock) == 130


def test_a_canary_that_passes_late_passes(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    assert judged(monkeypatch, clock, *[INCONCLUSIVE] * 5, PASS).verdict is PASS
    assert sum(clock) == 100


def test_a_judge_that_does_not_wait_judges_once(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    for verdict in CanaryVerdict:
        assert judged(monkeypatch, clock, verdict, wait=0).verdict is verdict
    assert clock == []


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("answer", [None, FINAL["an HTML page"]])
def test_a_judge_without_a_prometheus_is_inconclusive(answer: object, as_json: bool) -> None:
    options = ["canary", "judge", *(["--json"] if as_json else [])]
    if answer is None:
        result = CliRunner().invoke(app, [*options, "--prometheus", "http://127.0.0.1:1"])
    else:
        with garbage_server(answer) as address:
            result = CliRunner().invoke(app, [*options, "--prometheus", f"http://{address}"])
    assert result.exit_code == STATUS["inconclusive"] == 3
    if as_json:
        content = json.loads(result.stdout)
        assert content["verdict"] == "inconclusive"
        assert [check["verdict"] for check in content["checks"]] == ["inconclusive"] * 4
        assert all(check["queries"] and check["reason"] for check in content["checks"])


@pytest.mark.parametrize(
    "options",
    [
        ["--prometheus", "127.0.0.1:9090"],
        ["--prometheus", "http://127.0.0.1:9090", "--config", "missing.toml"],
        ["--prometheus", "http://127.0.0.1:9090", "--wait", "10"],
        ["--prometheus", "http://127.0.0.1:9090", "--tracks", "tracks.csv"],
        [
            *("--prometheus", "http://127.0.0.1:9090", "--stable", "grpc://127.0.0.1:1"),
            *("--canary", "grpc://127.0.0.1:1", "--tracks", "missing.csv"),
        ],
        [],
    ],
)
def test_wrong_usage_is_not_a_verdict(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["canary", "judge", *options]).exit_code == 2


def test_an_infinite_figure_is_null_in_json() -> None:
    from cli.canary import as_dict

    check = Check(name="p99", verdict=FAIL, reason="", figures={"canary_p99": float("inf"), "canary_requests": 5.0})
    content = as_dict(Judgement(verdict=FAIL, checks=(check,)))
    assert content["checks"][0]["figures"] == {"canary_p99": None, "canary_requests": 5.0}
    json.dumps(content, allow_nan=False)
