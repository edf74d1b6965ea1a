"""Panels of the servers and of their live tracks."""

from __future__ import annotations

from typing import Final

from panel import RATE, Panel

_JOB = 'job="reentry",namespace=~"$namespace"'
_POD = 'namespace=~"$namespace",container="triton"'
_DURATION = f"sum by (le) (rate(reentry_inference_duration_seconds_bucket{{{_JOB}}}{RATE}))"
_ENSEMBLES = "reentry|reentry_fast"
_ENSEMBLE = f'{_JOB},model=~"{_ENSEMBLES}"'
_MEMBER = f'{_JOB},model!~"{_ENSEMBLES}"'
# Triton counts each failure twice, see rules.yaml.
_FAILED = f'0.5 * sum(rate(nv_inference_request_failure{{{_ENSEMBLE},reason!="CANCELED"}}{RATE}))'
_LSTM = f'{_JOB},model="reentry_lstm"'
# The clients of live feeds, `reentry stream --metrics-port`.
_FEED = 'job="reentry-feed",namespace=~"$namespace"'
_STREAM = f'{_JOB},model="reentry_stream"'


def _quantiles(latency: str) -> dict[str, str]:
    buckets = f"sum by (le) (rate(reentry_stream_{latency}_latency_seconds_bucket{{{_FEED}}}{RATE}))"
    return {f"p{percent}": f"histogram_quantile({percent / 100:g}, {buckets})" for percent in (50, 99)}


