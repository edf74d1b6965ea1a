"""Calls of KServe requests: their number is bounded, and each error becomes a problem."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, cast

import pytest

from client.connection import RefusedError, ServerUnavailableError
from gateway.kserve.calls import KServeCalls
from gateway.kserve.requests import InferRequest, decode
from gateway.problems import Problem
from gateway.scoring.triton import Triton
from gateway.settings import GatewaySettings
from reentry.errors import ClientError
from reentry.schema import ENSEMBLE, Model
from tests.unit.gateway.kserve.bodies import arrays, request_body

AWAY = "model-unavailable", "the model server does not answer"
SETTINGS = GatewaySettings(queue=2, calls_in_flight=1)


class Held:
    """A Triton that answers when it is told, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.answers = asyncio.Event()

    async def infer(self, model: Model, inputs: Mapping[str, Any], _spans: object) -> dict[str, Any]:
        """The names of the inputs, as the answer."""
        if self.error is not None:
            raise self.error
        await self.answers.wait()
        return dict.fromkeys(inputs, model.name)


def calls_of(triton: Held) -> KServeCalls:
    return KServeCalls(cast(Triton, triton), SETTINGS)


def request() -> InferRequest:
    return decode(*request_body(arrays(1, 10)), ENSEMBLE)


def test_requests_beyond_the_queue_are_refused_at_once_and_those_in_it_are_answered() -> None:
    async def check() -> None:
        triton = Held()
        calls = calls_of(triton)
        waiting = [asyncio.create_task(calls.infer(request())) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as refused:
            await calls.infer(request())
        assert (refused.value.code, refused.value.headers["retry-after"]) == ("overloaded", "1")
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])
        waiting[0] = asyncio.create_task(calls.infer(request()))  # a place is free again
        await asyncio.sleep(0)
        triton.answers.set()
        assert await asyncio.gather(*waiting) == [{tensor.name: "reentry" for tensor in ENSEMBLE.inputs}] * 3
        await calls.infer(request())

    asyncio.run(check())


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RefusedError("feature does not fit in float32"), "invalid-request", "feature does not fit in float32"),
        (ServerUnavailableError("ipv4:10.0.0.7: refused", where="grpc://triton:8001"), *AWAY),
        (ClientError("no Triton server listens there", where="grpc://triton:8001"), *AWAY),
    ],
)
def test_an_error_of_triton_is_a_problem_without_addresses(error: ClientError, code: str, text: str) -> None:
    async def check() -> None:
        calls = calls_of(Held(error))
        for _ in range(5):  # failed calls leave their places
            with pytest.raises(Problem, match=text) as problem:
                await calls.infer(request())
            assert problem.value.code == code
            assert not re.search(r"10\.0\.0\.7|8001|grpc", problem.value.body().decode())

    asyncio.run(check())
