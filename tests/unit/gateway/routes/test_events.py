"""POST /v1/events: what is accepted, and what is refused with which problem."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.accounts.principal import Scope
from gateway.events.sse import MOST_STREAMS
from gateway.settings import GatewaySettings
from tests.gateway_app import running_app
from tests.unit.gateway.inference_log.rows import read

UPDATE: dict[str, Any] = {
    "track_id": 7,
    "timestamp": 1796083126.5,
    "latitude": 39.1,
    "longitude": 127.4,
    "altitude": 81250.0,
    "probability": 0.97,
    "phase": 1,
}
ALERT: dict[str, Any] = {
    "event": "alert",
    "track_id": 7,
    "onset_timestamp": 1796083124.0,
    "detected_at": 1796083126.5,
    "probability": 0.97,
    "model_version": 3,
    "latency_ms": 4.2,
}
REFINEMENT: dict[str, Any] = {
    "event": "refinement",
    "track_id": 7,
    "onset_timestamp": 1796083124.0,
    "refined_onset_timestamp": 1796083123.2,
    "refined_onset_deviation": 0.4,
    "hindsight_seconds": 2.0,
    "model_version": 3,
}


def test_a_post_may_be_repeated_and_an_event_is_kept_with_its_feed(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            post = {"feed": "west", "updates": [UPDATE], "events": [ALERT, REFINEMENT]}
            for expected in ({"accepted": 3, "repeated": 0}, {"accepted": 1, "repeated": 2}):
                answer = await gateway.client.post("/v1/events", json=post)
                assert (answer.status_code, answer.json()) == (202, expected)
            later = {**REFINEMENT, "hindsight_seconds": 5.0}
            elsewhere = {**ALERT, "feed": "east"}
            answer = await gateway.client.post("/api/v1/events", json={"feed": "west", "events": [later, elsewhere]})
            assert answer.json() == {"accepted": 2, "repeated": 0}
            rows = await read(gateway.services.database, "SELECT kind, content FROM events ORDER BY number")
            contents = [json.loads(row[1]) if isinstance(row[1], str) else row[1] for row in rows]
            assert [row[0] for row in rows] == ["alert", "refinement", "refinement", "alert"]
            assert [content["feed"] for content in contents] == ["west", "west", "west", "east"]
            assert contents[0] == {name: value for name, value in ALERT.items() if name != "event"} | {
                "feed": "west",
                "degraded": False,
            }
            other = await gateway.client_of(Scope.STREAM)  # of another account
            answer = await other.post("/v1/events", json=post)
            assert answer.json() == {"accepted": 3, "repeated": 0}

    asyncio.run(main())


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_an_invalid_post_is_refused_with_the_place_of_the_fault(gateway_settings: GatewaySettings) -> None:
    cases: list[tuple[Any, str]] = [
        ({}, "$"),
        ([], "$"),
        ({"feed": ""}, "$.feed"),
        ({"feed": "a\nb"}, "$.feed"),
        ({"feed": "a\u0000b"}, "$.feed"),
        ({"feed": "x" * 129}, "$.feed"),
        ({"feed": "a", "more": 1}, "$"),
        ({"feed": "a", "updates": [UPDATE | {"latitude": 90.5}]}, "$.updates[0].latitude"),
        ({"feed": "a", "updates": [UPDATE, UPDATE | {"longitude": "127"}]}, "$.updates[1].longitude"),
        ({"feed": "a", "updates": [UPDATE | {"timestamp": None}]}, "$.updates[0].timestamp"),
        ({"feed": "a", "updates": [UPDATE | {"timestamp": 1e300}]}, "$.updates[0].timestamp"),
        ({"feed": "a", "updates": [UPDATE | {"probability": 1.01}]}, "$.updates[0].probability"),
        ({"feed": "a", "updates": [UPDATE | {"phase": 2}]}, "$.updates[0].phase"),
        ({"feed": "a", "updates": [UPDATE | {"track_id": 2**63}]}, "$.updates[0].track_id"),
        ({"feed": "a", "updates": [UPDATE] * 10_001}, "$.updates"),
        ({"feed": "a", "events": [ALERT] * 10_001}, "$.events"),
        ({"feed": "a", "events": [ALERT | {"event": "update"}]}, "$.events[0].event"),
        ({"feed": "a", "events": [REFINEMENT | {"hindsight_seconds": -1.0}]}, "$.events[0].hindsight_seconds"),
    ]

    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            for body, where in cases:
                answer = await gateway.client.post("/v1/events", json=body)
                problem = answer.json()
                assert (answer.status_code, problem["code"], problem["where"]) == (422, "invalid-value", where), body
            for text in (b"", b"{", b'{"feed": NaN}', b"\xff", b'{"feed": "\\ud800"}', b"[" * 100_000):
                answer = await gateway.client.post("/v1/events", content=text)
                assert (answer.status_code, answer.json()["code"]) in (
                    (400, "invalid-request"),
                    (422, "invalid-value"),
                ), text
            assert await read(gateway.services.database, "SELECT count(*) FROM events") == [(0,)]

    asyncio.run(main())


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_a_body_over_the_limit_is_refused_before_it_is_read(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            answer = await gateway.client.post("/v1/events", content=b" " * (4 * 2**20 + 1))
            assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")

    asyncio.run(main())


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_a_key_with_many_open_streams_gets_no_further_one(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            with ExitStack() as streams:
                for _ in range(MOST_STREAMS):
                    streams.enter_context(gateway.services.readers.admit(gateway.key_id))
                answer = await gateway.client.get("/v1/events")
                assert (answer.status_code, answer.json()["code"]) == (429, "rate-limited")
                streams.enter_context(gateway.services.readers.admit("another key"))
            streams.enter_context(gateway.services.readers.admit(gateway.key_id))
            streams.close()

    asyncio.run(main())


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_reading_and_posting_need_their_scopes(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            reader = await gateway.client_of(Scope.READ)
            feed = await gateway.client_of(Scope.STREAM)
            assert (await reader.post("/v1/events", json={"feed": "a"})).json()["code"] == "forbidden"
            assert (await feed.get("/v1/events")).json()["code"] == "forbidden"
            assert (await feed.post("/v1/events", json={"feed": "a"})).json() == {"accepted": 0, "repeated": 0}
            for given in ("-1", "x", str(2**63)):
                answer = await reader.get("/v1/events", headers={"Last-Event-ID": given})
                assert (answer.status_code, answer.json()["code"]) == (422, "invalid-value"), given

    asyncio.run(main())
