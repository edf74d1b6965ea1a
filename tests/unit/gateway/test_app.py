from __future__ import annotations

import asyncio

import pytest

from gateway.settings import GatewaySettings
from tests.gateway_app import running_app

pytestmark = pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)


def test_a_refused_method_is_answered_with_all_methods_of_the_path(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            for method, path, expected in (
                ("OPTIONS", "/v1/keys/1", "DELETE, GET"),
                ("PUT", "/api/v1/jobs", "GET, POST"),
                ("PUT", "/v1/experiments/exp_1", "DELETE, GET, PATCH"),
                ("POST", "/", "GET, HEAD"),
            ):
                answer = await gateway.client.request(method, path)
                assert (answer.status_code, answer.headers["allow"]) == (405, expected), path
                assert answer.json()["code"] == "method-not-allowed"

    asyncio.run(main())


def test_a_body_that_is_not_text_is_refused_with_the_reason(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            for method, path in (("POST", "/v1/accounts"), ("PATCH", "/v1/experiments/exp_1")):
                headers = {"content-type": "application/json"}
                answer = await gateway.client.request(method, path, content=b'{"state": "\xff"}', headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
                assert "parsing the body" in answer.json()["detail"]

    asyncio.run(main())