PANELS: Final = (
    Panel(
        title="Requests",
        unit="reqps",
        queries={"{{outcome}}": f"sum by (outcome) (rate(reentry_requests_total{{{_JOB}}}{RATE}))"},
        note="Refused requests are invalid: the fault is the client's.",
    ),
    Panel(
        title="Tracks by model version",
        unit="cps",
        queries={"version {{model_version}}": f"sum by (model_version) (rate(reentry_tracks_total{{{_JOB}}}{RATE}))"},
        note="Two versions at the same time indicate a canary or a rollout in progress.",
    ),
    Panel(
        title="Lost requests",
        unit="percentunit",
        queries={
            "lost": f'clamp_min({_FAILED} - sum(rate(reentry_requests_total{{{_JOB},outcome="refused"}}{RATE})), 0) / '
            f"({_FAILED} + sum(rate(nv_inference_request_success{{{_ENSEMBLE}}}{RATE})))"
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
            "{{model}}": f"sum by (model) (rate(nv_inference_request_duration_us{{{_ENSEMBLE}}}{RATE})) "
            f"/ 1e6 / sum by (model) (rate(nv_inference_request_success{{{_ENSEMBLE}}}{RATE}))"
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
            "{{model}}": f"sum by (model) (rate(nv_inference_queue_duration_us{{{_MEMBER}}}{RATE})) "
            f"/ 1e6 / sum by (model) (rate(nv_inference_request_success{{{_MEMBER}}}{RATE}))"
        },
        note="Mean time per request.",
    ),
    Panel(
        title="Batch size of the network",
        unit="short",
        queries={
            "tracks a run": f"sum(rate(nv_inference_count{{{_LSTM}}}{RATE})) / "
            f"sum(rate(nv_inference_exec_count{{{_LSTM}}}{RATE}))",
            "tracks a request": f"sum(rate(nv_inference_count{{{_LSTM}}}{RATE})) / "
            f"sum(rate(nv_inference_request_success{{{_LSTM}}}{RATE}))",
        },
        note="Requests share inference runs if there are more tracks per run than per request.",
    ),
    Panel(
        title="Predictions by phase",
        unit="cps",
        queries={"{{phase}}": f"sum by (phase) (rate(reentry_predictions_total{{{_JOB}}}{RATE}))"},
        note="Scored steps per second.",
    ),
    Panel(
        title="Share of steps in reentry",
        unit="percentunit",
        queries={
            "served": f'sum(rate(reentry_predictions_total{{{_JOB},phase="reentry"}}{RATE})) / '
            f"sum(rate(reentry_predictions_total{{{_JOB}}}{RATE}))",
            "training": f"max(reentry_training_reentry_ratio{{{_JOB}}})",
        },
    ),
    Panel(
        title="Onsets of tracks",
        unit="percentunit",
        queries={
            "with an onset": f"sum(rate(reentry_onsets_total{{{_JOB}}}{RATE})) / "
            f"sum(rate(reentry_tracks_total{{{_JOB}}}{RATE}))"
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
            "{{feature}}": f"sum by (feature) (rate(reentry_out_of_range_steps_total{{{_JOB}}}{RATE})) / on () "
            f"group_left () sum(rate(reentry_checked_steps_total{{{_JOB}}}{RATE}))"
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
        queries={"{{pod}}": f"sum by (pod) (rate(container_cpu_usage_seconds_total{{{_POD}}}{RATE}))"},
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
            "feed {{feed}}": f"sum by (feed) (rate(reentry_stream_updates_total{{{_FEED}}}{RATE}))",
            "reentry_scan": f"sum(rate(reentry_scan_measurements_total{{{_JOB}}}{RATE}))",
            "reentry_stream": f"sum(rate(nv_inference_request_success{{{_STREAM}}}{RATE}))",
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
            "feed {{feed}}": f"sum by (feed) (rate(reentry_stream_alerts_total{{{_FEED}}}{RATE}))",
            "reentry_scan": f"sum(rate(reentry_live_onsets_total{{{_JOB}}}{RATE}))",
        },
        note="Onsets of reentry. A replay finds an onset again at the server, but the feed gives its alert once.",
    ),
    Panel(
        title="Replayed tracks",
        unit="cps",
        queries={
            "{{reason}}": f"sum by (reason) (rate(reentry_stream_replays_total{{{_FEED}}}{RATE}))",
            "without their beginning": f"sum(rate(reentry_stream_truncated_replays_total{{{_FEED}}}{RATE}))",
        },
        note="A rollout, a promotion, or the loss of a pod replays its feeds. If tracks are replayed without their "
        "beginning, the buffer of their feed is too small.",
    ),
    Panel(
        title="Replayed measurements",
        unit="cps",
        queries={
            "feed {{feed}}": f"sum by (feed) (rate(reentry_stream_replayed_measurements_total{{{_FEED}}}{RATE}))",
        },
    ),
    Panel(
        title="Live tracks that began and expired",
        unit="cps",
        queries={
            "began": f"sum(rate(reentry_live_tracks_started_total{{{_JOB}}}{RATE}))",
            "expired": f"sum(rate(reentry_live_tracks_expired_total{{{_JOB}}}{RATE}))",
        },
        note="Tracks of reentry_scan. A track expires after 60 s without a measurement, which is how most tracks end.",
    ),
    Panel(
        title="Lost feeds",
        unit="cps",
        queries={"{{pod}}": f"sum by (pod) (rate(reentry_live_feeds_lost_total{{{_JOB}}}{RATE}))"},
        note="Scans that reentry_scan refuses because it has lost their feed: another version of the network, or a "
        "failure.",
    ),
    Panel(
        title="Rejected measurements",
        unit="percentunit",
        queries={
            "feed {{feed}}, {{reason}}": "sum by (feed, reason) "
            f"(rate(reentry_stream_rejected_total{{{_FEED}}}{RATE})) "
            f"/ on (feed) group_left () sum by (feed) (rate(reentry_stream_updates_total{{{_FEED}}}{RATE}))",
            "reentry_scan": f'sum(rate(reentry_scan_measurements_total{{{_JOB},outcome="rejected"}}{RATE})) / '
            f"sum(rate(reentry_scan_measurements_total{{{_JOB}}}{RATE}))",
        },
        note="Invalid, late and repeated measurements, and those of tracks that the server refuses or has no slot for.",
        threshold=0.1,
    ),
    Panel(
        title="Failed requests of live tracks",
        unit="percentunit",
        queries={
            "reentry_scan": f'sum(rate(reentry_scans_total{{{_JOB},outcome="refused"}}{RATE})) / '
            f"sum(rate(reentry_scans_total{{{_JOB}}}{RATE}))",
            "reentry_stream": f'sum(rate(nv_inference_request_failure{{{_STREAM},reason!="CANCELED"}}{RATE})) / '
            f'(sum(rate(nv_inference_request_failure{{{_STREAM},reason!="CANCELED"}}{RATE})) + '
            f"sum(rate(nv_inference_request_success{{{_STREAM}}}{RATE})))",
        },
        threshold=0.05,
    ),
)
