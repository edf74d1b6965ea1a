"""Feeds begin with START, end with END, and are refused without a state; the metrics count what happens to them."""

from __future__ import annotations

import numpy as np
import pytest

from reentry.triton import live_metrics
from reentry.triton.feeds import Feeds, RefusalError
from reentry.triton.live_metrics import LiveMetrics
from reentry.triton.sequences import END, START
from reentry.triton.telemetry import Registry
from tests.unit.export.test_track_graph import trapezoids
from tests.unit.reentry.triton.test_live_feed import IDLE, Clock, network
from tests.unit.reentry.triton.test_telemetry import Backend


class World:
    """Feeds with a clock, metrics and a network that a test can change."""

    def __init__(self) -> None:
        self.backend, self.clock = Backend(), Clock()
        self.groups, self.failure = frozenset(), None
        metrics = LiveMetrics(Registry(self.backend), model_instance="reentry_scan_0_0")
        self.feeds = Feeds(self._network, lambda: self.groups, idle=IDLE, metrics=metrics, clock=self.clock)

    def _network(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        if self.failure:
            raise self.failure
        return network(features, state)

    def scan(self, feed: str, flags: int = 0, *, row: int = 0, tracks: int = 1) -> list[int]:
        """Send a row of the same flight for some tracks; return which of them started."""
        rows = np.repeat(trapezoids()[0][row : row + 1], tracks, axis=0)
        return self.feeds.scan(feed, flags, np.arange(tracks), rows)[0].started.tolist()

    def counts(self) -> dict[str, float]:
        self.feeds.flush()
        return {"/".join((name, *labels)): value for (name, *labels), value in self.backend.values.items()}


@pytest.fixture
def world() -> World:
    return World()


def test_a_feed_goes_on_from_scan_to_scan_beside_others(world: World) -> None:
    assert world.scan("a", START) == [1]
    assert world.scan("b", START) == [1]
    assert world.scan("a", row=1) == [0]
    assert world.counts()["reentry_live_feeds/reentry_scan_0_0"] == 2
    assert world.counts()["reentry_live_tracks/reentry_scan_0_0"] == 2


def test_start_within_a_feed_begins_it_again(world: World) -> None:
    world.scan("a", START)
    assert world.scan("a", START) == [1]


@pytest.mark.parametrize("ended", [True, False])
def test_a_scan_of_an_unknown_feed_is_refused(world: World, ended: bool) -> None:
    if ended:
        world.scan("a", START)
        world.scan("a", END, row=1)
    with pytest.raises(RefusalError, match=r"feed a has no state here: it is unknown\. .* must specify the START flag"):
        world.scan("a")
    assert world.counts()["reentry_live_feeds_lost_total"] == 1
    assert world.counts()["reentry_live_feeds/reentry_scan_0_0"] == 0


def test_an_empty_last_request_ends_a_feed(world: World) -> None:
    world.scan("a", START)
    assert world.scan("a", END, tracks=0) == []
    with pytest.raises(RefusalError, match="it is unknown"):
        world.scan("a")


def test_an_invalid_scan_is_refused_and_the_feed_goes_on(world: World) -> None:
    world.scan("a", START)
    with pytest.raises(RefusalError, match="the scan has 0 measurements"):
        world.scan("a", tracks=0)
    assert world.scan("a", row=1) == [0]
    assert world.counts()["reentry_scans_total/refused"] == 1
    assert world.counts()["reentry_scans_total/answered"] == 2


def test_a_failure_of_the_network_loses_the_feed_alone(world: World) -> None:
    world.scan("a", START)
    world.scan("b", START)
    world.failure = RuntimeError("scan_step is not ready")
    with pytest.raises(RefusalError, match=r"scan_step is not ready.*must specify the START flag"):
        world.scan("a", row=1)
    world.failure = None
    with pytest.raises(RefusalError, match="it is unknown"):
        world.scan("a", row=2)
    assert world.scan("b", row=1) == [0]


@pytest.mark.parametrize(
    ("had", "needed"), [((), ("robust",)), (("robust",), ("orbit",)), (("orbit",), ("robust", "orbit"))]
)
def test_a_version_that_needs_further_features_loses_the_feeds(
    world: World, had: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    world.groups = frozenset(had)
    world.scan("a", START)
    world.groups = frozenset(needed)
    with pytest.raises(RefusalError, match="needs further features"):
        world.scan("a", row=1)
    assert world.scan("a", START) == [1]
    world.groups = frozenset()
    assert world.scan("a", row=1) == [0]


def test_a_silent_track_and_a_silent_feed_expire(world: World) -> None:
    world.scan("a", START, tracks=3)
    world.scan("b", START)
    world.clock.now = IDLE + 1.0
    assert world.scan("a", row=1) == [1]
    assert world.counts()["reentry_live_tracks_expired_total"] == 4  # that of b too
    world.clock.now += 11.0  # the server drops an idle sequence, and this model a little later
    world.scan("a", row=2)
    assert world.counts()["reentry_live_tracks_expired_total"] == 4
    assert world.counts()["reentry_live_feeds/reentry_scan_0_0"] == 1


def test_what_is_silent_leaves_the_metrics_without_another_scan(world: World) -> None:
    world.scan("a", START, tracks=3)
    world.clock.now = IDLE + 1.0
    assert world.counts()["reentry_live_tracks/reentry_scan_0_0"] == 0
    assert world.counts()["reentry_live_feeds/reentry_scan_0_0"] == 1
    world.clock.now = IDLE + 11.0
    assert world.counts()["reentry_live_feeds/reentry_scan_0_0"] == 0
    assert world.counts()["reentry_live_tracks_expired_total"] == 3


def test_the_metrics_count_measurements_tracks_and_onsets(world: World) -> None:
    rows = len(trapezoids()[0])
    world.scan("a", START)
    for row in range(1, rows):
        world.scan("a", row=row)
    world.scan("a", row=rows - 1)
    counts = world.counts()
    assert counts["reentry_scan_measurements_total/accepted"] == rows
    assert counts["reentry_scan_measurements_total/rejected"] == 1
    assert counts["reentry_live_tracks_started_total"] == 1
    assert counts["reentry_live_onsets_total"] == 1
    assert {name.split("/")[0] for name in counts} == {family.name for family in live_metrics.FAMILIES}
