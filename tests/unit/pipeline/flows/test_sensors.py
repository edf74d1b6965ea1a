"""The sensors: new files of the landing folder, and drift that Prometheus reports."""

from __future__ import annotations

import datetime as dt
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

from pipeline.flows.definitions import defs
from pipeline.flows.jobs import retrain_model
from pipeline.flows.sensors import DRIFT, drift, new_files
from pipeline.ingest.hours import last_hours
from pipeline.lake.lake import Lake
from pipeline.settings import PREFIX, PipelineSettings
from tests.contract.manifests import K8S, program
from tests.garbage_server import Answer, garbage_server
from tests.landing import flat_track, land
from tests.unit.pipeline.flows.conftest import DAGSTERS_OWN_WARNINGS, Daemons, rows

pytestmark = DAGSTERS_OWN_WARNINGS


def evaluate(sensor: dg.SensorDefinition, cursor: str | None = None) -> Any:
    """Evaluate a sensor whose last tick has left a cursor."""
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance, cursor=cursor, definitions=defs) as context,
    ):
        return sensor.evaluate_tick(context)


@pytest.fixture
def hours() -> list[str]:
    """The three last hours, of which the newest one is the current hour."""
    return last_hours(3, dt.datetime.now(dt.UTC))


def test_new_files_request_one_run_for_each_hour_once(settings: PipelineSettings, hours: list[str]) -> None:
    assert evaluate(new_files).run_requests == []
    for hour in hours[:2]:
        land(settings, "a.csv", flat_track(1), hour=hour)
        land(settings, "b.csv", flat_track(2), hour=hour)
    first = evaluate(new_files)
    assert [request.partition_key for request in first.run_requests] == hours[:2]
    assert evaluate(new_files, first.cursor).run_requests == []
    again = evaluate(new_files)
    assert [each.run_key for each in again.run_requests] == [each.run_key for each in first.run_requests]


def test_only_the_hour_of_a_late_or_changed_file_is_requested_again(
    settings: PipelineSettings, hours: list[str]
) -> None:
    for hour in hours:
        land(settings, "a.csv", flat_track(1), hour=hour)
    first = evaluate(new_files)
    land(settings, "late.csv", flat_track(2), hour=hours[0])
    late = evaluate(new_files, first.cursor)
    assert [request.partition_key for request in late.run_requests] == [hours[0]]
    assert late.run_requests[0].run_key not in [request.run_key for request in first.run_requests]
    land(settings, "a.csv", flat_track(1, steps=30), hour=hours[1])
    changed = evaluate(new_files, late.cursor)
    assert [request.partition_key for request in changed.run_requests] == [hours[1]]


def test_a_landing_folder_that_does_not_exist_fails_the_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "LANDING", "/nowhere/landing")
    with pytest.raises(dg.Failure, match="/nowhere/landing: the landing folder does not exist"):
        evaluate(new_files)


def test_a_daemon_ingests_new_files_once(
    settings: PipelineSettings, lake: Lake, hours: list[str], daemons: Daemons
) -> None:
    for number, hour in enumerate(hours[:2]):
        land(settings, "a.csv", flat_track(number), hour=hour)
    daemons.tick(execute_sensor_iteration, submit_threadpool_executor=None)
    assert [run.tags["dagster/partition"] for run in daemons.runs("ingestion")] == hours[:2]
    assert sorted(set(rows(lake, "raw")["hour"])) == hours[:2]
    # The next tick of the daemon, without its pause.
    for state in daemons.instance.all_instigator_state():
        daemons.instance.update_instigator_state(
            state.with_data(state.instigator_data._replace(last_tick_timestamp=0.0))
        )
    daemons.tick(execute_sensor_iteration, submit_threadpool_executor=None)
    assert len(daemons.runs()) == 2


