"""The monitoring files, checked by the programs that read them and compared with the code and each other."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from client.stream.metrics import exposition
from gateway import metrics
from gateway.jobs.states import ACTIVE
from gateway.settings import GatewaySettings
from pipeline.lake.exporter import LakeCollector
from pipeline.lake.lake import Lake
from pipeline.lake.tables import TABLES
from reentry.triton import live_metrics, telemetry
from reentry.triton.prediction_log import PredictionLog
from tests.contract.manifests import DEPLOYED, K8S, build, every, one, pod, pod_labels, program, server_deployment
from tests.prometheus import MONITORING, scrape_config

DOCS = K8S.parent / "docs"
GROUPS = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
TEST_FILES = sorted(path.name for path in MONITORING.glob("*rules_test.yaml"))
TESTS = [test for name in TEST_FILES for test in yaml.safe_load((MONITORING / name).read_text())["tests"]]


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=MONITORING)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules() -> None:
    run(program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")


def test_alerts_fire_and_stay_silent_as_they_should() -> None:
    run(program("promtool"), "test", "rules", *TEST_FILES)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    cases = [
        bool(case["exp_alerts"]) for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == alert
    ]
    assert set(cases) == {True, False}


@pytest.mark.parametrize(("alert", "rule"), ALERTS.items())
def test_every_alert_has_a_severity_and_an_entry_in_the_runbook(alert: str, rule: dict) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert path.endswith("/docs/runbook.md")
    assert anchor == alert.lower()
    entry = re.search(rf"^## {alert}\n(.*?)(?=^## |\Z)", (DOCS / "runbook.md").read_text(), re.MULTILINE | re.DOTALL)
    assert entry
    assert re.search(r"\*\*Meaning\.\*\*.*\*\*Look( and do)?\.\*\*", entry[1], re.DOTALL)
    assert re.search(r"\*\*(Do|Look and do)\.\*\*", entry[1])


def test_the_runbook_has_no_entry_for_a_removed_alert() -> None:
    assert set(re.findall(r"^## (\w+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_threshold_has_a_reason(alert: str) -> None:
    lines = (MONITORING / "rules.yaml").read_text().splitlines()
    at = lines.index(f"      - alert: {alert}")
    commented = [lines[at + 1].lstrip().startswith("#"), lines[at - 1].lstrip().startswith("#")]
    assert any(commented) or alert == "ReentryErrorBudgetBurnSlow"  # explained with the fast one


def test_generated_files_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(MONITORING)
    for path, text in runpy.run_path(str(MONITORING / "generate.py"))["files"]().items():
        assert path.read_text() == text, f"run: python {path.parent.relative_to(K8S.parent)}/generate.py"


def test_panels_do_not_overlap_and_have_units_and_legends() -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels) == len({panel["title"] for panel in panels})
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])


def test_every_own_metric_is_used_by_a_rule_or_panel() -> None:
    looked_at = (MONITORING / "dashboard.json").read_text() + (MONITORING / "rules.yaml").read_text()
    left_out = {telemetry.DURATION_SUM.name, telemetry.DURATION_COUNT.name}  # a histogram has them
    left_out |= {f"reentry_stream_{latency}_latency_seconds" for latency in ("alert", "update")}  # only their buckets
    names = {family.name for family in (*telemetry.FAMILIES, *live_metrics.FAMILIES)}
    names |= set(re.findall(r"^# TYPE (\w+)", exposition([]), re.MULTILINE))
    assert {name for name in names if not re.search(rf"\b{name}\b", looked_at)} == left_out


def test_rules_and_panels_use_every_metric_that_the_gateway_declares_and_no_other() -> None:
    looked_at = (MONITORING / "dashboard.json").read_text() + (MONITORING / "rules.yaml").read_text()
    families = [
        each for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase) for each in metric.describe()
    ]
    named = set(re.findall(r"\breentry_gateway_\w+(?= *\{)", looked_at))
    samples = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    assert len(families) > 20
    assert named <= {family.name + suffix for family in families for suffix in samples[family.type]}
    assert {family.name + samples[family.type][0] for family in families} <= named


def test_rules_and_panels_use_every_metric_of_the_lake_and_no_other(tmp_path: Path) -> None:
    looked_at = (MONITORING / "dashboard.json").read_text() + (MONITORING / "rules.yaml").read_text()
    lake = Lake(str(tmp_path / "lake"))
    for table in TABLES:
        lake.create(table)
    commit = {
        "hour": "2026-12-01T08",
        "status": "open",
        "rule": "x",
        **dict.fromkeys(("object", "etag", "content"), "x"),
    }
    raw = {**commit, "row": 0, "bucket": 0, "timestamp": 1.0, "track_id": 1, "sensor_id": 1, "key_id": "k"}
    for name, row in (("quarantine", commit), ("raw", raw)):
        schema = TABLES[name].schema
        values = {**dict.fromkeys(schema.names), **{key: value for key, value in row.items() if key in schema.names}}
        lake.commit_once(name, ["x"], lambda _new, _table, v=values, s=schema: pa.Table.from_pylist([v], schema=s))
    declared = {family.name for family in LakeCollector(lake).collect()}
    named = set(re.findall(r"\breentry_lake_\w+(?= *\{)", looked_at))
    assert len(declared) == 7
    assert named == declared


def test_the_alert_of_stuck_jobs_counts_every_state_in_which_a_job_waits() -> None:
    (states,) = re.findall(r'state=~"([a-z|]+)"', ALERTS["ReentryGatewayJobsStuck"]["expr"])
    assert set(states.split("|")) == set(ACTIVE)


def test_amtool_accepts_the_configuration_and_routes_critical_alerts_to_the_pager() -> None:
    amtool, config = program("amtool"), MONITORING / "alertmanager.yaml"
    run(amtool, "check-config", config)

    def receiver(**labels: str) -> str:
        pairs = [f"{name}={value}" for name, value in labels.items()]
        return run(amtool, "config", "routes", "test", f"--config.file={config}", *pairs).strip()

    assert receiver(severity="critical", namespace="reentry") == "pager"
    assert receiver(severity="critical") == "pager"  # ReentryAbsent knows no namespace
    assert receiver(severity="warning", namespace="reentry") == "chat"
    assert receiver(severity="critical", namespace="reentry-staging") == "chat"


def test_alerts_that_alertmanager_names_exist() -> None:
    config = yaml.safe_load((MONITORING / "alertmanager.yaml").read_text())
    for rule in config["inhibit_rules"]:
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            if matcher.startswith("alertname"):
                pattern = re.split("=~|!~|!=|=", matcher, maxsplit=1)[1].strip('"')
                assert any(re.fullmatch(pattern, alert) for alert in ALERTS), matcher


def test_no_key_of_alertmanager_is_in_its_file() -> None:
    text = (MONITORING / "alertmanager.yaml").read_text()
    assert not re.search(r"(routing_key|service_key|api_url|password|token|credentials): ", text)


def test_promtool_accepts_the_scrape_configuration(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yaml").write_text(
        yaml.safe_dump(scrape_config("127.0.0.1:8002", "127.0.0.1:9100", "127.0.0.1:8081"))
    )
    run(program("promtool"), "check", "config", tmp_path / "prometheus.yaml")


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_service_monitor_finds_the_metrics_of_every_pod_once(folder: str) -> None:
    monitor = one("monitoring", "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    found = [service for service in every(folder, "Service") if wanted <= service["metadata"]["labels"].items()]
    (service,) = found
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "reentry"  # what every query asks for as its job
    assert set(monitor["podTargetLabels"]) <= set(pod_labels(folder))


def test_every_namespace_of_the_overlays_is_monitored() -> None:
    deployed = {one(folder, "Namespace")["metadata"]["name"] for folder in DEPLOYED}
    assert set(one("monitoring", "ServiceMonitor")["spec"]["namespaceSelector"]["matchNames"]) == deployed
    pipeline = {one("pipeline/cron", "Namespace")["metadata"]["name"]}
    for monitor in every("monitoring", "PodMonitor"):
        wanted = pipeline if monitor["metadata"]["name"] == "reentry-lake" else deployed
        assert set(monitor["spec"]["namespaceSelector"]["matchNames"]) == wanted
    for job in yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["scrape_configs"]:
        wanted = pipeline if job["job_name"] == "reentry-lake" else deployed
        assert set(job["kubernetes_sd_configs"][0]["namespaces"]["names"]) == wanted


def test_the_pod_monitor_finds_the_metrics_of_feeds() -> None:
    monitor = one("monitoring", "PodMonitor", "reentry-feed")["spec"]
    labels = pod_labels("feeds")
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "reentry-feed"  # the job in every query of a client's metrics
    (endpoint,) = monitor["podMetricsEndpoints"]
    (container,) = pod("feeds")["containers"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}


def test_the_pod_monitor_finds_the_metrics_of_the_lake() -> None:
    monitor = one("monitoring", "PodMonitor", "reentry-lake")["spec"]
    template = one("pipeline/cron", "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "reentry-lake"  # the job in every query of its metrics
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert ports[endpoint["port"]] == container["command"][-1]
    (policy,) = [each for each in every("pipeline/cron", "NetworkPolicy") if each["spec"].get("ingress")]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": endpoint["port"], "protocol": "TCP"}]


@pytest.mark.parametrize("folder", DEPLOYED)
def test_the_pod_monitor_finds_the_metrics_of_gateways_and_their_workers(folder: str) -> None:
    monitor = one("monitoring", "PodMonitor", "reentry-gateway")["spec"]
    pods = [deployment["spec"]["template"] for deployment in every(folder, "Deployment")]
    wanted = monitor["selector"]["matchLabels"].items()
    found = [template for template in pods if wanted <= template["metadata"]["labels"].items()]
    components = [template["metadata"]["labels"]["app.kubernetes.io/component"] for template in found]
    assert sorted(components) == ["gateway", "worker"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for template in found:
        assert template["metadata"]["labels"][monitor["jobLabel"]] == "reentry-gateway"  # the job in every query
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports[endpoint["port"]] == GatewaySettings().metrics_port


def test_the_operator_receives_the_same_rules_and_the_dashboard_has_its_label() -> None:
    assert one("monitoring", "PrometheusRule")["spec"]["groups"] == GROUPS
    board = one("monitoring", "ConfigMap", "reentry-dashboard")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["reentry.json"])["uid"] == "reentry"
    assert {manifest["metadata"]["namespace"] for manifest in build("monitoring")} == {"monitoring"}


def test_the_log_collector_reads_the_servers_containers() -> None:
    fluent_bit = yaml.safe_load((MONITORING / "fluent-bit.yaml").read_text())
    (tail,) = fluent_bit["pipeline"]["inputs"]
    pattern = re.compile(tail["path"].replace(".", r"\.").replace("*", ".*").replace(",", "|"))
    container = server_deployment("overlays/production")["spec"]["template"]["spec"]["containers"][0]["name"]
    for namespace in ("reentry", "reentry-staging"):
        # As the kubelet names them: pod, namespace, container, id.
        assert pattern.fullmatch(f"/var/log/containers/reentry-7d9c-x2x_{namespace}_{container}-0a1b.log")
        assert pattern.fullmatch(f"/var/log/containers/reentry-gateway-7d9c-x2x_{namespace}_gateway-0a1b.log")
        assert pattern.fullmatch(f"/var/log/containers/reentry-gateway-worker-7d9c-x2x_{namespace}_worker-0a1b.log")
    assert not pattern.fullmatch("/var/log/containers/grafana-7d9c-x2x_monitoring_grafana-0a1b.log")
    assert not pattern.fullmatch("/var/log/containers/reentry-redis-0_reentry_redis-0a1b.log")


def test_log_lines_of_triton_are_parsed_and_prediction_lines_are_unchanged(tmp_path: Path) -> None:
    (parser,) = yaml.safe_load((MONITORING / "parsers.yaml").read_text())["parsers"]
    expression = re.compile(parser["regex"].replace("(?<", "(?P<"))
    parsed = expression.match("I1120 18:03:46.951774 20068 model_lifecycle.cc:839] \"successfully loaded 'reentry'\"")
    assert parsed
    assert parsed.groupdict() == {
        "level": "I",
        "source": "model_lifecycle.cc:839",
        "message": "successfully loaded 'reentry'",
    }
    log = PredictionLog.open(tmp_path / "log")
    one_track = np.array([1])
    log.add(
        track_id=one_track,
        rows=one_track,
        onset_step=one_track,
        onset_timestamp=np.array([datetime.now(UTC).timestamp()]),
        model_version=one_track,
        started_at=np.array([0.0]),
    )
    log.close()
    line = (tmp_path / "log").read_text().strip()
    assert json.loads(line)["track_id"] == 1
    assert not expression.match(line)
