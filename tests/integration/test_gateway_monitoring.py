"""Every query of the dashboard and the rules in a real Prometheus that scrapes a real gateway."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gateway_servers import GatewayProcess, running_gateway, wait_until
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
    "reentry_gateway_request_seconds_bucket": "a scoring request",
    "reentry_gateway_jobs": "a job",
    "reentry_gateway:jobs:max": "a job",
    "reentry_gateway_experiment_tracks_total": "an experiment",
    "reentry_gateway_drift_psi": "a day with tracks",
    "reentry_gateway:tracks_degraded:ratio_rate5m": "a track",
    "reentry_gateway:score_seconds:p99_5m": "a scoring request",
}
"""What a metric without a series waits for."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a gateway, which gets requests with and without a valid key."""
    target = gateway.metrics_url.removeprefix("http://").removesuffix("/metrics")
    ended = threading.Event()

    def load() -> None:
        while not ended.wait(0.1):
            status(gateway, "/health/ready")
            status(gateway, "/v1/nothing", gateway.key)
            status(gateway, "/v1/nothing", "wrong")

    with (
        running_prometheus(tmp_path_factory.mktemp("prometheus"), gateway=target) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        loading = pool.submit(load)
        try:
            wait_until(lambda: bool(running.query("reentry_gateway:requests:rate5m > 0")), what="a rate of requests")
            yield running
        finally:
            ended.set()
        loading.result()


def status(gateway: GatewayProcess, path: str, key: str = "") -> int:
    """Return the status of the answer to a request."""
    request = urllib.request.Request(gateway.url + path, headers={"X-API-Key": key} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
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


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_is_valid_and_finds_the_series_of_the_gateway(prometheus: Prometheus, query: str) -> None:
    prometheus.query(concrete(query))  # raises an exception if the query is invalid
    named = selectors(concrete(query))
    assert named
    for selector in named:
        if "5.." not in selector and selector.partition("{")[0] not in UNTIL_USED:
            assert prometheus.query(selector), f"no series matches {selector}"


def test_every_metric_that_waits_for_its_use_is_declared_by_the_gateway(gateway: GatewayProcess) -> None:
    with urllib.request.urlopen(gateway.metrics_url) as answer:
        text = answer.read().decode()
    for name in UNTIL_USED:
        if ":" not in name:
            assert f"# TYPE {name.removesuffix('_bucket')} " in text


def test_requests_are_counted_by_status_and_probes_do_not_count_in_the_rate(prometheus: Prometheus) -> None:
    query = 'sum by (status) (increase(reentry_gateway_requests_total{job="reentry-gateway",route!~"/health/.*"}[1m]))'

    def counts() -> dict[str, float]:
        return {each["metric"]["status"]: float(each["value"][1]) for each in prometheus.query(query)}

    wait_until(lambda: min(counts().get(code, 0.0) for code in ("401", "404")) > 0, what="requests in both statuses")
    assert set(counts()) == {"401", "404"}
    total = prometheus.query("reentry_gateway:requests:rate5m")
    probes = prometheus.query('sum(rate(reentry_gateway_requests_total{route="/health/ready",status="200"}[5m]))')
    assert float(total[0]["value"][1]) > float(probes[0]["value"][1]) > 0


def test_a_wrong_key_is_seen_as_a_failure_of_authentication(prometheus: Prometheus) -> None:
    query = 'sum by (reason) (rate(reentry_gateway_auth_failures_total{job="reentry-gateway"}[1m])) > 0'
    wait_until(lambda: {each["metric"]["reason"] for each in prometheus.query(query)} != set(), what="a failure")


def test_no_alert_fires_for_a_healthy_gateway(prometheus: Prometheus) -> None:
    wait_until(lambda: prometheus.query("reentry_gateway_database_up == 1") != [], what="the database being up")
    alerts = prometheus.query('ALERTS{alertname=~"ReentryGateway.*",alertname!="ReentryGatewayAuthFailures"}')
    assert alerts == []
    groups = prometheus.get("/api/v1/rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
