"""What Triton says about the models of the KServe protocol: versions, tensors, configuration and readiness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from client.connection import Endpoint
from gateway.problems import Problem
from reentry.schema import Model

_SECONDS: Final = 1.0
"""Time for which an answer of Triton is used again, s."""
_TIMEOUT: Final = 5.0
"""Longest wait for an answer of Triton, s."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that Triton serves."""

    ready: bool
    version: str
    """Largest version, which answers a request without a version."""
    metadata: dict[str, Any]
    """Answer of /v2/models/{name}."""
    config: dict[str, Any]
    """Answer of /v2/models/{name}/config: what a client needs, and nothing about the inside of the server."""


class ServedModels:
    """Looks models up in Triton. An answer, or that there was none, counts for a second."""

    def __init__(self, triton_url: str) -> None:
        self._address = Endpoint.parse(triton_url).address
        self._stub: service_pb2_grpc.GRPCInferenceServiceStub
        self._known: dict[str, _Known] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServedModels]:
        """Connect to Triton."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            yield self

    async def get(self, model: Model) -> ServedModel:
        """Return a model.

        Raises:
            Problem: Triton does not answer, or does not serve it.
        """
        known = self._known.get(model.name)
        if known is None or known.is_old:
            async with self._locks.setdefault(model.name, asyncio.Lock()):
                known = self._known.get(model.name)  # another request may have asked in the meantime
                if known is None or known.is_old:
                    known = self._known[model.name] = await self._ask(model)
        if known.served is None:  # the text of the reason has addresses, which are for the log alone
            raise Problem("model-unavailable", "Triton does not serve the model", where=model.name, got=known.reason)
        return known.served

    async def _ask(self, model: Model) -> _Known:
        asked = {"name": model.name}
        try:
            ready, metadata, config = await asyncio.gather(
                self._stub.ModelReady(service_pb2.ModelReadyRequest(**asked), timeout=_TIMEOUT),
                self._stub.ModelMetadata(service_pb2.ModelMetadataRequest(**asked), timeout=_TIMEOUT),
                self._stub.ModelConfig(service_pb2.ModelConfigRequest(**asked), timeout=_TIMEOUT),
            )
        except grpc.aio.AioRpcError as error:
            _log.warning(
                "a model cannot be looked up", model=model.name, code=error.code().name, reason=error.details()
            )
            return _Known(at=time.monotonic(), reason=error.code().name)
        served = ServedModel(
            ready=ready.ready,
            version=max(metadata.versions, key=int, default=""),
            metadata=_metadata(metadata),
            config=_config(config.config),
        )
        return _Known(at=time.monotonic(), served=served)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Last answer of Triton about a model."""

    at: float
    served: ServedModel | None = None
    reason: str = ""

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self.at >= _SECONDS


def _metadata(answer: service_pb2.ModelMetadataResponse) -> dict[str, Any]:
    inputs, outputs = (
        [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in tensors]
        for tensors in (answer.inputs, answer.outputs)
    )
    return {
        "name": answer.name,
        "versions": list(answer.versions),
        "platform": answer.platform,
        "inputs": inputs,
        "outputs": outputs,
    }


def _config(config: model_config_pb2.ModelConfig) -> dict[str, Any]:
    inputs, outputs = (
        [
            {"name": each.name, "data_type": model_config_pb2.DataType.Name(each.data_type), "dims": list(each.dims)}
            for each in tensors
        ]
        for tensors in (config.input, config.output)
    )
    parameters = {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
    return {
        "name": config.name,
        "max_batch_size": config.max_batch_size,
        "input": inputs,
        "output": outputs,
        "parameters": parameters,
    }
