"""A real Prometheus that scrapes a server, with the scrape configuration and the rules of k8s/monitoring."""

from __future__ import annotations

import json
import signal
import socket
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

MONITORING = K8S / "monitoring"


def scrape_config(server: str, feed: str) -> dict[str, Any]:
    """Return prometheus.yaml with the pods of a server and of a feed as static targets.

    They replace the discovery by Kubernetes, which finds two ports of the server's pod.
    """
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    pods = [_pod(server, "reentry", "metrics"), _pod("127.0.0.1:1", "reentry", "http")]
    pods.append(_pod(feed, "reentry-feed", "metrics"))
    for job in config["scrape_configs"]:
        del job["kubernetes_sd_configs"]  # Debian's Prometheus does not support it
        job["static_configs"] = pods
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / "rules.yaml")]
    del config["alerting"]
    return config


def _pod(address: str, name: str, port: str) -> dict[str, Any]:
    found = {
        "__meta_kubernetes_namespace": "reentry",
        "__meta_kubernetes_pod_name": f"{name}-0",
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": name,
        "__meta_kubernetes_pod_container_port_name": port,
    }
    if name == "reentry":
        found["__meta_kubernetes_pod_label_release"] = "stable"
    return {"targets": [address], "labels": found}


class Prometheus:
    """A client of a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current series of an expression."""
        return self.get("/api/v1/query", query=expression)["result"]


@contextmanager
def running_prometheus(server: str, feed: str, folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes a server and a feed, host:port each, every second, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(scrape_config(server, feed)))
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30.0
        while not _is_ready(address):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "Prometheus is not ready within 30 s"
            time.sleep(0.05)
        yield Prometheus(f"http://{address}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
