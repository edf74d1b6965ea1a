"""One gRPC stream to one Triton server, over which a feed sends the requests of its sequences.

The server answers the requests of a stream in their order, so a request that waits holds up all later ones. A request
that may wait is therefore sent beside the stream, with `ask`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from contextlib import suppress
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from client.connection import MODEL_UNAVAILABLE, RefusedError, ServerUnavailableError
from client.grpc_request import METHOD, STREAM_METHOD
from client.stream.grpc_connection import INTERNAL, INVALID_ARGUMENT, OK, UNKNOWN, Call, GrpcConnection
from reentry.schema import Model

_LONGEST_FINISH: Final = 1.0
"""Time that a server gets to end a stream, s."""
_READY_METHOD: Final = "/inference.GRPCInferenceService/ModelReady"
_LONGEST_CONNECT: Final = 5.0
"""Time that a server gets to accept a connection and to say whether it serves the model, s."""
# A refusal on a stream is a text without a status. These texts are not about the request.
_UNAVAILABLE: Final = re.compile(
    rf"{MODEL_UNAVAILABLE.pattern}|unknown model|maximum queue size|timeout|server is (stopping|exiting)|unavailable",
    re.IGNORECASE,
)
_NO_SLOT: Final = "timeout of the corresponding sequence has been expired"
_REFUSALS: Final = (INVALID_ARGUMENT, INTERNAL, UNKNOWN)

_dtype = cache(triton_to_np_dtype)

Outputs = dict[str, npt.NDArray[Any]]


class StartRequiredError(RefusedError):
    """The server does not have, or no longer has, the sequence of a request."""


class SequenceStream:
    """A connection with one stream. Open it before use and close it after use."""

    def __init__(self, address: str, model: Model) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            address: host:port of the server.
            model: the model that all requests are for.
        """
        self.address = address
        self._model = model
        self._connection: GrpcConnection
        self._call: Call
        self._answers: deque[bytes] = deque()
        self._ended: tuple[int, str] | None = None
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Connect, and check that the server serves the model.

        Raises:
            ServerUnavailableError: it does not.
        """
        try:
            async with asyncio.timeout(_LONGEST_CONNECT):
                self._connection = await GrpcConnection.open(self.address)
        except OSError as error:
            reason = error.strerror or str(error) or "the server does not accept the connection"
            raise ServerUnavailableError(reason, where=self.address) from error
        is_ready = False
        try:
            is_ready = await self.is_ready()
        finally:
            if not is_ready:
                self.close()
        if not is_ready:
            raise ServerUnavailableError(f"the server does not serve {self._model.name}", where=self.address)
        self._call = self._connection.start(STREAM_METHOD, self._take, self._end)

    async def finish(self) -> None:
        """End the stream in agreement with the server, if it answers within a second."""
        self._connection.finish(self._call)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_FINISH):
                while self._ended is None:
                    self._news.clear()
                    await self._news.wait()

    def close(self) -> None:
        """Close the connection; requests without an answer are cancelled."""
        self._connection.close()

    async def is_ready(self) -> bool:
        """Return whether the server answers and serves the model.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        request = service_pb2.ModelReadyRequest(name=self._model.name).SerializeToString()
        try:
            answer = await self._unary(_READY_METHOD, request, timeout=_LONGEST_CONNECT)
            return bool(service_pb2.ModelReadyResponse.FromString(answer).ready)
        except TimeoutError as error:
            raise ServerUnavailableError("the server does not answer", where=self.address) from error
        except RefusedError as error:
            raise ServerUnavailableError(error.problem, where=self.address) from error

    def write(self, request: bytes) -> None:
        """Send an encoded request."""
        self._connection.send(self._call, request)

    async def read(self) -> tuple[str, Outputs | RefusedError]:
        """Wait for the next answer, and return the id of its request, and its outputs or the reason of its refusal.

        Raises:
            ServerUnavailableError: the stream is broken, or the server cannot answer requests now.
        """
        while not self._answers:
            if self._ended is not None:
                raise ServerUnavailableError(self._ended[1] or "the server closed the stream", where=self.address)
            self._news.clear()
            await self._news.wait()
        answer = self._parsed(service_pb2.ModelStreamInferResponse, self._answers.popleft())
        if answer.error_message:
            return answer.infer_response.id, self._refusal(answer.error_message)
        return answer.infer_response.id, outputs_of(answer.infer_response)

    async def ask(self, request: bytes, *, timeout: float) -> Outputs | RefusedError | None:
        """Send a request beside the stream, and return its outputs, its refusal, or None after the timeout.

        The server ends the wait for a slot itself after the timeout in the request.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        try:
            answer = await self._unary(METHOD, request, timeout=timeout)
        except TimeoutError:
            return None
        except RefusedError as error:
            return error
        except ServerUnavailableError as error:
            if _NO_SLOT in error.problem:
                return None
            raise
        return outputs_of(self._parsed(service_pb2.ModelInferResponse, answer))

    async def _unary(self, method: str, request: bytes, *, timeout: float) -> bytes:
        """Send one message and return the answer.

        Raises:
            TimeoutError: no answer in time.
            RefusedError: the server refused the request.
            ServerUnavailableError: the server does not answer.
        """
        answers: list[bytes] = []
        status: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

        def end(code: int, reason: str) -> None:
            if not status.done():
                status.set_result((code, reason))

        call = self._connection.start(method, answers.append, end)
        self._connection.send(call, request, last=True)
        try:
            async with asyncio.timeout(timeout):
                code, reason = await status
        finally:
            self._connection.cancel(call)
        if code in _REFUSALS:
            raise self._refusal(reason)
        if code != OK or not answers:
            raise ServerUnavailableError(reason or f"gRPC status {code}", where=self.address)
        return answers[0]

    def _take(self, answer: bytes) -> None:
        self._answers.append(answer)
        self._news.set()

    def _end(self, code: int, reason: str) -> None:
        self._ended = code, reason
        self._news.set()

    def _parsed(self, kind: Any, message: bytes) -> Any:
        try:
            return kind.FromString(message)
        except DecodeError as error:
            raise ServerUnavailableError(f"no Triton server answers there: {error}", where=self.address) from error

    def _refusal(self, reason: str) -> RefusedError:
        """Return the error of a refusal.

        Raises:
            ServerUnavailableError: the reason is not the request.
        """
        if "must specify the START flag" in reason:
            return StartRequiredError(reason, where=self.address)
        if _UNAVAILABLE.search(reason):
            raise ServerUnavailableError(reason, where=self.address)
        return RefusedError(reason, where=self.address)


def outputs_of(answer: Any) -> Outputs:
    """Return the tensors of a ModelInferResponse by name."""
    return {
        output.name: np.frombuffer(content, _dtype(output.datatype))
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
