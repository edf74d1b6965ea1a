"""URLs are parsed strictly, and every failure becomes an error that says whether a retry may help."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import warnings

import grpc
import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferResponse
from tritonclient.utils import InferenceServerException

from client.connection import Connection, Endpoint, RefusedError, ServerUnavailableError, _translated
from reentry.errors import ClientError, ConfigError
from reentry.schema import ENSEMBLE, MEASUREMENT_COLUMNS, MEASUREMENTS, TRACK_ID_TENSOR, TRACK_LENGTH
from tests.garbage_server import AWAY, garbage_server


@pytest.mark.parametrize(
    ("url", "scheme", "address"),
    [
        ("grpc://127.0.0.1:8001", "grpc", "127.0.0.1:8001"),
        ("grpc://triton", "grpc", "triton:8001"),
        ("http://triton.example.org/", "http", "triton.example.org:8000"),
        ("http://[::1]:9000", "http", "[::1]:9000"),
    ],
)
def test_a_valid_url_is_parsed_into_scheme_and_address(url: str, scheme: str, address: str) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.scheme, endpoint.address) == (scheme, address)
    assert str(endpoint) == f"{scheme}://{address}"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8001", "ftp://host", "grpc://", "grpc://host:port", "grpc://host:99999", "http://host/v2", ""]
)
def test_an_invalid_url_is_refused_with_the_expected_form(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        Endpoint.parse(url)
    assert error.value.expected == "grpc://HOST:PORT or http://HOST:PORT"


DEAD_STUB = "in ensemble 'reentry', Stub process 'track_features_0_0' is not healthy."
UNLOADED = "in ensemble 'reentry', Request for unknown model: 'track_decision' has no available versions"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InferenceServerException("bad", status="StatusCode.INVALID_ARGUMENT"), RefusedError),
        (InferenceServerException("bad", status="400"), RefusedError),
        (InferenceServerException("failed", status="StatusCode.INTERNAL"), RefusedError),
        (InferenceServerException(DEAD_STUB, status="StatusCode.INTERNAL"), ServerUnavailableError),
        (InferenceServerException(DEAD_STUB, status="500"), ServerUnavailableError),
        (InferenceServerException(UNLOADED, status="400"), ServerUnavailableError),
        (InferenceServerException("away", status="StatusCode.UNAVAILABLE"), ServerUnavailableError),
        (InferenceServerException("late", status="StatusCode.DEADLINE_EXCEEDED"), ServerUnavailableError),
        (InferenceServerException("full", status="503"), ServerUnavailableError),
        (InferenceServerException("unknown model", status="404"), ServerUnavailableError),
        (ConnectionRefusedError("refused"), ServerUnavailableError),
        (ConnectionResetError("closed"), ServerUnavailableError),
        (TimeoutError(), ServerUnavailableError),
    ],
    ids=repr,
)
def test_only_a_refusal_by_the_server_is_final(error: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected), _translated(Endpoint.parse("http://host")):
        raise error


def test_a_long_reason_is_shortened_to_one_readable_line() -> None:
    with pytest.raises(ServerUnavailableError) as raised, _translated(Endpoint.parse("http://host")):
        raise ConnectionError("first words " + "and more " * 1_000)
    assert raised.value.problem.startswith("first words")
    assert len(raised.value.problem) <= 1_010


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\x04\x00@\x00\x00" * 20,
    ],
    ids=["the metrics port", "a web server", "a service with JSON", "the gRPC port"],
)
def test_a_port_of_another_service_is_an_error_at_once_that_lists_the_default_ports(answer: bytes) -> None:
    async def ask() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
            host, port = listener.sockets[0].getsockname()
            async with Connection(Endpoint.parse(f"http://{host}:{port}"), timeout=60.0) as connection:
                await connection.max_batch(ENSEMBLE)

    with pytest.raises(ClientError, match="no Triton server listens there over HTTP") as raised:
        asyncio.run(ask())
    assert str(raised.value.where).startswith("http://127.0.0.1:")
    assert "8000 is HTTP" in str(raised.value.fix)
    assert not isinstance(raised.value, ServerUnavailableError)


async def over_http(body: bytes) -> dict[str, np.ndarray]:
    """Outputs of the ensemble on a server that gives this answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        host, port = listener.sockets[0].getsockname()
        async with Connection(Endpoint.parse(f"http://{host}:{port}"), timeout=60.0) as connection:
            return await connection.infer(ENSEMBLE, INPUTS)


async def over_grpc(answer: ModelInferResponse) -> dict[str, np.ndarray]:
    """Outputs of the ensemble on a server that gives this answer."""

    async def respond(*_: object) -> ModelInferResponse:
        return answer

    method = grpc.unary_unary_rpc_method_handler(respond, response_serializer=ModelInferResponse.SerializeToString)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Connection(Endpoint.parse(f"grpc://127.0.0.1:{port}"), timeout=60.0) as connection:
            return await connection.infer(ENSEMBLE, INPUTS)
    finally:
        await server.stop(None)


INPUTS = {
    TRACK_ID_TENSOR.name: np.array([[7]]),
    TRACK_LENGTH.name: np.array([[1]], np.int32),
    MEASUREMENTS.name: np.zeros((1, 1, len(MEASUREMENT_COLUMNS))),
}


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_tensors_that_an_older_server_does_not_have_are_left_out_of_its_outputs(scheme: str) -> None:
    if scheme == "http":
        tensor = {"name": "onset_step", "datatype": "INT32", "shape": [1, 1], "data": [2]}
        outputs = asyncio.run(over_http(json.dumps({"outputs": [tensor]}).encode()))
    else:
        answer = ModelInferResponse(raw_output_contents=[b"\2\0\0\0"])
        answer.outputs.add(name="onset_step", datatype="INT32", shape=[1, 1])
        outputs = asyncio.run(over_grpc(answer))
    assert {name: values.tolist() for name, values in outputs.items()} == {"onset_step": [[2]]}


@pytest.mark.parametrize("name", ["silence", "a body that trickles", "a length that is too large", "half a header"])
def test_an_answer_that_breaks_off_leaves_no_connection_open(name: str) -> None:
    async def ask(url: str) -> None:
        async with Connection(Endpoint.parse(url), timeout=0.2) as connection:
            await connection.max_batch(ENSEMBLE)

    gc.collect()  # connections that other tests left open are not counted
    with warnings.catch_warnings(record=True) as left_open, garbage_server(AWAY[name]) as address:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(ServerUnavailableError):
            asyncio.run(ask(f"http://{address}"))
        gc.collect()  # aiohttp warns of an open connection when it is collected
    assert [str(warning.message) for warning in left_open] == []


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_port_where_nothing_listens_is_an_unavailable_server(scheme: str) -> None:
    async def ask(port: int) -> None:
        async with Connection(Endpoint.parse(f"{scheme}://127.0.0.1:{port}"), timeout=5.0) as connection:
            await connection.max_batch(ENSEMBLE)

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(ServerUnavailableError):
            asyncio.run(ask(closed.getsockname()[1]))
