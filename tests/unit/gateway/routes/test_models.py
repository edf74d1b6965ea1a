"""GET /v1/models without a Triton server. With one: tests/integration/test_gateway_events.py."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from gateway.problems import Problem
from gateway.scoring.catalogue import ModelCatalogue
from gateway.settings import GatewaySettings
from tests.gateway_app import running_app


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/reentry", "/v1/models/reentry/versions", "/v2/models/reentry"]
)
def test_the_models_are_unavailable_while_triton_is_away(gateway_settings: GatewaySettings, path: str) -> None:
    async def main() -> None:
        async with running_app(replace(gateway_settings, triton_url="grpc://127.0.0.1:1")) as gateway:
            answer = await gateway.client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "model-unavailable")
            assert answer.headers["retry-after"] == "1"
            problem = {name: value for name, value in answer.json().items() if name != "request_id"}  # which is random
            assert not re.search(r"127\.0\.0\.1|grpc|:1\b", str(problem))

    asyncio.run(main())


def test_each_request_gets_a_problem_of_its_own_while_triton_is_away() -> None:
    async def main() -> None:
        catalogue = ModelCatalogue("grpc://127.0.0.1:1")
        problems = []
        for _ in range(2):
            with pytest.raises(Problem) as raised:
                await catalogue.entries()
            problems.append(raised.value)
        await catalogue.close()
        assert problems[0] is not problems[1]

    asyncio.run(main())
