from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fastapi import APIRouter

from gateway.settings import GatewaySettings, Tier
from tests.gateway_app import running_app

pytestmark = pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)


def test_a_request_without_a_key_is_refused_whether_its_route_exists_or_not(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            gateway.client.headers.pop("Authorization")
            for path in (
                "/v1/keys",
                "/api/v1/keys",
                "/v2/models/reentry",
                "/v1/none",
                "//v1/keys",
                "/V1/keys",
                "/none",
            ):
                for authorization in (None, "Basic cmVlbnRyeTo=", "Bearer", "Bearer rk_x"):
                    headers = {} if authorization is None else {"Authorization": authorization}
                    answer = await gateway.client.get(path, headers=headers)
                    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), (path, headers)
                    assert "ratelimit" not in answer.headers

    asyncio.run(main())


def test_a_route_at_any_path_requires_a_key_unless_its_path_is_open(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        router = APIRouter()
        router.add_api_route("/new/route", lambda: "reached")
        async with running_app(gateway_settings, routes=router) as gateway:
            assert (await gateway.client.get("/new/route")).json() == "reached"
            gateway.client.headers.pop("Authorization")
            assert (await gateway.client.get("/new/route")).status_code == 401
            for path in ("/health/live", "/health/ready", "/openapi.json"):
                assert (await gateway.client.get(path)).status_code == 200
            assert (await gateway.client.get("/")).headers["content-type"].startswith("text/html")
            assert (await gateway.client.get("/assets/none.js")).status_code == 404

    asyncio.run(main())


@pytest.mark.usefixtures("limits_clock")
def test_every_answer_to_a_known_sender_has_the_limits_and_a_refusal_the_time_to_wait(
    gateway_settings: GatewaySettings,
) -> None:
    tier = Tier(requests_per_second=0.1, burst=3)
    settings = replace(gateway_settings, tiers={"standard": tier})

    async def main() -> None:
        async with running_app(settings, tier="standard") as gateway:
            paths = ["/v1/keys", "/v1/keys/none", "/v1/none", "/v1/keys", "/v1/keys"]
            answers = [await gateway.client.get(path) for path in paths]
            assert [answer.status_code for answer in answers] == [200, 404, 404, 429, 429]
            assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == [
                "r=2",
                "r=1",
                "r=0",
                "r=0",
                "r=0",
            ]
            policy = '"requests";q=3;w=30, "steps";q=60000000;w=60'
            assert {answer.headers["ratelimit-policy"] for answer in answers} == {policy}
            assert [answer.headers.get("retry-after") for answer in answers] == [None, None, None, "10", "10"]
            for path in ("/health/live", "/health/ready", "/api/v1/health/live", "/api/v1/health/ready"):
                assert (await gateway.client.get(path)).status_code == 200

    asyncio.run(main())


@pytest.mark.usefixtures("limits_clock")
def test_a_refused_request_is_answered_before_its_body_is_read(gateway_settings: GatewaySettings) -> None:
    settings = replace(gateway_settings, tiers={"standard": Tier(requests_per_second=0.1, burst=1)})

    async def main() -> None:
        async with running_app(settings, tier="standard") as gateway:
            await gateway.client.get("/v1/keys")
            sent = []

            async def send(message: dict[str, object]) -> None:
                sent.append(message)

            async def receive() -> dict[str, object]:
                raise AssertionError("the body was read")

            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v1/tracks:score",
                "query_string": b"",
                "headers": [(b"authorization", f"Bearer {gateway.key}".encode()), (b"idempotency-key", b"once")],
            }
            await gateway.app(scope, receive, send)
            assert [message.get("status") for message in sent] == [429, None]

    asyncio.run(main())
