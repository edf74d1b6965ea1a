"""A connection to a Triton server over gRPC or HTTP, with the same interface and the same errors for both.

Every failure becomes one of three errors: `ServerUnavailableError` if a retry may help, `RefusedError` if the server
would refuse the same request again, and a plain `ClientError` if what listens at the address is not Triton.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from reentry.errors import ClientError, ConfigError
from reentry.runtime.arguments import split_url
from reentry.schema import Model

Array = npt.NDArray[Any]
"""Values of a tensor of any of Triton's types."""

_log = logging.getLogger(__name__)

DEFAULT_PORTS: Final = {"grpc": 8001, "http": 8000}

_LARGEST_MESSAGE: Final = 2**31 - 1  # bytes, the limit of gRPC; its default of 4 MB holds only 90,000 steps
_LARGEST_ANSWER: Final = 2**28  # bytes, about 50 million steps
_GRPC_OPTIONS: Final = (
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_ANSWER),
    # The name of a headless Service has the address of each server; by default a channel would stay with one of them.
    ("grpc.lb_policy_name", "round_robin"),
    # By default a channel waits up to 2 minutes before it reconnects, but `client.retry` sets the delays here.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

_INVALID_REQUEST: Final = frozenset({"StatusCode.INVALID_ARGUMENT", "400", "413"})
_MODEL_FAULT: Final = frozenset({"StatusCode.INTERNAL", "StatusCode.UNKNOWN", "500"})
# Triton gives these reasons with the status of a refusal, although no request would succeed: the process of a Python
# model died, or a member of the ensemble is not loaded.
MODEL_UNAVAILABLE: Final = re.compile(
    r"stub process .*is not healthy|no available versions|is not ready", re.IGNORECASE
)
# tritonclient raises these for an answer that is not Triton's: no JSON, an entry missing or of a wrong type, corrupt.
_UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, RecursionError)


class ServerUnavailableError(ClientError):
    """The server does not answer, is not ready, or its queue is full; a retry may help."""


class RefusedError(ClientError):
    """The server refused to score this request."""


