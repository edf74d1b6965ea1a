from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.middleware.bodies import LARGEST
from gateway.settings import GatewaySettings
from tests.gateway_app import running_app

PART = 2**16


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}])
def test_a_body_that_is_too_large_is_refused_and_read_no_further(
    gateway_settings: GatewaySettings, headers: dict[str, str]
) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += PART
            yield PART * b" "

    json_type = {"content-type": "application/json"}

    async def main() -> None:
        async with running_app(gateway_settings) as gateway:
            for path in ("/v1/keys", "/v1/accounts", "/v1/events", "/v1/outcomes", "/v1/experiments"):
                for content in ((LARGEST + 1) * b" ", endless()):
                    answer = await gateway.client.post(path, content=content, headers=headers)
                    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large"), path
            assert read <= 5 * (LARGEST + 2 * PART)
            fits = await gateway.client.post("/v1/accounts", content=b'{"name": "x"}'.ljust(LARGEST), headers=json_type)
            assert fits.status_code == 201

    asyncio.run(main())
