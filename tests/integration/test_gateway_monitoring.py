"""Every query of the dashboard and the rules in a real Prometheus that scrapes a real gateway under load."""

from __future__ import annotations

import asyncio
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from math import isfinite
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gateway.accounts.directory import Directory
from gateway.accounts.principal import Scope
from gateway.database.engine import Database
from gateway.database.migrate import migrate
from gateway.settings import GatewaySettings
from reentry import schema
from reentry.serving import EmbeddedServer
from tests.gateway_servers import (
    GatewayProcess,
    new_postgresql_database,
    running_gateway,
    running_postgresql,
    running_redis,
    wait_until,
)
from tests.integration.test_serving import make_tracks
from tests.prometheus import (
    Prometheus,
    concrete,
    dashboard_queries,
    of_gateway,
    rule_queries,
    running_prometheus,
    selectors,
)

QUERIES = [query for query in (*dashboard_queries(), *rule_queries()) if of_gateway(query)]

UNTIL_USED = {
    "reentry_gateway_jobs": "a job",
    "reentry_gateway:jobs:max": "a job",
    "reentry_gateway_experiment_tracks_total": "an experiment",
    "reentry_gateway_drift_psi": "a day with tracks",
}
"""What a metric without a series waits for."""
NOT_MEASURED = (*UNTIL_USED, "reentry_gateway_job_seconds", "reentry_gateway_webhook", 'status=~"5.."')
"""What occurs in the queries without a value for this gateway, which has no jobs and no errors."""


@pytest.fixture(scope="module")
def gateway(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, triton_url=f"http://{server.http_url}") as running:
        yield running


def tracks_as_csv(seed: int) -> bytes:
    """Two tracks as the body of a scoring request."""
    tracks = make_tracks(2, 60, seed=seed)
    table = pd.DataFrame(tracks.reshape(-1, tracks.shape[-1]), columns=list(schema.MEASUREMENT_COLUMNS))
    return table.assign(track_id=np.repeat([1, 2], 60)).to_csv(index=False).encode()


