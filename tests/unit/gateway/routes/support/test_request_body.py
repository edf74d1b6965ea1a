from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway.scoring.bodies import CSV
from gateway.settings import GatewaySettings
from tests.gateway_app import running_app

LARGEST = 2**20
HEADERS = {"content-type": CSV}


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize("path", ["/v1/tracks:score", "/v2/models/reentry/infer"])
def test_the_bodies_of_all_requests_have_a_bounded_size(gateway_settings: GatewaySettings, path: str) -> None:
    async def main() -> None:
        async with running_app(replace(gateway_settings, largest_body=LARGEST)) as gateway:
            sent, rest = 0, asyncio.Event()

            async def slow() -> AsyncIterator[bytes]:
                nonlocal sent
                yield (LARGEST - 1) * b"x"
                sent += 1
                await rest.wait()
                yield b"x"

            def post(content: bytes | AsyncIterator[bytes]) -> asyncio.Task[tuple[int, str]]:
                async def run() -> tuple[int, str]:
                    answer = await gateway.client.post(path, content=content, headers=HEADERS)
                    return answer.status_code, answer.headers.get("retry-after", "")

                return asyncio.create_task(run())

            first = [post(slow()) for _ in range(4)]
            async with asyncio.timeout(60):
                while sent < len(first):
                    await asyncio.sleep(0.001)
            assert await post(b"x" * 5) == (503, "1")
            gone = first.pop()
            gone.cancel()
            await asyncio.wait([gone])
            assert (await post(b"x" * 5))[0] in {400, 422}
            rest.set()
            assert {status for status, _ in await asyncio.gather(*first)} <= {400, 422}
            largest = [post(LARGEST * b"x") for _ in range(4)]
            assert {status for status, _ in await asyncio.gather(*largest)} <= {400, 422}

    asyncio.run(main())
