"""Panels of the gateways and their workers."""

from __future__ import annotations

from typing import Final

from panel import RATE, Panel

_GATEWAY = 'job="reentry-gateway",namespace=~"$namespace"'
_REQUESTS = f'{_GATEWAY},route!~"/health/.*"'
_SCORE = 'route=~".*/tracks:score|/v2/.*/infer"'


def _quantiles(metric: str, labels: str = _GATEWAY) -> dict[str, str]:
    buckets = f"sum by (le) (rate(reentry_gateway_{metric}_bucket{{{labels}}}{RATE}))"
    return {f"p{percent}": f"histogram_quantile({percent / 100:g}, {buckets})" for percent in (50, 95, 99)}


def _rate_by(label: str, metric: str) -> dict[str, str]:
    """Return the rate of a counter of the gateway by one of its labels."""
    legend = f"{{{{{label}}}}}"
    return {legend: f"sum by ({label}) (rate(reentry_gateway_{metric}_total{{{_GATEWAY}}}{RATE}))"}


def _rate(metric: str) -> str:
    """Return the rate of a counter of the gateway."""
    return f"sum(rate(reentry_gateway_{metric}_total{{{_GATEWAY}}}{RATE}))"


REQUEST_PANELS: Final = (
    Panel(
        title="Requests to the gateway",
        unit="reqps",
        queries=_rate_by("status", "requests"),
        note="By status. 429: over a limit. 499: the client closed the connection before the answer.",
    ),
    Panel(
        title="Requests by route",
        unit="reqps",
        queries=_rate_by("route", "requests"),
    ),
    Panel(
        title="Failed requests of the gateway",
        unit="percentunit",
        queries={
            "failed": f'sum(rate(reentry_gateway_requests_total{{{_REQUESTS},status=~"5.."}}{RATE})) '
            f'/ sum(rate(reentry_gateway_requests_total{{{_REQUESTS},status!="499"}}{RATE}))'
        },
        note="Answers with a status of 500 or above, without those to probes.",
        threshold=0.05,
    ),
    Panel(
        title="Time of a scoring request",
        unit="s",
        queries=_quantiles("request_seconds", f"{_GATEWAY},{_SCORE}"),
        note="Time from a request to the end of its answer, by either interface.",
        threshold=1.0,
    ),
    Panel(
        title="Mean time by route",
        unit="s",
        queries={
            "{{route}}": f"sum by (route) (rate(reentry_gateway_request_seconds_sum{{{_GATEWAY}}}{RATE})) "
            f"/ sum by (route) (rate(reentry_gateway_request_seconds_count{{{_GATEWAY}}}{RATE}))"
        },
        note="A stream of events lasts as long as its reader.",
    ),
    Panel(
        title="Requests in flight",
        unit="short",
        queries={"{{pod}}": f"sum by (pod) (reentry_gateway_requests_in_flight{{{_GATEWAY}}})"},
    ),
    Panel(
        title="Tracks by result",
        unit="cps",
        queries=_rate_by("result", "tracks"),
        note="Degraded: scored by the altitude-fraction rule while Triton is away.",
    ),
    Panel(title="Scored steps", unit="cps", queries={"steps": _rate("steps")}),
    Panel(
        title="Requests over a limit",
        unit="reqps",
        queries=_rate_by("kind", "limited"),
        note="Limit of requests, or of steps, of the tier of an account.",
    ),
    Panel(
        title="Requests without a valid key",
        unit="reqps",
        queries=_rate_by("reason", "auth_failures"),
        threshold=1.0,
    ),
    Panel(
        title="Gateways and workers that answer",
        unit="short",
        queries={"up": f"sum(up{{{_GATEWAY}}})", "known": f"count(up{{{_GATEWAY}}})"},
    ),
)