def test_the_scheduler_ingests_the_hour_that_ended(settings: PipelineSettings, lake: Lake, daemons: Daemons) -> None:
    start = dt.datetime(2026, 3, 2, 9, 1, tzinfo=dt.UTC)
    for number, hour in enumerate(["2026-03-02T08", "2026-03-02T09", "2026-03-02T10"]):
        land(settings, "a.csv", flat_track(number), hour=hour)
    for minutes in (0, 5, 10, 30):
        daemons.tick(launch_scheduled_runs, start + dt.timedelta(minutes=minutes), {})
    assert [run.tags["dagster/partition"] for run in daemons.runs()] == ["2026-03-02T08"]
    assert set(rows(lake, "raw")["hour"]) == {"2026-03-02T08"}
    daemons.tick(launch_scheduled_runs, start + dt.timedelta(minutes=65), {})
    assert [run.tags["dagster/partition"] for run in daemons.runs()] == ["2026-03-02T08", "2026-03-02T09"]


def prometheus(*values: tuple[str, float]) -> Answer:
    """Answer each query with the index of some features."""
    series = [
        {"metric": {"feature": name, "namespace": "reentry"}, "value": [1.7e9, str(value)]} for name, value in values
    ]
    text = json.dumps({"status": "success", "data": {"resultType": "vector", "result": series}}).encode()

    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)

    return answer


def drift_tick(monkeypatch: pytest.MonkeyPatch, answer: Answer, cursor: str | None = None) -> Any:
    with garbage_server(answer) as address:
        monkeypatch.setenv(PREFIX + "PROMETHEUS", f"http://{address}")
        return evaluate(drift, cursor)


def test_drift_requests_one_retraining_in_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    drifted = prometheus(("altitude", 0.41), ("speed", 0.3))
    first = drift_tick(monkeypatch, drifted)
    (request,) = first.run_requests
    assert request.run_config["ops"][retrain_model.name]["config"] == {"reason": "DRIFT", "if_due": True}
    assert json.loads(request.tags["reentry/drift"]) == {"altitude": 0.41, "speed": 0.3}
    second = drift_tick(monkeypatch, drifted, first.cursor)
    assert second.run_requests == []
    assert "drift requests no other retraining before" in second.skip_message
    (lost,) = drift_tick(monkeypatch, drifted).run_requests
    assert lost.run_key == request.run_key
    long_ago = dt.datetime.fromisoformat(first.cursor) - dt.timedelta(days=7, minutes=1)
    (later,) = drift_tick(monkeypatch, drifted, long_ago.isoformat()).run_requests
    assert later.run_config == request.run_config


def test_no_drift_requests_no_retraining(monkeypatch: pytest.MonkeyPatch) -> None:
    tick = drift_tick(monkeypatch, prometheus())
    assert (tick.run_requests, tick.skip_message) == ([], "the alert ReentryDrift does not fire")


def test_without_an_address_of_prometheus_drift_is_not_watched() -> None:
    assert evaluate(drift).skip_message == "no address of Prometheus in the settings"


def test_a_prometheus_that_does_not_answer_skips_the_tick_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "PROMETHEUS", "http://127.0.0.1:1")
    tick = evaluate(drift)
    assert tick.run_requests == []
    assert tick.skip_message.startswith("drift is unknown: Prometheus at http://127.0.0.1:1 does not answer")


@pytest.mark.parametrize(("minutes", "expected"), [(25, []), (45, [0.4])])
def test_the_query_of_drift_finds_the_features_for_which_the_alert_fires(
    tmp_path: Path, minutes: int, expected: list[float]
) -> None:
    def series(value: float, feature: str = "altitude", used: str = "true", namespace: str = "reentry") -> Any:
        labels = f'job="reentry",namespace="{namespace}",feature="{feature}",used="{used}"'
        return {"series": f"reentry_feature_psi{{{labels}}}", "values": f"{value}x60"}

    test = {
        "rule_files": [str(K8S / "monitoring/rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    series(0.4),
                    series(0.1, feature="speed"),
                    series(0.9, feature="bearing", used="false"),
                    series(0.9, namespace="other"),
                ],
                "promql_expr_test": [
                    {
                        "expr": DRIFT.format(namespace="reentry"),
                        "eval_time": f"{minutes}m",
                        "exp_samples": [
                            {
                                "labels": 'reentry:feature_psi:avg{namespace="reentry",feature="altitude",used="true"}',
                                "value": value,
                            }
                            for value in expected
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    result = subprocess.run(
        [program("promtool"), "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