@pytest.fixture(scope="module")
def prometheus(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a gateway, which gets new and known tracks, and requests without a valid key."""
    target = gateway.metrics_url.removeprefix("http://").removesuffix("/metrics")
    ended = threading.Event()

    def load() -> None:
        for number in count(1):
            for body in (tracks_as_csv(0), tracks_as_csv(number)):
                assert status(gateway, "/v1/tracks:score", gateway.key, body) == 200
            assert status(gateway, "/health/ready") == 200
            assert status(gateway, "/v1/nothing", "wrong") == 401
            if ended.wait(0.1):
                return

    with (
        running_prometheus(tmp_path_factory.mktemp("prometheus"), gateway=target) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        loading = pool.submit(load)
        try:
            wait_until(
                lambda: running.query("reentry_gateway:score_seconds:p99_5m > 0") != [] or loading.done(),
                what="the time of a scoring request",
            )
            yield running
        finally:
            ended.set()
        loading.result()


def status(gateway: GatewayProcess, path: str, key: str = "", body: bytes | None = None) -> int:
    """Return the status of the answer to a request."""
    headers = {"Content-Type": "text/csv", "X-API-Key": key} if key else {}
    request = urllib.request.Request(gateway.url + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_prometheus_finds_the_gateway_by_its_labels_and_its_port(prometheus: Prometheus) -> None:
    (target,) = prometheus.get("/api/v1/targets", state="active")["activeTargets"]
    assert target["health"] == "up"
    labels = {name: label for name, label in target["labels"].items() if name != "instance"}
    assert labels == {
        "job": "reentry-gateway",
        "namespace": "reentry",
        "pod": "reentry-gateway-0",
        "component": "gateway",
    }


PANEL_QUERIES = [query for query in QUERIES if query in dashboard_queries()]


@pytest.mark.parametrize("query", [each for each in PANEL_QUERIES if not any(name in each for name in NOT_MEASURED)])
def test_every_panel_has_a_value(prometheus: Prometheus, query: str) -> None:
    wait_until(lambda: any(isfinite(float(each["value"][1])) for each in prometheus.query(concrete(query))))


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_is_valid_and_finds_the_series_of_the_gateway(prometheus: Prometheus, query: str) -> None:
    prometheus.query(concrete(query))  # raises an exception if the query is invalid
    named = selectors(concrete(query))
    assert named
    for selector in named:
        if "5.." not in selector and selector.partition("{")[0] not in UNTIL_USED:
            wait_until(lambda: prometheus.query(selector) != [], what=f"a series of {selector}")  # noqa: B023


def test_every_metric_that_waits_for_its_use_is_declared_by_the_gateway(gateway: GatewayProcess) -> None:
    with urllib.request.urlopen(gateway.metrics_url, timeout=60) as answer:
        text = answer.read().decode()
    for name in UNTIL_USED:
        if ":" not in name:
            assert f"# TYPE {name} " in text


def test_the_values_are_those_of_the_requests(prometheus: Prometheus) -> None:
    def increase(metric: str, label: str) -> dict[str, float]:
        found = prometheus.query(f'sum by ({label}) (increase({metric}{{job="reentry-gateway"}}[5m])) > 0')
        return {each["metric"][label]: float(each["value"][1]) for each in found}

    wait_until(lambda: "cached" in increase("reentry_gateway_tracks_total", "result"), what="an answer of the cache")
    assert set(increase("reentry_gateway_requests_total", "status")) == {"200", "401"}
    # Both prefixes, /v1 and /api/v1, count as one route.
    assert set(increase("reentry_gateway_requests_total", "route")) == {"/tracks:score", "/health/ready", "unmatched"}
    assert set(increase("reentry_gateway_tracks_total", "result")) == {"scored", "cached"}
    assert set(increase("reentry_gateway_triton_calls_total", "result")) == {"answered"}
    assert set(increase("reentry_gateway_auth_failures_total", "reason")) == {"credentials"}
    # Three requests that count to one probe that does not.
    (requests,) = prometheus.query("reentry_gateway:requests:rate5m")
    (probes,) = prometheus.query('sum(rate(reentry_gateway_requests_total{route="/health/ready"}[5m]))')
    assert float(requests["value"][1]) / float(probes["value"][1]) == pytest.approx(3.0, rel=0.5)


def test_no_alert_fires_for_a_healthy_gateway(prometheus: Prometheus) -> None:
    wait_until(lambda: prometheus.query("reentry_gateway_database_up == 1") != [], what="the database being up")
    # The load sends wrong keys, and on a busy machine its first requests are slow.
    expected = "ReentryGateway(AuthFailures|LatencyHigh)"
    assert prometheus.query(f'ALERTS{{alertname=~"ReentryGateway.*",alertname!~"{expected}"}}') == []
    groups = prometheus.get("/api/v1/rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def new_keys(settings: GatewaySettings, number: int) -> list[str]:
    """Create keys of one account."""

    async def create() -> list[str]:
        database = Database(settings)
        directory = Directory(database, settings)
        account_id = await directory.create_account("default", "premium")
        keys = [await directory.create_key(account_id, name=f"key {each}", scopes=Scope) for each in range(number)]
        await database.close()
        return [text for _, text in keys]

    return asyncio.run(create())


def test_the_alerts_of_redis_and_the_database_begin_when_they_are_stopped_and_end_when_they_return(
    tmp_path: Path,
) -> None:
    def active(running: Prometheus) -> set[str]:
        return {each["metric"]["alertname"] for each in running.query('ALERTS{alertname=~"ReentryGateway.*Down"}')}

    with running_postgresql(tmp_path) as postgresql, running_redis(tmp_path) as redis:
        url = new_postgresql_database(postgresql)
        settings = GatewaySettings(data=tmp_path / "gateway", database_url=url)
        migrate(settings)
        known, unknown = new_keys(settings, 2)
        stores = {"database_url": url, "redis_url": f"redis://127.0.0.1:{redis.port}/0"}
        with running_gateway(tmp_path, **stores) as gateway:
            target = gateway.metrics_url.removeprefix("http://").removesuffix("/metrics")
            with running_prometheus(tmp_path, gateway=target) as running:
                assert status(gateway, "/v1/nothing", known) == 404
                wait_until(lambda: running.query("reentry_gateway_database_up == 1") != [], what="the database up")
                assert active(running) == set()
                redis.stop()
                postgresql.stop(signal.SIGINT)
                assert status(gateway, "/v1/nothing", known) == 404  # limited by the process itself
                assert status(gateway, "/v1/nothing", unknown) == 503
                alerts = {"ReentryGatewayRedisDown", "ReentryGatewayDatabaseDown"}
                wait_until(lambda: active(running) == alerts, what="both alerts")
                redis.start()
                postgresql.start()
                wait_until(lambda: status(gateway, "/v1/nothing", unknown) == 404, what="the unknown key accepted")
                wait_until(lambda: active(running) == set(), what="no alert")
