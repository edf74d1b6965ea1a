from __future__ import annotations

import asyncio

import pytest

from gateway.scoring.cache import AnswerCache, CachedAnswer
from gateway.settings import GatewaySettings


@pytest.mark.parametrize(("rows", "is_kept"), [(10, True), (20, False)])
def test_the_rows_of_the_log_count_for_the_memory_of_the_cache(rows: int, is_kept: bool) -> None:
    answer = CachedAnswer(b"body", {}, 7, 0, [{"track_id": number} for number in range(rows)])

    async def main() -> None:
        cache = AnswerCache(GatewaySettings(cache_bytes=10_000))
        await cache.put(b"content", 1, answer)
        assert (await cache.get(b"content", 1) is not None) == is_kept

    asyncio.run(main())
