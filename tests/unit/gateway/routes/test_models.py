"""GET /v1/models without a Triton server. With one: tests/integration/test_gateway_events.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.settings import GatewaySettings
from tests.gateway_app import running_app


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/reentry", "/v1/models/reentry/versions"])
def test_the_models_are_unavailable_while_triton_is_away(gateway_settings: GatewaySettings, path: str) -> None:
    async def main() -> None:
        async with running_app(replace(gateway_settings, triton_url="grpc://127.0.0.1:1")) as gateway:
            answer = await gateway.client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "model-unavailable")
            assert answer.headers["retry-after"] == "1"

    asyncio.run(main())
