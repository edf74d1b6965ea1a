"""Connections to Triton over HTTP: used again, replaced, and closed when an answer cannot follow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from client import http_channel
from client.connection import Connection, Endpoint
from client.http_channel import HttpChannel, _outputs
from reentry.schema import ENSEMBLE

INPUTS: dict[str, np.ndarray] = {
    "track_id": np.array([[7]], np.int64),
    "track_length": np.array([[2]], np.int32),
    "measurements": np.arange(12.0).reshape(1, 2, 6),
}
METADATA = b'{"name": "reentry"}'


@dataclass
class Server:
    """A stand-in for Triton that notes what it receives."""

    address: str = ""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    closes: bool = False
    """Whether it closes the connection after its next answer."""


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join((*lines, "\r\n")).encode() + body


@asynccontextmanager
async def server_of(reply: Callable[[Server], bytes | None]) -> AsyncIterator[Server]:
    """Run a server that sends what `reply` returns, and closes the connection at None."""
    server = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].partition(b":")[2])) if length else b""
                server.requests.append(head + body)
                text = reply(server)
                if text is None:
                    return
                writer.write(text)
                await writer.drain()
                if server.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        server.address = "{}:{}".format(*listener.sockets[0].getsockname())
        yield server


def ask(
    reply: Callable[[Server], bytes | None], *calls: Callable[[HttpChannel], object], timeout: float = 60
) -> Server:
    """Make calls one after another, and return the server with what it received."""

    async def run() -> Server:
        async with server_of(reply) as server:
            channel = HttpChannel(server.address, timeout=timeout, largest_answer=1_000)
            try:
                for call in calls:
                    await call(channel)  # type: ignore[misc]
            finally:
                await channel.close()
        return server

    return asyncio.run(run())


def metadata(channel: HttpChannel) -> object:
    return channel.get_model_metadata("reentry")


def test_requests_one_after_another_share_a_connection() -> None:
    server = ask(lambda _: answer(METADATA), metadata, metadata, metadata)
    assert (server.connections, len(server.requests)) == (1, 3)


def test_a_connection_that_the_server_wants_to_close_is_not_used_again() -> None:
    server = ask(lambda _: answer(METADATA, "Connection: close"), metadata, metadata)
    assert server.connections == 2


def test_a_request_on_a_connection_that_the_server_closed_is_sent_again_on_a_new_one() -> None:
    server = ask(lambda server: None if len(server.requests) == 2 else answer(METADATA), metadata, metadata)
    assert (server.connections, len(server.requests)) == (2, 3)


def test_a_request_that_a_new_connection_does_not_answer_is_not_sent_again() -> None:
    sent: list[Server] = []

    def close(server: Server) -> None:
        sent.append(server)

    with pytest.raises(ConnectionError):
        ask(close, metadata)
    assert len(sent) == 1


def test_an_answer_that_breaks_off_is_not_asked_for_again() -> None:
    sent: list[Server] = []

    def break_off(server: Server) -> bytes:
        sent.append(server)
        server.closes = len(sent) == 2
        return answer(METADATA)[: -5 if server.closes else None]

    with pytest.raises(ConnectionError):
        ask(break_off, metadata, metadata)
    assert len(sent) == 2


def test_what_follows_an_answer_changes_nothing_and_ends_the_connection() -> None:
    found = []

    async def both(channel: HttpChannel) -> None:
        found.append(await channel.get_model_metadata("reentry"))

    more = answer(b'{"name": "another"}', "X-Reentry: 1")
    server = ask(lambda _: answer(METADATA) + more, both, both)
    assert found == [{"name": "reentry"}] * 2
    assert server.connections == 2


def test_an_old_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_channel, "_LONGEST_USE", 0.0)
    assert ask(lambda _: answer(METADATA), metadata, metadata).connections == 2


def test_the_wait_for_an_answer_ends() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        ask(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", metadata, timeout=0.1)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(b"x" * 1_001), "larger than 1,000 bytes"),
        (answer(b"", f"A: {'x' * 70_000}"), "headers of the answer are too large"),
        (answer(b"", "Location: /", status="302 Found"), "HTTP status 302"),
        (b"\x00\x00\x18\x04", "no HTTP"),
    ],
    ids=["body", "headers", "redirection", "no HTTP"],
)
def test_an_answer_that_is_not_one_of_triton_is_refused(reply: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ask(lambda _: reply, metadata)


@pytest.mark.parametrize(
    ("body", "reason"), [(b'{"error": "too long"}', "too long"), (b"<html>", "<html>"), (b"[]", r"\[\]")]
)
def test_the_reason_of_another_status_is_that_of_the_server(body: bytes, reason: str) -> None:
    with pytest.raises(InferenceServerException, match=reason) as raised:
        ask(lambda _: answer(body, status="400 Bad Request"), metadata)
    assert raised.value.status() == "400"


def test_a_model_that_is_not_ready_is_no_error() -> None:
    found = []

    async def is_ready(channel: HttpChannel) -> None:
        found.append(await channel.is_model_ready("reentry"))

    ask(lambda server: answer(b"", status="200 OK" if len(server.requests) > 1 else "400 No"), is_ready, is_ready)
    assert found == [False, True]


def test_tensors_travel_as_binary_data_in_both_directions() -> None:
    values = np.array([[0.25, 0.5]], np.float32)
    head = {
        "outputs": [
            {
                "name": "reentry_probability",
                "datatype": "FP32",
                "shape": [1, 2],
                "parameters": {"binary_data_size": 8},
            },
            {"name": "onset_step", "datatype": "INT32", "shape": [1, 1], "data": [-1]},
            {"name": "unlike_training", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}},
        ]
    }
    text = json.dumps(head).encode()
    body = text + values.tobytes() + b"\x02\x00\x00\x00[]"
    found: dict[str, np.ndarray] = {}

    async def infer(channel: HttpChannel) -> None:
        found.update(await channel.infer(ENSEMBLE, INPUTS, [("traceparent", "00-1-2-01")]))

    server = ask(lambda _: answer(body, f"Inference-Header-Content-Length: {len(text)}"), infer)
    assert found["reentry_probability"].tolist() == values.tolist()
    assert found["onset_step"].tolist() == [[-1]]
    assert found["unlike_training"].tolist() == [b"[]"]
    (sent,) = server.requests
    sent_head, _, sent_body = sent.partition(b"\r\n\r\n")
    lines = sent_head.decode().split("\r\n")
    assert lines[0] == "POST /v2/models/reentry/infer HTTP/1.1"
    assert "traceparent: 00-1-2-01" in lines
    length = int(next(line for line in lines if line.startswith("Inference-Header")).partition(":")[2])
    described = {each["name"]: each["shape"] for each in json.loads(sent_body[:length])["inputs"]}
    assert described == {name: list(array.shape) for name, array in INPUTS.items()}
    assert sent_body[length:] == b"".join(INPUTS[tensor.name].tobytes() for tensor in ENSEMBLE.inputs)


def test_outputs_that_the_model_does_not_have_are_left_out() -> None:
    outputs = [{"name": name, "datatype": "INT32", "shape": [], "data": [1]} for name in ("onset_step", "another")]
    body = json.dumps({"outputs": outputs}).encode()

    async def run() -> set[str]:
        async with (
            server_of(lambda _: answer(body)) as server,
            Connection(Endpoint.parse(f"http://{server.address}"), timeout=60.0) as connection,
        ):
            return set(await connection.infer(ENSEMBLE, INPUTS))

    assert asyncio.run(run()) == {"onset_step"}


@pytest.mark.parametrize(
    "head",
    [
        b"{}",
        b'{"outputs": 1}',
        b'{"outputs": [{"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}',
        b'{"outputs": [{"name": "a", "datatype": "FP32", "shape": [9], "parameters": {"binary_data_size": 0}}]}',
        b'{"outputs": [{"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": -4}}]}',
        b'{"outputs": [{"name": "a", "datatype": "WORD", "shape": [1], "data": [1]}]}',
        b'{"outputs": [{"name": "a", "datatype": "FP32", "shape": [2], "data": [1]}]}',
    ],
)
def test_a_damaged_answer_of_a_model_is_refused(head: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        _outputs(head, len(head))
