"""Generates the Grafana dashboard, and the rules in the format of the Prometheus operator.

    python k8s/monitoring/generate.py

A test checks that the generated files are up to date.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
# The clients of live feeds, `reentry stream --metrics-port`.
_FEED = 'job="reentry-feed",namespace=~"$namespace"'
_STREAM = f'{_JOB},model="reentry_stream"'


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


def _quantiles(latency: str) -> dict[str, str]:
    buckets = f"sum by (le) (rate(reentry_stream_{latency}_latency_seconds_bucket{{{_FEED}}}{_RATE}))"
    return {f"p{percent}": f"histogram_quantile({percent / 100:g}, {buckets})" for percent in (50, 99)}


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

LIVE_PANELS: Final = (
    Panel(
        title="Live tracks by feed",
        unit="short",
        queries={
            "feed {{feed}}": f"sum by (feed) (reentry_stream_live_tracks{{{_FEED}}})",
            "{{pod}}, scans": f"sum by (pod) (reentry_live_tracks{{{_JOB}}})",
        },
        note="Limits: 20,000 tracks in a feed of reentry_scan, and 4,096 of reentry_stream in a server. Servers do not "
        "count the tracks of reentry_stream.",
    ),
    Panel(
        title="Live feeds",
        unit="short",
        queries={"{{pod}}": f"sum by (pod) (reentry_live_feeds{{{_JOB}}})"},
        note="Feeds of reentry_scan. An instance holds 64.",
    ),
    Panel(
        title="Measurements of live tracks",
        unit="cps",
        queries={
            "feed {{feed}}": f"sum by (feed) (rate(reentry_stream_updates_total{{{_FEED}}}{_RATE}))",
            "reentry_scan": f"sum(rate(reentry_scan_measurements_total{{{_JOB}}}{_RATE}))",
            "reentry_stream": f"sum(rate(nv_inference_request_success{{{_STREAM}}}{_RATE}))",
        },
        note="Replays count at the servers, not at the feeds.",
    ),
    Panel(
        title="Time to an alert",
        unit="s",
        queries=_quantiles("alert"),
        note="Time from handing the measurement of an onset to the feed until its alert, outages and replays included.",
        threshold=1.0,
    ),
    Panel(
        title="Time to an answer",
        unit="s",
        queries=_quantiles("update"),
        note="Time from handing a measurement to the feed until its answer.",
        threshold=1.0,
    ),
    Panel(
        title="Alerts",
        unit="cps",
        queries={
            "feed {{feed}}": f"sum by (feed) (rate(reentry_stream_alerts_total{{{_FEED}}}{_RATE}))",
            "reentry_scan": f"sum(rate(reentry_live_onsets_total{{{_JOB}}}{_RATE}))",
        },
        note="Onsets of reentry. A replay finds an onset again at the server, but the feed gives its alert once.",
    ),
    Panel(
        title="Replayed tracks",
        unit="cps",
        queries={
            "{{reason}}": f"sum by (reason) (rate(reentry_stream_replays_total{{{_FEED}}}{_RATE}))",
            "without their beginning": f"sum(rate(reentry_stream_truncated_replays_total{{{_FEED}}}{_RATE}))",
        },
        note="A rollout, a promotion, or the loss of a pod replays its feeds. If tracks are replayed without their "
        "beginning, the buffer of their feed is too small.",
    ),
    Panel(
        title="Replayed measurements",
        unit="cps",
        queries={
            "feed {{feed}}": f"sum by (feed) (rate(reentry_stream_replayed_measurements_total{{{_FEED}}}{_RATE}))",
        },
    ),
    Panel(
        title="Live tracks that began and expired",
        unit="cps",
        queries={
            "began": f"sum(rate(reentry_live_tracks_started_total{{{_JOB}}}{_RATE}))",
            "expired": f"sum(rate(reentry_live_tracks_expired_total{{{_JOB}}}{_RATE}))",
        },
        note="Tracks of reentry_scan. A track expires after 60 s without a measurement, which is how most tracks end.",
    ),
    Panel(
        title="Lost feeds",
        unit="cps",
        queries={"{{pod}}": f"sum by (pod) (rate(reentry_live_feeds_lost_total{{{_JOB}}}{_RATE}))"},
        note="Scans that reentry_scan refuses because it has lost their feed: another version of the network, or a "
        "failure.",
    ),
    Panel(
        title="Rejected measurements",
        unit="percentunit",
        queries={
            "feed {{feed}}, {{reason}}": "sum by (feed, reason) "
            f"(rate(reentry_stream_rejected_total{{{_FEED}}}{_RATE})) "
            f"/ on (feed) group_left () sum by (feed) (rate(reentry_stream_updates_total{{{_FEED}}}{_RATE}))",
            "reentry_scan": f'sum(rate(reentry_scan_measurements_total{{{_JOB},outcome="rejected"}}{_RATE})) / '
            f"sum(rate(reentry_scan_measurements_total{{{_JOB}}}{_RATE}))",
        },
        note="Invalid, late and repeated measurements, and those of tracks that the server refuses or has no slot for.",
        threshold=0.1,
    ),
    Panel(
        title="Failed requests of live tracks",
        unit="percentunit",
        queries={
            "reentry_scan": f'sum(rate(reentry_scans_total{{{_JOB},outcome="refused"}}{_RATE})) / '
            f"sum(rate(reentry_scans_total{{{_JOB}}}{_RATE}))",
            "reentry_stream": f'sum(rate(nv_inference_request_failure{{{_STREAM},reason!="CANCELED"}}{_RATE})) / '
            f'(sum(rate(nv_inference_request_failure{{{_STREAM},reason!="CANCELED"}}{_RATE})) + '
            f"sum(rate(nv_inference_request_success{{{_STREAM}}}{_RATE})))",
        },
        threshold=0.05,
    ),
)


def dashboard() -> dict[str, Any]:
    """Build the dashboard in the format that Grafana imports."""
    below = -(-len(PANELS) // _ACROSS) * _HEIGHT
    live = _panels(LIVE_PANELS, len(PANELS) + 2, below + 1)
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
        "panels": [*_panels(PANELS, 1, 0), _row("Live tracks", len(PANELS) + 1, below), *live],
    }


def _row(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": _ACROSS * _WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place}


def _panels(panels: Sequence[Panel], number: int, y: int) -> list[dict[str, Any]]:
    """Place panels below the line y, and number them."""
    return [
        _panel(panel, number + index, index % _ACROSS * _WIDTH, y + index // _ACROSS * _HEIGHT)
        for index, panel in enumerate(panels)
    ]


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.threshold is not None:
        steps.append({"color": "red", "value": panel.threshold})
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": _datasource(),
        "gridPos": {
            "x": x,
            "y": y,
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
