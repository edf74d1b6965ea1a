"""One gRPC stream to one Triton server, over which a feed sends the requests of its sequences.

The server answers the requests of a stream in their order, so a request that waits holds up all later ones. A request
that may wait is therefore sent beside the stream, with `ask`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from client.connection import MODEL_UNAVAILABLE, RefusedError, ServerUnavailableError
from client.grpc_request import METHOD, STREAM_METHOD
from reentry.schema import Model

_READY_METHOD: Final = "/inference.GRPCInferenceService/ModelReady"
_LONGEST_CONNECT: Final = 5.0
"""Time that a server gets to accept a connection and to say whether it serves the model, s."""
# A refusal on a stream is a text without a status. These texts are not about the request.
_UNAVAILABLE: Final = re.compile(
    rf"{MODEL_UNAVAILABLE.pattern}|unknown model|maximum queue size|timeout|server is (stopping|exiting)|unavailable",
    re.IGNORECASE,
)
_OPTIONS: Final = (
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**28),
    # Each connection is a new one, which does not wait because an earlier one to the same address failed.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
)

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
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._call: Any = None

    async def close(self) -> None:
        """Close the connection; requests without an answer are cancelled."""
        if self._call is not None:
            self._call.cancel()
        await self._channel.close()

    async def open(self) -> None:
        """Connect, and check that the server serves the model.

        Raises:
            ServerUnavailableError: it does not.
        """
        if not await self.is_ready():
            raise ServerUnavailableError(f"the server does not serve {self._model.name}", where=self.address)
        stream = self._channel.stream_stream(
            STREAM_METHOD,
            request_serializer=None,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self._call = stream()

    async def is_ready(self) -> bool:
        """Return whether the server answers and serves the model.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        ask = self._channel.unary_unary(
            _READY_METHOD,
            request_serializer=service_pb2.ModelReadyRequest.SerializeToString,
            response_deserializer=service_pb2.ModelReadyResponse.FromString,
        )
        try:
            with self._translated():
                answer = await ask(service_pb2.ModelReadyRequest(name=self._model.name), timeout=_LONGEST_CONNECT)
        except TimeoutError as error:
            raise ServerUnavailableError("the server does not answer", where=self.address) from error
        return bool(answer.ready)

    async def write(self, request: bytes) -> None:
        """Send an encoded request.

        Raises:
            ServerUnavailableError: the stream is broken.
        """
        with self._translated():
            await self._call.write(request)

    async def read(self) -> tuple[str, Outputs | RefusedError]:
        """Wait for the next answer, and return the id of its request, and its outputs or the reason of its refusal.

        Raises:
            ServerUnavailableError: the stream is broken, or the server cannot answer requests now.
        """
        with self._translated():
            answer = await self._call.read()
            if answer is grpc.aio.EOF:
                raise ServerUnavailableError("the server closed the stream", where=self.address)
        if answer.error_message:
            return answer.infer_response.id, self._refusal(answer.error_message)
        return answer.infer_response.id, outputs_of(answer.infer_response)

    async def ask(self, request: bytes, *, timeout: float) -> Outputs | RefusedError | None:
        """Send a request beside the stream, and return its outputs, its refusal, or None after the timeout.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        call = self._channel.unary_unary(
            METHOD, request_serializer=None, response_deserializer=service_pb2.ModelInferResponse.FromString
        )
        try:
            with self._translated():
                return outputs_of(await call(request, timeout=timeout))
        except TimeoutError:
            return None
        except RefusedError as error:
            return error

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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the errors of gRPC into those of `client.connection`, and an expired deadline into TimeoutError."""
        try:
            yield
        except grpc.RpcError as error:
            code, reason = error.code(), str(error.details() or error.code())
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError(reason) from error
            if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
                raise self._refusal(reason) from error
            raise ServerUnavailableError(reason, where=self.address) from error
        except asyncio.InvalidStateError as error:  # the call has ended
            raise ServerUnavailableError("the stream is broken", where=self.address) from error


def outputs_of(answer: Any) -> Outputs:
    """Return the tensors of a ModelInferResponse by name."""
    return {
        output.name: np.frombuffer(content, triton_to_np_dtype(output.datatype))
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
