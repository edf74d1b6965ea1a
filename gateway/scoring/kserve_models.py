"""What Triton says about the models of the KServe protocol: versions, tensors, configuration and readiness."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from gateway.problems import Problem
from reentry.schema import LARGEST_REQUEST, Model

_SECONDS: Final = 1.0
"""Time for which an answer of Triton is used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that Triton serves."""

    ready: bool
    version: str
    """Largest version, which answers a request without a version."""
    max_batch: int
    """Largest number of tracks in one request."""
    metadata: dict[str, Any]
    """Answer of /v2/models/{name}."""
    config: dict[str, Any]
    """Answer of /v2/models/{name}/config: what a client needs, and nothing about the inside of the server."""


class ServedModels:
    """Looks models up in Triton, and keeps each answer for a second."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout: float) -> None:
        """Prepare the calls.

        Args:
            channel: connection to Triton.
            timeout: longest wait for an answer, s.
        """
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._timeout = timeout
        self._known: dict[str, tuple[float, ServedModel]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, model: Model) -> ServedModel:
        """Return a model.

        Raises:
            Problem: Triton does not answer, or does not serve it.
        """
        if (known := self._recent(model)) is not None:
            return known
        async with self._locks.setdefault(model.name, asyncio.Lock()):
            if (known := self._recent(model)) is None:
                known = await self._ask(model)
                self._known[model.name] = (time.monotonic(), known)
            return known

    async def max_batch(self, model: Model) -> int:
        """Return the largest number of tracks in one request, or the last one known if Triton does not answer."""
        try:
            return (await self.get(model)).max_batch
        except Problem:
            _, known = self._known.get(model.name, (0.0, None))
            return LARGEST_REQUEST if known is None else known.max_batch

    def _recent(self, model: Model) -> ServedModel | None:
        asked, known = self._known.get(model.name, (0.0, None))
        return known if known is not None and time.monotonic() - asked < _SECONDS else None

    async def _ask(self, model: Model) -> ServedModel:
        asked = {"name": model.name}
        try:
            ready, metadata, config = await asyncio.gather(
                self._stub.ModelReady(service_pb2.ModelReadyRequest(**asked), timeout=self._timeout),
                self._stub.ModelMetadata(service_pb2.ModelMetadataRequest(**asked), timeout=self._timeout),
                self._stub.ModelConfig(service_pb2.ModelConfigRequest(**asked), timeout=self._timeout),
            )
        except grpc.aio.AioRpcError as error:
            raise Problem(
                "model-unavailable", "Triton does not serve the model", where=model.name, got=error.details()
            ) from error
        versions = sorted(metadata.versions, key=int)
        return ServedModel(
            ready=ready.ready,
            version=versions[-1],
            max_batch=config.config.max_batch_size,
            metadata=_metadata(metadata),
            config=_config(config.config),
        )


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
