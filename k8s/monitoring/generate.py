"""Generates the Grafana dashboard, and the rules in the format of the Prometheus operator.

    python k8s/monitoring/generate.py

A test checks that the generated files are up to date.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
_WIDTH, _HEIGHT, _ACROSS = 8, 8, 3

_JOB = 'job="reentry",namespace=~"$namespace"'
_RATE = "[$__rate_interval]"
_POD = 'namespace=~"$namespace",container="triton"'
_DURATION = f"sum by (le) (rate(reentry_inference_duration_seconds_bucket{{{_JOB}}}{_RATE}))"
_ENSEMBLES = "reentry|reentry_fast"
_ENSEMBLE = f'{_JOB},model=~"{_ENSEMBLES}"'
_MEMBER = f'{_JOB},model!~"{_ENSEMBLES}"'
# Triton counts each failure twice, see rules.yaml.
_FAILED = f'0.5 * sum(rate(nv_inference_request_failure{{{_ENSEMBLE},reason!="CANCELED"}}{_RATE}))'
_LSTM = f'{_JOB},model="reentry_lstm"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A time series panel of the dashboard."""

    title: str
    unit: str
    """Unit of the values, as Grafana names it."""
    queries: dict[str, str]
    """PromQL queries by legend."""
    note: str = ""
    """Description that Grafana shows."""
    threshold: float | None = None
    """Value above which an alert fires."""