BACKEND_PANELS: Final = (
    Panel(
        title="Queue of the gateway",
        unit="short",
        queries={"{{pod}}": f"sum by (pod) (reentry_gateway_queue_depth{{{_GATEWAY}}})"},
        note="Tracks that wait for a call to Triton. A full queue holds 256 by default.",
    ),
    Panel(
        title="Requests refused by a full queue",
        unit="percentunit",
        queries={
            "refused": f"{_rate('queue_refused')} "
            f'/ sum(rate(reentry_gateway_requests_total{{{_REQUESTS},status!="499"}}{RATE}))'
        },
        threshold=0.01,
    ),
    Panel(
        title="Breaker",
        unit="short",
        queries={"{{pod}}": f"max by (pod) (reentry_gateway_breaker_state{{{_GATEWAY}}})"},
        note="0: closed, calls reach Triton. 1: one call tries it. 2: open, calls fail at once.",
        threshold=1.0,
    ),
    Panel(title="Calls to Triton", unit="cps", queries=_rate_by("result", "triton_calls")),
    Panel(title="Time of a call to Triton", unit="s", queries=_quantiles("triton_seconds")),
    Panel(
        title="Tracks in one call",
        unit="short",
        queries={
            "mean": f"sum(rate(reentry_gateway_gathered_tracks_sum{{{_GATEWAY}}}{RATE})) "
            f"/ sum(rate(reentry_gateway_gathered_tracks_count{{{_GATEWAY}}}{RATE}))",
            "p95": "histogram_quantile(0.95, "
            f"sum by (le) (rate(reentry_gateway_gathered_tracks_bucket{{{_GATEWAY}}}{RATE})))",
        },
        note="Small concurrent requests share a call.",
    ),
    Panel(
        title="Hits of the cache",
        unit="percentunit",
        queries={
            "hits": f'sum(rate(reentry_gateway_cache_requests_total{{{_GATEWAY},result="hit"}}{RATE})) '
            f"/ {_rate('cache_requests')}"
        },
    ),
    Panel(
        title="Redis and database",
        unit="short",
        queries={
            "Redis, {{pod}}": f"min by (pod) (reentry_gateway_redis_up{{{_GATEWAY}}})",
            "database, {{pod}}": f"min by (pod) (reentry_gateway_database_up{{{_GATEWAY}}})",
        },
        note="1: it answers. No line: the process has not asked yet.",
    ),
    Panel(
        title="Inference log that waits",
        unit="bytes",
        queries={"{{pod}}": f"sum by (pod) (reentry_gateway_spool_bytes{{{_GATEWAY}}})"},
        note="Rows on disk, until the database answers. A pod holds 1 GiB by default.",
        threshold=16 * 2**20,
    ),
    Panel(
        title="Rows of the inference log",
        unit="cps",
        queries={"stored": _rate("log_rows"), "lost": _rate("spool_dropped")},
        note="Rows are lost only if the database is away for so long that the disk is full.",
    ),
)

WORK_PANELS: Final = (
    Panel(
        title="Jobs",
        unit="short",
        queries={"{{state}}": f"max by (state) (reentry_gateway_jobs{{{_GATEWAY}}})"},
        note="Each process reports the jobs of the whole database.",
    ),
    Panel(title="Finished jobs", unit="cps", queries=_rate_by("state", "jobs_finished")),
    Panel(
        title="Time of a job",
        unit="s",
        queries=_quantiles("job_seconds"),
        note="Time from its creation to its end.",
    ),
    Panel(
        title="Lost leases",
        unit="short",
        queries={"{{pod}}": f"sum by (pod) (increase(reentry_gateway_lease_lost_total{{{_GATEWAY}}}[1h]))"},
        note="Jobs in an hour that a worker lost to another one, because it stalled.",
        threshold=5.0,
    ),
    Panel(title="Webhooks", unit="cps", queries=_rate_by("result", "webhook_deliveries")),
    Panel(title="Live events", unit="cps", queries=_rate_by("kind", "events")),
    Panel(
        title="Readers of live events",
        unit="short",
        queries={"{{pod}}": f"sum by (pod) (reentry_gateway_event_readers{{{_GATEWAY}}})"},
    ),
    Panel(
        title="Events that slow readers missed",
        unit="cps",
        queries={"lost": _rate("events_lost")},
        note="Positions of tracks. Alerts and refinements are never left out.",
    ),
    Panel(
        title="Tracks of experiments",
        unit="cps",
        queries={
            "{{experiment}}, {{variant}}": "sum by (experiment, variant) "
            f"(rate(reentry_gateway_experiment_tracks_total{{{_GATEWAY}}}{RATE}))"
        },
    ),
    Panel(
        title="Drift of today's tracks",
        unit="short",
        queries={"{{feature}}": f"max by (feature) (reentry_gateway_drift_psi{{{_GATEWAY}}})"},
        note="Population stability index of the tracks of a day against the training of the network.",
        threshold=0.25,
    ),
)
