"""POST /v1/tracks:score without a model server: the altitude-fraction rule answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.routes import tracks
from gateway.scoring.bodies import ARROW, CSV, JSON, PARQUET
from gateway.settings import DEFAULT_TIERS, GatewaySettings
from tests.gateway_app import running_app
from tests.unit.gateway.scoring.test_bodies import WRITERS, table

pytestmark = pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)


def test_the_answer_has_the_type_of_the_body_unless_accept_excludes_it(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            for sent, accept, expected in (
                (JSON, f"{JSON};q=0, */*", CSV),
                (PARQUET, "*/*", PARQUET),
                (ARROW, f"{CSV};q=0.9, {ARROW};q=0.1", CSV),
            ):
                headers = {"content-type": sent, "accept": accept}
                body = WRITERS[sent](table(1, 30))
                answer = await gateway.client.post("/v1/tracks:score", content=body, headers=headers)
                assert answer.status_code == 200, answer.text
                assert answer.headers["content-type"].partition(";")[0] == expected

    asyncio.run(main())


@pytest.mark.parametrize("query", ["reslt=tracks", "result=tracks&result=rows", "Model=reentry"])
def test_an_unknown_or_repeated_query_parameter_is_refused(gateway_settings: GatewaySettings, query: str) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            headers = {"content-type": CSV}
            answer = await gateway.client.post(f"/v1/tracks:score?{query}", content=b"x", headers=headers)
            problem = answer.json()
            assert (answer.status_code, problem["code"], problem["where"]) == (422, "invalid-value", "query")
            assert problem["got"] == query.partition("=")[0]

    asyncio.run(main())


def test_a_body_that_arrives_in_parts_is_scored_as_a_whole(gateway_settings: GatewaySettings) -> None:
    body = WRITERS[JSON](table(3, 30))

    async def parts() -> AsyncIterator[bytes]:
        for place in range(0, len(body), 1_000):
            yield body[place : place + 1_000]

    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            answer = await gateway.client.post("/v1/tracks:score", content=parts(), headers={"content-type": JSON})
            assert [(track["track_id"], track["rows"]) for track in answer.json()["tracks"]] == [
                (0, 30),
                (1, 30),
                (2, 30),
            ]

    asyncio.run(main())


def test_rows_of_tracks_with_faults_are_charged_and_reported_outside_the_event_loop(
    gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            threads.append(threading.current_thread())
            return function(*args)

        return call

    for name in ("read_body", "answer_of", "_no_track"):
        monkeypatch.setattr(tracks, name, noting(getattr(tracks, name)))
    body = WRITERS[CSV](table(1, 30)).partition(b"\n")[0] + b"".join(b"\n1,%d,1,1,1,1,1" % id_ for id_ in range(20_001))

    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            answer = await gateway.client.post("/v1/tracks:score", content=body, headers={"content-type": CSV})
            assert (answer.status_code, len(answer.json()["faults"])) == (422, 20_001)
            steps = answer.headers["ratelimit"].partition('"steps";r=')[2].partition(";")[0]
            assert int(steps) == DEFAULT_TIERS["premium"].steps_per_minute - 20_001

    asyncio.run(main())
    assert len(threads) == 3
    assert threading.main_thread() not in threads
