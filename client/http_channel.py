"""Requests to Triton over HTTP connections that stay open.

tritonclient's own HTTP client and gRPC both take several times the processor time for a track of 900 steps:
`python -m perf.transports` compares them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from math import prod
from socket import SOCK_STREAM
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote

import httptools
import msgspec
import numpy as np
import numpy.typing as npt
from tritonclient.utils import InferenceServerException, deserialize_bytes_tensor, triton_to_np_dtype

from reentry.schema import Model

Array = npt.NDArray[Any]

_OK: Final = 200
_REDIRECTIONS: Final = range(300, 400)
_LARGEST_HEADERS: Final = 2**16
_HEADER_LENGTH: Final = b"inference-header-content-length"
_LONGEST_USE: Final = 30.0
"""Time after which a connection is replaced by one to the next address of a name, s. New servers get their share."""
_LONGEST_IDLE: Final = 5.0
"""Time after which an unused connection is replaced, s."""

Part = bytes | memoryview


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] = []


class _Head(msgspec.Struct):
    outputs: list[_Output]


_decode: Final = msgspec.json.Decoder(_Head).decode


class _Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    """Headers by lower-case name."""
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time. The names of its methods are those of asyncio and httptools."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[_Answer] | None = None
        self.began = self.used = time.monotonic()
        self.has_begun = False
        """Whether a part of the answer has arrived."""
        self.is_open = True

    async def exchange(self, parts: Iterable[Part], timeout: float) -> _Answer:
        """Send a request, and return its answer when it is complete."""
        loop = asyncio.get_running_loop()
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._size = self._header_size = 0
        self.has_begun = False
        self._answer = loop.create_future()
        timer = loop.call_later(timeout, self._fail, TimeoutError(f"no answer within {timeout:g} s"))
        try:
            self._transport.writelines(parts)
            answer = await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
            self._answer = None
            self.used = time.monotonic()
        if not self._stays_open:
            self.close()
        return answer

    def close(self) -> None:
        self.is_open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nothing was asked
            self.close()
            return
        self.has_begun = True
        try:
            self._parser.feed_data(data)
        except Exception as error:
            reason = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
            self._fail(reason or ValueError(f"no HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._fail(error or ConnectionResetError("the server closed the connection"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_size += len(name) + len(value)
        if self._header_size > _LARGEST_HEADERS:
            raise ValueError("the headers of the answer are too large")
        self._headers[name.lower()] = value

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._largest:
            raise ValueError(f"the answer is larger than {self._largest:,} bytes")
        self._body.append(part)

    def on_message_complete(self) -> None:
        if self._answer is None or self._answer.done():  # nothing more was asked
            self._stays_open = False
            return
        self._stays_open = self._parser.should_keep_alive()
        self._answer.set_result(_Answer(self._parser.get_status_code(), self._headers, b"".join(self._body)))
        self._headers, self._body = {}, []

    def _fail(self, error: BaseException) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class HttpChannel:
    """Connections to the servers of one name. Its methods have the names of tritonclient's."""

    def __init__(self, address: str, *, timeout: float, largest_answer: int) -> None:
        """Prepare a channel; nothing is sent yet.

        Args:
            address: host:port. If the host has several addresses, they take turns.
            timeout: longest wait for a connection, and for an answer, s.
            largest_answer: bytes of the largest answer that is read.
        """
        self._address = address
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._timeout = timeout
        self._largest = largest_answer
        self._idle: list[_Connection] = []
        self._turn = count()

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def infer(
        self, model: Model, inputs: Mapping[str, Array], metadata: Sequence[tuple[str, str]] = ()
    ) -> dict[str, Array]:
        """Send tensors to a model as binary data, and return its outputs by tensor name.

        Args:
            model: the model to use; its inputs are numbers.
            inputs: its inputs by tensor name.
            metadata: further headers by name.

        Raises:
            InferenceServerException: the server answered with an error.
            OSError: the server does not answer.
            ValueError: the answer is not one of Triton. So are LookupError and TypeError.
        """
        arrays = [np.ascontiguousarray(inputs[each.name], dtype=_kind(each.dtype)) for each in model.inputs]
        shapes = ((each.name, each.dtype, array.shape) for each, array in zip(model.inputs, arrays, strict=True))
        head = head_of_request(tuple(shapes))
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": len(head) + sum(array.nbytes for array in arrays),
            "Inference-Header-Content-Length": len(head),
            **dict(metadata),
        }
        parts: list[Part] = [head, *(array.reshape(-1).view(np.uint8).data for array in arrays)]
        answer = await self._request(f"POST {_path(model.name, 'infer')}", headers, parts)
        length = answer.headers.get(_HEADER_LENGTH)
        return _outputs(answer.body, None if length is None else int(length))

    async def is_model_ready(self, model: str) -> bool:
        """Return whether the server serves a model."""
        return (await self._request(f"GET {_path(model, 'ready')}", raising=False)).status == _OK

    async def get_model_config(self, model: str) -> dict[str, Any]:
        """Return the configuration of a model."""
        return await self._json(_path(model, "config"))

    async def get_model_metadata(self, model: str) -> dict[str, Any]:
        """Return the metadata of a model."""
        return await self._json(_path(model))

    async def get_server_metadata(self) -> dict[str, Any]:
        """Return the metadata of the server."""
        return await self._json("/v2")

    async def _json(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((await self._request(f"GET {path}")).body)
        return answer

    async def _request(
        self, line: str, headers: Mapping[str, object] | None = None, body: Sequence[Part] = (), *, raising: bool = True
    ) -> _Answer:
        """Send a request, and return its answer.

        Args:
            line: method and path.
            headers: headers by name.
            body: parts of the body.
            raising: whether an answer with another status than 200 is an error.
        """
        lines = [f"{line} HTTP/1.1", f"Host: {self._address}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        parts = ("\r\n".join((*lines, "\r\n")).encode(), *body)
        while True:
            reused = self._reused()
            connection = reused or await self._connected()
            try:
                answer = await connection.exchange(parts, self._timeout)
            except ConnectionError:
                # The server may close an idle connection at any time; a new one decides whether it is away.
                if reused is None or connection.has_begun:
                    raise
                continue
            if connection.is_open:
                self._idle.append(connection)
            if answer.status in _REDIRECTIONS:
                raise ValueError(f"HTTP status {answer.status}")
            if raising and answer.status != _OK:
                raise _error(answer)
            return answer

    def _reused(self) -> _Connection | None:
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and now - connection.began < _LONGEST_USE and now - connection.used < _LONGEST_IDLE:
                return connection
            connection.close()
        return None

    async def _connected(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeout):
            addresses = [each[4] for each in await loop.getaddrinfo(self._host, self._port, type=SOCK_STREAM)]
            error: OSError | None = None
            first = next(self._turn)
            for place in range(len(addresses)):
                host = str(addresses[(first + place) % len(addresses)][0])
                try:
                    _, connection = await loop.create_connection(lambda: _Connection(self._largest), host, self._port)
                except OSError as failure:
                    error = failure
                else:
                    return connection
        raise error or OSError(f"{self._host} has no address")


@lru_cache(maxsize=256)
def head_of_request(tensors: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    """Return the JSON in front of the tensors of a request, given their names, types and shapes."""
    inputs = [
        {
            "name": name,
            "shape": shape,
            "datatype": kind,
            "parameters": {"binary_data_size": prod(shape) * _kind(kind).itemsize},
        }
        for name, kind, shape in tensors
    ]
    return msgspec.json.encode({"inputs": inputs, "parameters": {"binary_data_output": True}})


def _outputs(body: bytes, length: int | None) -> dict[str, Array]:
    """Return the tensors of an answer, whose first `length` bytes are JSON; None if all are."""
    place = len(body) if length is None else length
    try:
        head = _decode(memoryview(body)[:place])
    except msgspec.MsgspecError as error:
        raise ValueError(f"not the answer of a model: {error}") from error
    outputs: dict[str, Array] = {}
    for output in head.outputs:
        size = output.parameters.get("binary_data_size")
        kind = _kind(output.datatype)
        if size is None:
            values = np.array(output.data, dtype=kind)
        elif not 0 <= size <= len(body) - place:
            raise ValueError("a tensor of the answer is cut off")
        elif output.datatype == "BYTES":
            values = deserialize_bytes_tensor(body[place : place + size])
        else:
            values = np.frombuffer(body[place : place + size], kind)
        place += size or 0
        outputs[output.name] = values.reshape(output.shape)
    return outputs


@lru_cache
def _kind(name: str) -> np.dtype[Any]:
    """Return the numpy type of one of Triton's types."""
    kind = triton_to_np_dtype(name)
    if kind is None:
        raise ValueError(f"{name} is no type of Triton")
    return np.dtype(kind)


@lru_cache(maxsize=256)
def _path(model: str, what: str = "") -> str:
    return f"/v2/models/{quote(model)}{'/' if what else ''}{what}"


def _error(answer: _Answer) -> InferenceServerException:
    """Return the error of an answer with another status than 200."""
    try:
        reason = json.loads(answer.body)["error"]
    except (ValueError, LookupError, TypeError):
        reason = answer.body[:300].decode(errors="replace")
    return InferenceServerException(msg=reason, status=str(answer.status))