PANELS: Final = (
    Panel(
        title="Requests",
        unit="reqps",
        queries={"{{outcome}}": f"sum by (outcome) (rate(reentry_requests_total{{{_JOB}}}{_RATE}))"},
        note="Refused requests are invalid: the fault is the client's.",
    ),
    Panel(
        title="Tracks by model version",
        unit="cps",
        queries={"version {{model_version}}": f"sum by (model_version) (rate(reentry_tracks_total{{{_JOB}}}{_RATE}))"},
        note="Two versions at the same time indicate a canary or a rollout in progress.",
    ),
    Panel(
        title="Lost requests",
        unit="percentunit",
        queries={
            "lost": f'clamp_min({_FAILED} - sum(rate(reentry_requests_total{{{_JOB},outcome="refused"}}{_RATE})), 0) / '
            f"({_FAILED} + sum(rate(nv_inference_request_success{{{_ENSEMBLE}}}{_RATE})))"
        },
        note="Requests that timed out, failed, or were rejected by a full queue. The budget is 0.1 % over 30 days.",
        threshold=0.05,
    ),
    Panel(
        title="Time from features to answer",
        unit="s",
        queries={f"p{percent}": f"histogram_quantile({percent / 100:g}, {_DURATION})" for percent in (50, 95, 99)},
        note="Time of a request to reentry inside the server, without its time in the queue of track_features.",
        threshold=0.25,
    ),
    Panel(
        title="Mean time of a request",
        unit="s",
        queries={
            "{{model}}": f"sum by (model) (rate(nv_inference_request_duration_us{{{_ENSEMBLE}}}{_RATE})) "
            f"/ 1e6 / sum by (model) (rate(nv_inference_request_success{{{_ENSEMBLE}}}{_RATE}))"
        },
        note="Time of a request to each ensemble inside the server, queues included.",
    ),
    Panel(
        title="Waiting requests",
        unit="short",
        queries={
            "{{model}}": f"sum by (model) (nv_inference_pending_request_count{{{_MEMBER}}})",
        },
        note="Total over all pods. The autoscaler targets 8 requests per pod.",
    ),
    Panel(
        title="Time in queue",
        unit="s",
        queries={
            "{{model}}": f"sum by (model) (rate(nv_inference_queue_duration_us{{{_MEMBER}}}{_RATE})) "
            f"/ 1e6 / sum by (model) (rate(nv_inference_request_success{{{_MEMBER}}}{_RATE}))"
        },
        note="Mean time per request.",
    ),
    Panel(
        title="Batch size of the network",
        unit="short",
        queries={
            "tracks a run": f"sum(rate(nv_inference_count{{{_LSTM}}}{_RATE})) / "
            f"sum(rate(nv_inference_exec_count{{{_LSTM}}}{_RATE}))",
            "tracks a request": f"sum(rate(nv_inference_count{{{_LSTM}}}{_RATE})) / "
            f"sum(rate(nv_inference_request_success{{{_LSTM}}}{_RATE}))",
        },
        note="Requests share inference runs if there are more tracks per run than per request.",
    ),
    Panel(
        title="Predictions by phase",
        unit="cps",
        queries={"{{phase}}": f"sum by (phase) (rate(reentry_predictions_total{{{_JOB}}}{_RATE}))"},
        note="Scored steps per second.",
    ),
    Panel(
        title="Share of steps in reentry",
        unit="percentunit",
        queries={
            "served": f'sum(rate(reentry_predictions_total{{{_JOB},phase="reentry"}}{_RATE})) / '
            f"sum(rate(reentry_predictions_total{{{_JOB}}}{_RATE}))",
            "training": f"max(reentry_training_reentry_ratio{{{_JOB}}})",
        },
    ),
    Panel(
        title="Onsets of tracks",
        unit="percentunit",
        queries={
            "with an onset": f"sum(rate(reentry_onsets_total{{{_JOB}}}{_RATE})) / "
            f"sum(rate(reentry_tracks_total{{{_JOB}}}{_RATE}))"
        },
    ),
    Panel(
        title="Drift",
        unit="short",
        queries={"{{feature}}": f"avg by (feature) (reentry_feature_psi{{{_JOB}}})"},
        note="Population stability index of the last few hundred tracks against the training of their model version.",
        threshold=0.25,
    ),
    Panel(
        title="Outside the training range",
        unit="percentunit",
        queries={
            "{{feature}}": f"sum by (feature) (rate(reentry_out_of_range_steps_total{{{_JOB}}}{_RATE})) / on () "
            f"group_left () sum(rate(reentry_checked_steps_total{{{_JOB}}}{_RATE}))"
        },
        threshold=0.05,
    ),
    Panel(
        title="CPU of the nodes",
        unit="percentunit",
        queries={"{{pod}}": f"nv_cpu_utilization{{{_JOB}}}"},
        note="CPU utilization of the whole machine, as reported by Triton.",
    ),
    Panel(
        title="Memory of the nodes",
        unit="bytes",
        queries={"{{pod}}": f"nv_cpu_memory_used_bytes{{{_JOB}}}"},
        note="Memory use of the whole machine, as reported by Triton.",
    ),
    Panel(
        title="CPU of the pods",
        unit="short",
        queries={"{{pod}}": f"sum by (pod) (rate(container_cpu_usage_seconds_total{{{_POD}}}{_RATE}))"},
        note="CPU use in cores, as reported by cAdvisor.",
    ),
    Panel(
        title="Memory of the pods",
        unit="bytes",
        queries={
            "{{pod}}": f"sum by (pod) (container_memory_working_set_bytes{{{_POD}}})",
            "limit": f'max(kube_pod_container_resource_limits{{{_POD},resource="memory"}})',
        },
        note="Memory use and limit, as reported by cAdvisor and kube-state-metrics.",
    ),
    Panel(
        title="Restarts",
        unit="short",
        queries={"{{pod}}": f"sum by (pod) (increase(kube_pod_container_status_restarts_total{{{_POD}}}[1h]))"},
        note="Number of restarts in an hour, as reported by kube-state-metrics.",
    ),
    Panel(
        title="Servers that answer",
        unit="short",
        queries={"up": f"sum(up{{{_JOB}}})", "known": f"count(up{{{_JOB}}})"},
    ),
)


def dashboard() -> dict[str, Any]:
    """Build the dashboard in the format that Grafana imports."""
    return {
        "uid": "reentry",
        "title": "reentry",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "namespace",
                    "type": "query",
                    "datasource": _datasource(),
                    "query": 'label_values(up{job="reentry"}, namespace)',
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                    "refresh": 2,
                },
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.threshold is not None:
        steps.append({"color": "red", "value": panel.threshold})
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": _datasource(),
        "gridPos": {
            "x": number % _ACROSS * _WIDTH,
            "y": number // _ACROSS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": "off" if panel.threshold is None else "line"}},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend, "datasource": _datasource()}
            for index, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def _datasource() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def prometheus_rule() -> dict[str, Any]:
    """Build the PrometheusRule of the operator from rules.yaml."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "reentry", "labels": {"app.kubernetes.io/name": "reentry"}},
        "spec": yaml.safe_load((FOLDER / "rules.yaml").read_text()),
    }


def files() -> dict[Path, str]:
    """Contents of the generated files by path."""
    rule = yaml.safe_dump(prometheus_rule(), sort_keys=False, width=110)
    return {
        FOLDER / "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
        FOLDER / "prometheusrule.yaml": "# Written by generate.py from rules.yaml.\n# yamllint disable\n" + rule,
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
