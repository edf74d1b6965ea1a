"""The metrics of feeds in the text format of Prometheus."""

from __future__ import annotations

import urllib.request

import pytest

from client.stream import Feed
from client.stream.metrics import exposition, serving_metrics
from client.stream.statistics import Latencies
from reentry.errors import ConfigError


@pytest.fixture
def feed() -> Feed:
    made = Feed('radar "3"', ["grpc://127.0.0.1:8001"])
    statistics = made.statistics
    statistics.updates, statistics.alerts, statistics.replayed_measurements = 500, 2, 70
    statistics.rejected["late"], statistics.replays["lost_server"] = 3, 7
    statistics.update_latency.add(0.0015, 400)
    statistics.update_latency.add(0.3, 100)
    statistics.alert_latency.add(99.0)
    return made


def test_latencies_are_counted_in_their_buckets() -> None:
    latencies = Latencies()
    for seconds in (0.0, 0.001, 0.0011, 60.0, 61.0):
        latencies.add(seconds, 2)
    assert latencies.counts.tolist() == [4, 2, *[0] * 12, 2, 2]
    assert latencies.total == pytest.approx(2 * 121.0021)
    assert len(latencies.recent()) == 5


def test_every_metric_has_a_type_and_the_samples_of_its_feed(feed: Feed) -> None:
    lines = exposition([feed]).splitlines()
    label = r'feed="radar \"3\""'
    for expected in (
        "# TYPE reentry_stream_live_tracks gauge",
        f"reentry_stream_live_tracks{{{label}}} 0",
        f"reentry_stream_updates_total{{{label}}} 500",
        f'reentry_stream_rejected_total{{{label},reason="late"}} 3',
        f"reentry_stream_alerts_total{{{label}}} 2",
        f'reentry_stream_replays_total{{{label},reason="lost_server"}} 7',
        f"reentry_stream_replayed_measurements_total{{{label}}} 70",
        f"reentry_stream_truncated_replays_total{{{label}}} 0",
        "# TYPE reentry_stream_update_latency_seconds histogram",
        f'reentry_stream_update_latency_seconds_bucket{{{label},le="0.002"}} 400',
        f'reentry_stream_update_latency_seconds_bucket{{{label},le="0.5"}} 500',
        f"reentry_stream_update_latency_seconds_sum{{{label}}} 30.600000",
        f'reentry_stream_alert_latency_seconds_bucket{{{label},le="60"}} 0',
        f'reentry_stream_alert_latency_seconds_bucket{{{label},le="+Inf"}} 1',
        f"reentry_stream_alert_latency_seconds_count{{{label}}} 1",
    ):
        assert lines.count(expected) == 1, expected
    names = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(set(names)) == len(names) == 9


def test_metrics_are_served_until_the_end_of_the_run(feed: Feed) -> None:
    with serving_metrics(0, lambda: [feed]) as port, urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert page.read().decode() == exposition([feed])


def test_a_port_in_use_is_a_clear_error() -> None:
    with (
        serving_metrics(0, list) as port,
        pytest.raises(ConfigError, match="metrics port"),
        serving_metrics(port, list),
    ):
        pass


def test_without_a_port_nothing_is_served() -> None:
    with serving_metrics(None, list) as port:
        assert port is None
