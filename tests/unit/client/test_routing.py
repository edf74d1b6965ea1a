"""Most requests go to the fastest model of the server, and a sample goes to the one that compares and watches drift."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest

from client.batching import BatchConfig
from client.connection import Endpoint, RefusedError, ServerUnavailableError
from client.retry import Retry, RetryConfig
from client.routing import FIRST_TRACKS, SAMPLED, Routing
from reentry.errors import ClientError
from reentry.schema import ENSEMBLE, MEASUREMENT_COLUMNS, REENTRY_FAST, REENTRY_LSTM, TRACK_DECISION, Model
from reentry.tracks import Track

ENDPOINT = Endpoint.parse("grpc://127.0.0.1:1")


class Server:
    """Answers of a server about its models, in place of a connection."""

    endpoint = ENDPOINT

    def __init__(self) -> None:
        self.ready = True
        self.thresholds: list[str] = []
        self.versions_of: dict[str, list[str]] = {}
        self.accepted: dict[str, int] = {}
        self.error: Exception | None = None

    async def is_ready(self, model: Model) -> bool:
        assert model is REENTRY_FAST
        if self.error:
            raise self.error
        return self.ready

    async def parameters(self, model: Model) -> list[str]:
        assert model is TRACK_DECISION
        return self.thresholds

    async def versions(self, model: Model) -> list[str]:
        return self.versions_of.get(model.name, ["3"])

    async def max_batch(self, model: Model) -> int:
        return self.accepted.get(model.name, 64)


def routing(server: Server, config: BatchConfig | None = None, *, fast: bool = True) -> Routing:
    retry = Retry(ENDPOINT, RetryConfig(patience=0.0))
    return asyncio.run(Routing.of(server, retry, config or BatchConfig(), fast=fast))  # type: ignore[arg-type]


def tracks(count: int) -> list[Track]:
    """Tracks of 10 steps."""
    steps = np.arange(10)
    measurements = np.zeros((10, len(MEASUREMENT_COLUMNS)))
    return [
        Track(track_id=number, measurements=measurements, reentry_phase=None, rows=steps, steps=steps)
        for number in range(count)
    ]


def test_the_first_tracks_and_one_request_in_many_go_to_the_ensemble() -> None:
    count = FIRST_TRACKS + 4 * (2 * SAMPLED + 1)
    requests = list(routing(Server(), BatchConfig(tracks=4)).requests(tracks(count)))
    assert sorted(track.track_id for batch in requests for track in batch.tracks) == list(range(count))
    first = FIRST_TRACKS // 4
    assert {track.track_id for batch in requests[:first] for track in batch.tracks} == set(range(FIRST_TRACKS))
    assert {batch.model.name for batch in requests[:first]} == {ENSEMBLE.name}
    sampled = [number for number, batch in enumerate(requests[first:], 1) if batch.model is ENSEMBLE]
    assert sampled == [SAMPLED, 2 * SAMPLED]
    assert {batch.model.name for batch in requests[first:]} == {ENSEMBLE.name, REENTRY_FAST.name}


def test_a_small_file_goes_to_the_ensemble_alone() -> None:
    assert {batch.model.name for batch in routing(Server()).requests(tracks(FIRST_TRACKS))} == {ENSEMBLE.name}


def test_requests_hold_as_many_tracks_as_both_models_accept() -> None:
    server = Server()
    server.accepted = {REENTRY_FAST.name: 8}
    assert routing(server).batching.tracks == 8
    assert routing(server, fast=False).batching.tracks == 16
    server.accepted = {ENSEMBLE.name: 4}
    assert routing(server).batching.tracks == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ready": False}, "does not serve reentry_fast"),
        ({"thresholds": ["enter"]}, "track_decision sets enter"),
        ({"versions_of": {REENTRY_LSTM.name: ["4"]}}, "reentry_lstm serves version 4, reentry_track 3"),
        ({"error": ServerUnavailableError("away")}, "away"),
        ({"error": RefusedError("forbidden")}, "forbidden"),
        ({"error": ClientError("no Triton server listens there")}, "no Triton server listens there"),
    ],
)
def test_the_ensemble_scores_all_tracks_if_the_answers_could_differ(
    caplog: pytest.LogCaptureFixture, change: dict[str, object], reason: str
) -> None:
    caplog.set_level(logging.DEBUG)
    server = Server()
    for name, value in change.items():
        setattr(server, name, value)
    chosen = routing(server)
    assert chosen.model is ENSEMBLE
    assert {batch.model.name for batch in chosen.requests(tracks(2 * FIRST_TRACKS))} == {ENSEMBLE.name}
    assert reason in caplog.text


def test_the_fast_model_is_not_used_on_request() -> None:
    assert routing(Server(), fast=False).model is ENSEMBLE
    assert routing(Server()).model is REENTRY_FAST
