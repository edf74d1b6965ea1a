"""Writes what other programs want in their own form: the Grafana dashboard, and the rules for the Prometheus operator.

    python k8s/monitoring/generate.py

A test holds the written files against this one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
_WIDTH, _HEIGHT, _ACROSS = 8, 8, 3

_OF = 'job="reentry",namespace=~"$namespace"'
_RATE = "[$__rate_interval]"
_POD = 'namespace=~"$namespace",container="triton"'
_DURATION = f"sum by (le) (rate(reentry_inference_duration_seconds_bucket{{{_OF}}}{_RATE}))"
# Twice counted, see rules.yaml.
_FAILED = f'0.5 * sum(rate(nv_inference_request_failure{{{_OF},model="reentry",reason!="CANCELED"}}{_RATE}))'
_LSTM = f'{_OF},model="reentry_lstm"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A graph over time."""

    title: str
    unit: str
    """Grafana's name of it."""
    queries: dict[str, str]
    """PromQL by legend."""
    note: str = ""
    threshold: float | None = None
    """Where an alert begins."""


PANELS: Final = (
    Panel(
        title="Requests",
        unit="reqps",
        queries={"{{outcome}}": f"sum by (outcome) (rate(reentry_requests_total{{{_OF}}}{_RATE}))"},
        note="Refused: for what was in them, the client's fault.",
    ),
    Panel(
        title="Tracks by model version",
        unit="cps",
        queries={"version {{model_version}}": f"sum by (model_version) (rate(reentry_tracks_total{{{_OF}}}{_RATE}))"},
        note="Two versions at once: a canary, or a rollout on its way.",
    ),
    Panel(
        title="Lost requests",
        unit="percentunit",
        queries={
            "lost": f'clamp_min({_FAILED} - sum(rate(reentry_requests_total{{{_OF},outcome="refused"}}{_RATE})), 0) / '
            f'({_FAILED} + sum(rate(nv_inference_request_success{{{_OF},model="reentry"}}{_RATE})))'
        },
        note="Rejected by a full queue, timed out or broken inside. The budget is 0.1 % over 30 days.",
        threshold=0.05,
    ),
    Panel(
        title="Time from features to answer",
        unit="s",
        queries={f"p{percent}": f"histogram_quantile({percent / 100:g}, {_DURATION})" for percent in (50, 95, 99)},
        note="Of a request, inside the server; the wait before the features is the queue of track_features.",
        threshold=0.25,
    ),
    Panel(
        title="Waiting requests",
        unit="short",
        queries={
            "{{model}}": f'sum by (model) (nv_inference_pending_request_count{{{_OF},model!="reentry"}})',
        },
        note="Of all pods. The autoscaler aims at 32 a pod.",
    ),
    Panel(
        title="Time in queue",
        unit="s",
        queries={
            "{{model}}": f'sum by (model) (rate(nv_inference_queue_duration_us{{{_OF},model!="reentry"}}{_RATE})) '
            f'/ 1e6 / sum by (model) (rate(nv_inference_request_success{{{_OF},model!="reentry"}}{_RATE}))'
        },
        note="Mean of a request.",
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
        note="The first above the second: requests share runs.",
    ),
    Panel(
        title="Predictions by phase",
        unit="cps",
        queries={"{{phase}}": f"sum by (phase) (rate(reentry_predictions_total{{{_OF}}}{_RATE}))"},
        note="Steps.",
    ),
    Panel(
        title="Share of steps in reentry",
        unit="percentunit",
        queries={
            "served": f'sum(rate(reentry_predictions_total{{{_OF},phase="reentry"}}{_RATE})) / '
            f"sum(rate(reentry_predictions_total{{{_OF}}}{_RATE}))",
            "training": f"max(reentry_training_reentry_ratio{{{_OF}}})",
        },
    ),
    Panel(
        title="Onsets of tracks",
        unit="percentunit",
        queries={
            "with an onset": f"sum(rate(reentry_onsets_total{{{_OF}}}{_RATE})) / "
            f"sum(rate(reentry_tracks_total{{{_OF}}}{_RATE}))"
        },
    ),
    Panel(
        title="Drift",
        unit="short",
        queries={"{{feature}}": f"avg by (feature) (reentry_feature_psi{{{_OF}}})"},
        note="Population stability index of the last few hundred tracks against the training of their model version.",
        threshold=0.25,
    ),
    Panel(
        title="Outside the training range",
        unit="percentunit",
        queries={
            "{{feature}}": f"sum by (feature) (rate(reentry_out_of_range_steps_total{{{_OF}}}{_RATE})) / on () "
            f"group_left () sum(rate(reentry_checked_steps_total{{{_OF}}}{_RATE}))"
        },
        threshold=0.05,
    ),
    Panel(
        title="CPU of the nodes",
        unit="percentunit",
        queries={"{{pod}}": f"nv_cpu_utilization{{{_OF}}}"},
        note="As Triton sees it: of the whole machine.",
    ),
    Panel(
        title="Memory of the nodes",
        unit="bytes",
        queries={"{{pod}}": f"nv_cpu_memory_used_bytes{{{_OF}}}"},
        note="As Triton sees it: of the whole machine.",
    ),
    Panel(
        title="CPU of the pods",
        unit="short",
        queries={"{{pod}}": f"sum by (pod) (rate(container_cpu_usage_seconds_total{{{_POD}}}{_RATE}))"},
        note="Cores; from cAdvisor.",
    ),
    Panel(
        title="Memory of the pods",
        unit="bytes",
        queries={
            "{{pod}}": f"sum by (pod) (container_memory_working_set_bytes{{{_POD}}})",
            "limit": f'max(kube_pod_container_resource_limits{{{_POD},resource="memory"}})',
        },
        note="From cAdvisor and kube-state-metrics.",
    ),
    Panel(
        title="Restarts",
        unit="short",
        queries={"{{pod}}": f"sum by (pod) (increase(kube_pod_container_status_restarts_total{{{_POD}}}[1h]))"},
        note="In an hour; from kube-state-metrics.",
    ),
    Panel(
        title="Servers that answer",
        unit="short",
        queries={"up": f"sum(up{{{_OF}}})", "known": f"count(up{{{_OF}}})"},
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
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
    """rules.yaml as the operator takes it."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "reentry", "labels": {"app.kubernetes.io/name": "reentry"}},
        "spec": yaml.safe_load((FOLDER / "rules.yaml").read_text()),
    }


def files() -> dict[Path, str]:
    """What is written, by its path."""
    rule = yaml.safe_dump(prometheus_rule(), sort_keys=False, width=110)
    return {
        FOLDER / "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
        FOLDER / "prometheusrule.yaml": "# Written by generate.py from rules.yaml.\n# yamllint disable\n" + rule,
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
