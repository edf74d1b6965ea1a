"""One interface to a Triton server, over gRPC or HTTP, and the words for what can go wrong on the way.

Every failure of either protocol becomes one of three errors: `ServerAwayError`, where asking again may help,
`RefusedError`, where the same request would be refused again, and a plain `ClientError` where no Triton listens at all.
"""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from typing import Any, Final

import numpy.typing as npt

from reentry.errors import ClientError, ConfigError
from reentry.runtime.arguments import split_url
from reentry.schema import Model

Array = npt.NDArray[Any]
"""A tensor of any of Triton's types."""

DEFAULT_PORTS: Final = {"grpc": 8001, "http": 8000}

_LARGEST_MESSAGE: Final = 2**31 - 1  # bytes, gRPC's own limit; its default of 4 MB is 90,000 steps
_LARGEST_ANSWER: Final = 2**28  # bytes, some 50 million steps; what sends more is not Triton
_GRPC_OPTIONS: Final = (
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_ANSWER),
    # A channel waits up to 2 minutes before it tries a lost server again; the pace is set by `client.retry`.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

# INVALID_ARGUMENT: the request is at fault. INTERNAL and UNKNOWN: the model failed on it.
_REFUSALS: Final = frozenset(
    {"StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL", "StatusCode.UNKNOWN", "400", "413", "500"}
)
# What Triton says, with the status of a refusal, where a model is at fault whatever the request: a Python model's
# process died, or a member of the ensemble is not loaded.
_MODEL_AWAY: Final = re.compile(r"stub process .*is not healthy|no available versions|is not ready", re.IGNORECASE)
# What tritonclient raises on an answer that is not Triton's: not JSON, without an entry, of other types, cut, corrupt.
_UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, RecursionError)


class ServerAwayError(ClientError):
    """The server is not there, not ready, or its queue is full; asking again may help."""


class RefusedError(ClientError):
    """The server answered that it cannot score this request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a Triton server listens."""

    scheme: str
    """grpc or http."""
    address: str
    """host:port"""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read grpc://host[:port] or http://host[:port].

        Raises:
            ConfigError: anything else.
        """
        wrong = ConfigError(
            "not the URL of a Triton server",
            expected="grpc://HOST:PORT or http://HOST:PORT",
            got=repr(url),
            fix="grpc://127.0.0.1:8001 is where `reentry serve` listens",
        )
        parts = split_url(url)
        if parts is None or parts[0] not in DEFAULT_PORTS:
            raise wrong
        scheme, host, port = parts
        return cls(scheme=scheme, address=f"{host}:{port or DEFAULT_PORTS[scheme]}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


class Connection:
    """A Triton server as this program uses it; made inside a running event loop, closed at its end."""

    def __init__(self, endpoint: Endpoint, *, timeout: float) -> None:
        """Open a connection; nothing is sent yet.

        Args:
            endpoint: where.
            timeout: s, the longest wait for one answer.
        """
        self._endpoint = endpoint
        self._per_call: dict[str, float] = {}
        if endpoint.scheme == "grpc":
            import tritonclient.grpc as protocol
            from tritonclient.grpc.aio import InferenceServerClient

            self._client = InferenceServerClient(endpoint.address, channel_args=_GRPC_OPTIONS)
            self._per_call = {"client_timeout": timeout}
        else:
            import tritonclient.http as protocol
            from tritonclient.http.aio import InferenceServerClient

            # tritonclient hands over each body as bytes, and aiohttp would rather stream one beyond 1 MiB.
            warnings.filterwarnings("ignore", "Sending a large body directly", ResourceWarning)
            self._client = InferenceServerClient(endpoint.address, conn_timeout=timeout)
            self._client._stub._response_class = _bounded_response()  # tritonclient has no setting for it
        self._input = protocol.InferInput

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens."""
        return self._endpoint

    async def max_batch(self, model: Model) -> int:
        """Most tracks the served model takes in one request.

        Raises:
            ServerAwayError: the server or the model is not there.
            ClientError: something else than Triton listens there.
        """
        with _translated(self._endpoint):
            answer = await self._client.get_model_config(model.name, **self._per_call)
            return int(answer.config.max_batch_size if self._endpoint.scheme == "grpc" else answer["max_batch_size"])

    async def infer(self, model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by tensor name -> outputs by tensor name.

        Raises:
            ServerAwayError: no answer.
            RefusedError: an answer, but no result.
        """
        tensors = [self._input(tensor.name, inputs[tensor.name].shape, tensor.dtype) for tensor in model.inputs]
        for tensor in tensors:
            tensor.set_data_from_numpy(inputs[tensor.name()])
        with _translated(self._endpoint):
            result = await self._client.infer(model.name, tensors, **self._per_call)
            outputs = {tensor.name: result.as_numpy(tensor.name) for tensor in model.outputs}
            missing = [name for name, values in outputs.items() if values is None]
            if missing:
                raise ValueError(f"the answer has no tensor {', '.join(missing)}")
        return outputs


def _bounded_response() -> type[Any]:
    """The response class of aiohttp, except that a body larger than `_LARGEST_ANSWER` is refused."""
    from aiohttp import ClientResponse, StreamReader

    class BoundedResponse(ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                try:
                    self._body = await self._read_bounded(self.content)
                except BaseException:  # tritonclient drops the response, and would leave its connection open
                    self.close()
                    raise
            return await super().read()

        async def _read_bounded(self, content: StreamReader) -> bytes:
            body = bytearray()
            async for part in content.iter_any():
                body += part
                if len(body) > _LARGEST_ANSWER:
                    raise ValueError(f"the answer is larger than {_LARGEST_ANSWER:,} bytes")
            return bytes(body)

    return BoundedResponse


@contextmanager
def _translated(endpoint: Endpoint) -> Iterator[None]:
    """Turn the errors of tritonclient, aiohttp and the network into those of this module."""
    from aiohttp import ClientError as AiohttpError
    from aiohttp import ClientResponseError
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        reason = str(error.message() or "no reason given")
        if error.status() in _REFUSALS and not _MODEL_AWAY.search(reason):
            raise RefusedError(reason, where=str(endpoint)) from error
        raise ServerAwayError(reason, where=str(endpoint)) from error
    except (ClientResponseError, *_UNREADABLE, zlib.error, BadGzipFile) as error:
        protocol = {"grpc": "gRPC", "http": "HTTP"}[endpoint.scheme]
        raise ClientError(
            f"no inference server over {protocol} listens there",
            where=str(endpoint),
            got=f"an answer that cannot be read: {type(error).__name__}: {error}",
            fix="check the port in --url: unless changed, 8000 is HTTP, 8001 gRPC, and 8002 gives metrics alone",
        ) from error
    except (AiohttpError, OSError) as error:  # TimeoutError is an OSError
        raise ServerAwayError(str(error) or type(error).__name__, where=str(endpoint)) from error
