"""URLs are read strictly, and every failure on the way to a server becomes one of two errors."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from aiohttp import ServerDisconnectedError
from tritonclient.utils import InferenceServerException

from client.connection import Connection, Endpoint, RefusedError, ServerAwayError, _translated
from reentry.errors import ConfigError
from reentry.schema import ENSEMBLE


@pytest.mark.parametrize(
    ("url", "scheme", "address"),
    [
        ("grpc://127.0.0.1:8001", "grpc", "127.0.0.1:8001"),
        ("grpc://triton", "grpc", "triton:8001"),
        ("http://triton.example.org/", "http", "triton.example.org:8000"),
        ("http://[::1]:9000", "http", "[::1]:9000"),
    ],
)
def test_a_url_gives_scheme_and_address(url: str, scheme: str, address: str) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.scheme, endpoint.address) == (scheme, address)
    assert str(endpoint) == f"{scheme}://{address}"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8001", "ftp://host", "grpc://", "grpc://host:port", "grpc://host:99999", "http://host/v2", ""]
)
def test_another_url_is_refused_with_what_was_expected(url: str) -> None:
    with pytest.raises(ConfigError, match="expected grpc://HOST:PORT or http://HOST:PORT"):
        Endpoint.parse(url)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InferenceServerException("bad", status="StatusCode.INVALID_ARGUMENT"), RefusedError),
        (InferenceServerException("bad", status="400"), RefusedError),
        (InferenceServerException("failed", status="StatusCode.INTERNAL"), RefusedError),
        (InferenceServerException("away", status="StatusCode.UNAVAILABLE"), ServerAwayError),
        (InferenceServerException("late", status="StatusCode.DEADLINE_EXCEEDED"), ServerAwayError),
        (InferenceServerException("full", status="503"), ServerAwayError),
        (InferenceServerException("unknown model", status="404"), ServerAwayError),
        (ConnectionRefusedError("refused"), ServerAwayError),
        (ServerDisconnectedError(), ServerAwayError),
        (TimeoutError(), ServerAwayError),
    ],
    ids=repr,
)
def test_only_the_servers_own_refusals_are_final(error: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected), _translated():
        raise error


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_port_where_nobody_listens_is_a_server_that_is_away(scheme: str, free_port: Callable[[], int]) -> None:
    async def ask() -> None:
        endpoint = Endpoint.parse(f"{scheme}://127.0.0.1:{free_port()}")
        async with Connection(endpoint, timeout=5.0) as connection:
            await connection.max_batch(ENSEMBLE)

    with pytest.raises(ServerAwayError):
        asyncio.run(ask())


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find
