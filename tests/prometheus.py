"""A real Prometheus with the scrape configuration and the rules of k8s/monitoring."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.contract.manifests import K8S, program
from tests.gateway_servers import free_port

MONITORING = K8S / "monitoring"


def scrape_config(
    server: str | None,
    feed: str | None,
    gateway: str | None = None,
    lake: str | None = None,
    canary: str | None = None,
) -> dict[str, Any]:
    """Return prometheus.yaml with the pods of a server, a feed, a gateway, an exporter and a canary as static targets.

    They replace the discovery by Kubernetes, which finds two ports of the pods of a server and of a gateway.
    """
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    pods = []
    named = ((server, "reentry"), (feed, "reentry-feed"), (gateway, "reentry-gateway"), (lake, "reentry-lake"))
    for address, name in named:
        if address is not None:
            pods += [_pod(address, name, "metrics"), _pod("127.0.0.1:1", name, "http")]
    if canary is not None:
        pods.append(_pod(canary, "reentry", "metrics", release="canary"))
    for job in config["scrape_configs"]:
        del job["kubernetes_sd_configs"]  # Debian's Prometheus does not support it
        job["static_configs"] = pods
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / "rules.yaml")]
    del config["alerting"]
    return config


def _pod(address: str, name: str, port: str, release: str = "stable") -> dict[str, Any]:
    found = {
        "__meta_kubernetes_namespace": "reentry",
        "__meta_kubernetes_pod_name": f"{name}-0",
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": name,
        "__meta_kubernetes_pod_container_port_name": port,
    }
    if name == "reentry":
        found["__meta_kubernetes_pod_label_release"] = release
    if name == "reentry-gateway":
        found["__meta_kubernetes_pod_label_app_kubernetes_io_component"] = "gateway"
    return {"targets": [address], "labels": found}


def dashboard_queries() -> list[str]:
    """Return the queries of all panels."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def rule_queries() -> list[str]:
    """Return the expressions of all recording rules and alerts."""
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def of_gateway(query: str) -> bool:
    """Whether a query uses the metrics of the gateway and not those of the servers."""
    return 'job="reentry-gateway"' in query or "reentry_gateway:" in query


def of_lake(query: str) -> bool:
    """Whether a query uses the metrics of the data pipeline."""
    return 'job="reentry-lake"' in query


def concrete(query: str) -> str:
    """Return a query with the variables of the dashboard replaced, as Grafana does."""
    return query.replace("$namespace", ".*").replace("$__rate_interval", "10s")


def selectors(query: str) -> set[str]:
    """Return the metrics in a query, with their label selectors."""
    recorded = re.findall(r"reentry(?:_gateway)?:[\w:]+(?![\w:{])", query)
    return {*re.findall(r"[a-zA-Z_:][\w:]*\{[^}]*\}", query), *recorded}


class Prometheus:
    """A client of a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=60) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current series of an expression."""
        return self.get("/api/v1/query", query=expression)["result"]


@contextmanager
def running_prometheus(
    folder: Path,
    *,
    server: str | None = None,
    feed: str | None = None,
    gateway: str | None = None,
    lake: str | None = None,
    canary: str | None = None,
) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the given targets, host:port each, every second, until the block ends."""
    address = f"127.0.0.1:{free_port()}"
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(scrape_config(server, feed, gateway, lake, canary)))
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120.0
        while not _is_ready(address):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "Prometheus is not ready within 120 s"
            time.sleep(0.05)
        yield Prometheus(f"http://{address}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=30) as answer:
            return answer.status == 200
    except OSError:
        return False