class ModelFaultError(RefusedError):
    """The model failed on this request, which may be valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Protocol and address of a Triton server."""

    scheme: str
    """Protocol: grpc or http."""
    address: str
    """Address as host:port."""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Parse grpc://host[:port] or http://host[:port].

        Raises:
            ConfigError: the URL has another form.
        """
        parsed = split_url(url)
        if parsed is None or parsed[0] not in DEFAULT_PORTS:
            raise ConfigError(
                "not the URL of a Triton server",
                expected="grpc://HOST:PORT or http://HOST:PORT",
                got=repr(url),
                fix="use grpc://127.0.0.1:8001 for a server that `reentry serve` started on this machine",
            )
        scheme, host, port = parsed
        return cls(scheme=scheme, address=f"{host}:{port or DEFAULT_PORTS[scheme]}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


class Connection:
    """A connection to a Triton server. It is made and closed inside a running event loop."""

    def __init__(self, endpoint: Endpoint, *, timeout: float) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            endpoint: protocol and address of the server.
            timeout: longest wait for one answer, s.
        """
        self._endpoint = endpoint
        self._timeout = timeout
        self._per_call: dict[str, float] = {}
        self._as_json: dict[str, Any] = {}
        if endpoint.scheme == "grpc":
            from tritonclient.grpc.aio import InferenceServerClient
            from tritonclient.grpc.service_pb2 import ModelInferResponse

            from client.grpc_request import METHOD

            self._client = InferenceServerClient(endpoint.address, channel_args=_GRPC_OPTIONS)
            self._per_call = {"client_timeout": timeout}
            self._as_json = {**self._per_call, "as_json": True}
            self._call = self._client._channel.unary_unary(
                METHOD, request_serializer=None, response_deserializer=ModelInferResponse.FromString
            )
        else:
            from client.http_channel import HttpChannel

            self._client = HttpChannel(endpoint.address, timeout=timeout, largest_answer=_LARGEST_ANSWER)
        _log.debug("connecting to %s, timeout %g s", endpoint, timeout)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    @property
    def endpoint(self) -> Endpoint:
        """Protocol and address of the server."""
        return self._endpoint

    async def is_ready(self, model: Model) -> bool:
        """Return whether the server serves a model.

        Raises:
            ServerUnavailableError: the server is not available.
            ClientError: what listens at the address is not Triton.
        """
        with _translated(self._endpoint):
            return bool(await self._client.is_model_ready(model.name, **self._per_call))

    async def metadata(self, model: str) -> dict[str, Any]:
        """Return the metadata of a served model: name, versions, platform, inputs and outputs.

        A size in a shape is a number over HTTP, and its text over gRPC.

        Raises:
            ServerUnavailableError: the server or the model is not available.
            ClientError: what listens at the address is not Triton.
        """
        with _translated(self._endpoint):
            answer: dict[str, Any] = await self._client.get_model_metadata(model, **self._as_json)
            # Over gRPC, entries that are empty are left out.
            return {"versions": [], "platform": "", **answer} if self._as_json else answer

    async def config(self, model: str) -> dict[str, Any]:
        """Return the configuration of a served model. A size in a shape is a number over HTTP, and its text over gRPC.

        Raises:
            ServerUnavailableError: the server or the model is not available.
            ClientError: what listens at the address is not Triton.
        """
        with _translated(self._endpoint):
            answer: dict[str, Any] = await self._client.get_model_config(model, **self._as_json)
            return {"max_batch_size": 0, "parameters": {}, **answer["config"]} if self._as_json else answer

    async def max_batch(self, model: Model) -> int:
        """Return the largest number of tracks that the served model accepts in one request.

        Raises:
            ServerUnavailableError: the server or the model is not available.
            ClientError: what listens at the address is not Triton.
        """
        config = await self.config(model.name)
        with _translated(self._endpoint):
            return int(config["max_batch_size"])

    async def parameters(self, model: Model) -> list[str]:
        """Return the names of the parameters in the configuration of a served model.

        Raises:
            ServerUnavailableError: the server or the model is not available.
            ClientError: what listens at the address is not Triton.
        """
        config = await self.config(model.name)
        with _translated(self._endpoint):
            return sorted(config["parameters"])

    async def versions(self, model: Model) -> list[str]:
        """Return the versions of a model that the server serves.

        Raises:
            ServerUnavailableError: the server or the model is not available.
            ClientError: what listens at the address is not Triton.
        """
        metadata = await self.metadata(model.name)
        with _translated(self._endpoint):
            return sorted(metadata["versions"])

    async def input_names(self, model: str) -> tuple[str, ...]:
        """Return the names of the inputs of a served model.

        Raises:
            ServerUnavailableError: the server or the model is not available.
            ClientError: what listens at the address is not Triton.
        """
        metadata = await self.metadata(model)
        with _translated(self._endpoint):
            return tuple(str(each["name"]) for each in metadata["inputs"])

    async def server_version(self) -> str:
        """Return the version of the server.

        Raises:
            ServerUnavailableError: the server is not available.
            ClientError: what listens at the address is not Triton.
        """
        with _translated(self._endpoint):
            return str((await self._client.get_server_metadata(**self._as_json))["version"])

    async def infer(
        self, model: Model, inputs: Mapping[str, Array], metadata: Sequence[tuple[str, str]] = ()
    ) -> dict[str, Array]:
        """Send one request and return its outputs by tensor name, without those that the answer lacks.

        Args:
            model: the model to use.
            inputs: its inputs by tensor name.
            metadata: further headers of the request by lower-case name, such as `traceparent`.

        Raises:
            ServerUnavailableError: the server did not answer.
            RefusedError: the server refused the request.
        """
        with _translated(self._endpoint):
            if self._endpoint.scheme == "grpc":
                return await self._infer_over_grpc(model, inputs, metadata)
            answer: dict[str, Array] = await self._client.infer(model, inputs, metadata)
            return {tensor.name: answer[tensor.name] for tensor in model.outputs if tensor.name in answer}

    async def _infer_over_grpc(
        self, model: Model, inputs: Mapping[str, Array], metadata: Sequence[tuple[str, str]]
    ) -> dict[str, Array]:
        from grpc import RpcError
        from tritonclient.grpc import InferResult
        from tritonclient.utils import InferenceServerException

        from client.grpc_request import encoded_request

        try:
            call = self._call(encoded_request(model, inputs), timeout=self._timeout, metadata=metadata or None)
            result = InferResult(await call)
        except RpcError as error:
            raise InferenceServerException(error.details(), status=str(error.code())) from error
        outputs = {tensor.name: result.as_numpy(tensor.name) for tensor in model.outputs}
        return {name: values for name, values in outputs.items() if values is not None}


@contextmanager
def _translated(endpoint: Endpoint) -> Iterator[None]:
    """Translate the errors of tritonclient and the network into those of this module."""
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        reason = str(error.message() or "no reason given")
        if error.status() in _INVALID_REQUEST | _MODEL_FAULT and not MODEL_UNAVAILABLE.search(reason):
            kind = RefusedError if error.status() in _INVALID_REQUEST else ModelFaultError
            raise kind(reason, where=str(endpoint)) from error
        raise ServerUnavailableError(reason, where=str(endpoint)) from error
    except _UNREADABLE as error:
        protocol = {"grpc": "gRPC", "http": "HTTP"}[endpoint.scheme]
        raise ClientError(
            f"no Triton server listens there over {protocol}",
            where=str(endpoint),
            got=f"an invalid answer: {type(error).__name__}: {error}",
            fix="check the port in --url: by default 8000 is HTTP, 8001 is gRPC, and 8002 only serves metrics",
        ) from error
    except OSError as error:  # TimeoutError is an OSError
        raise ServerUnavailableError(str(error) or type(error).__name__, where=str(endpoint)) from error
