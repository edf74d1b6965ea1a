"""Prometheus metrics of the gateway."""

from __future__ import annotations

import math
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

REQUESTS: Final = Counter("reentry_gateway_requests", "Answered requests.", ("route", "method", "status"))
REQUEST_SECONDS: Final = Histogram(
    "reentry_gateway_request_seconds", "Time from a request to the end of its answer, s.", ("route",), buckets=_SECONDS
)
IN_FLIGHT: Final = Gauge("reentry_gateway_requests_in_flight", "Requests that are being answered.")
AUTH_FAILURES: Final = Counter("reentry_gateway_auth_failures", "Requests without a valid key or token.", ("reason",))
LIMITED: Final = Counter("reentry_gateway_limited", "Requests over the limit of their tier.", ("kind",))
TRACKS: Final = Counter("reentry_gateway_tracks", "Tracks by result: scored, cached, degraded, refused.", ("result",))
STEPS: Final = Counter("reentry_gateway_steps", "Steps of the scored tracks.")

QUEUE_DEPTH: Final = Gauge("reentry_gateway_queue_depth", "Tracks that wait for a call to Triton.")
QUEUE_REFUSED: Final = Counter("reentry_gateway_queue_refused", "Requests refused because the queue was full.")
BREAKER_STATE: Final = Gauge("reentry_gateway_breaker_state", "Breaker of Triton: 0 closed, 1 half open, 2 open.")
TRITON_SECONDS: Final = Histogram("reentry_gateway_triton_seconds", "Time of one call to Triton, s.", buckets=_SECONDS)
TRITON_CALLS: Final = Counter(
    "reentry_gateway_triton_calls", "Calls to Triton by result: answered, refused, unavailable, cancelled.", ("result",)
)
GATHERED_TRACKS: Final = Histogram(
    "reentry_gateway_gathered_tracks", "Tracks in one call to Triton.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
CACHE: Final = Counter("reentry_gateway_cache_requests", "Lookups in the cache by result: hit, miss.", ("result",))
REDIS_UP: Final = Gauge("reentry_gateway_redis_up", "1 if Redis answers, or if none is configured.")
DATABASE_UP: Final = Gauge("reentry_gateway_database_up", "1 if the database answered the last time.")

SPOOL_BYTES: Final = Gauge("reentry_gateway_spool_bytes", "Bytes of the inference log that wait for the database.")
SPOOL_DROPPED: Final = Counter("reentry_gateway_spool_dropped", "Rows of the inference log that were not stored.")
LOG_ROWS: Final = Counter("reentry_gateway_log_rows", "Rows of the inference log that are in the database.")

JOBS: Final = Gauge("reentry_gateway_jobs", "Jobs by state.", ("state",))
JOBS_FINISHED: Final = Counter("reentry_gateway_jobs_finished", "Jobs that ended, by state.", ("state",))
JOB_SECONDS: Final = Histogram(
    "reentry_gateway_job_seconds",
    "Time from the creation of a job to its end, s.",
    buckets=(1, 5, 15, 60, 300, 900, 3600),
)
LEASE_LOST: Final = Counter("reentry_gateway_lease_lost", "Jobs whose worker lost its lease.")
WEBHOOKS: Final = Counter(
    "reentry_gateway_webhook_deliveries", "Tries to deliver a webhook by result: delivered, failed.", ("result",)
)

EVENTS: Final = Counter("reentry_gateway_events", "Live events by kind.", ("kind",))
EVENT_READERS: Final = Gauge("reentry_gateway_event_readers", "Open streams of live events.")
EVENTS_LOST: Final = Counter("reentry_gateway_events_lost", "Transient events that a slow reader did not get.")

EXPERIMENT_TRACKS: Final = Counter(
    "reentry_gateway_experiment_tracks", "Tracks of an experiment by variant.", ("experiment", "variant")
)
DRIFT_PSI: Final = Gauge("reentry_gateway_drift_psi", "Population stability index of today's tracks.", ("feature",))

# A counter exists from the start with the values of its label that are known, so that its first increment is seen.
for _counter, _values in (
    (LIMITED, ("requests", "steps")),
    (TRACKS, ("scored", "cached", "degraded", "refused")),
    (TRITON_CALLS, ("answered", "refused", "unavailable", "cancelled")),
    (CACHE, ("hit", "miss")),
    (JOBS_FINISHED, ("completed", "failed", "expired", "cancelled")),
    (WEBHOOKS, ("delivered", "failed")),
    (EVENTS, ("alert", "refinement", "update", "track")),
):
    for _value in _values:
        _counter.labels(_value)
# Not a number until the first answer: nothing is known to be away.
for _gauge in (REDIS_UP, DATABASE_UP):
    _gauge.set(math.nan)
