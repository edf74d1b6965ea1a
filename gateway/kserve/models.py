"""What Triton says about the models of the KServe protocol: versions, tensors, configuration and readiness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from client.connection import Connection, Endpoint
from gateway.problems import Problem
from reentry.errors import ClientError
from reentry.schema import Model

_SECONDS: Final = 1.0
"""Time for which an answer of Triton is used again, s."""
_TIMEOUT: Final = 5.0
"""Longest wait for an answer of Triton, s."""
_NOT_OF_TRITON: Final = (LookupError, TypeError, ValueError, AttributeError)
"""Errors of an answer in which an entry is missing, or has another type."""

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
        self._endpoint = Endpoint.parse(triton_url)
        self._connection: Connection
        self._known: dict[str, _Known] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServedModels]:
        """Connect to Triton."""
        async with Connection(self._endpoint, timeout=_TIMEOUT) as self._connection:
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
        if known.served is None:
            raise Problem("model-unavailable", "Triton does not serve the model", where=model.name)
        return known.served

    async def _ask(self, model: Model) -> _Known:
        try:
            ready, metadata, config = await asyncio.gather(
                self._connection.is_ready(model),
                self._connection.metadata(model.name),
                self._connection.config(model.name),
            )
            served = ServedModel(
                ready=ready,
                version=max(metadata["versions"], key=int, default=""),
                metadata=_metadata(metadata),
                config=_config(config),
            )
        except (ClientError, *_NOT_OF_TRITON) as error:
            _log.warning("a model cannot be looked up", model=model.name, reason=f"{type(error).__name__}: {error}")
            return _Known(at=time.monotonic())
        return _Known(at=time.monotonic(), served=served)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Last answer of Triton about a model."""

    at: float
    served: ServedModel | None = None

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self.at >= _SECONDS


def _metadata(answer: Mapping[str, Any]) -> dict[str, Any]:
    inputs, outputs = (
        [
            {"name": each["name"], "datatype": each["datatype"], "shape": [*map(int, each["shape"])]}
            for each in answer[tensors]
        ]
        for tensors in ("inputs", "outputs")
    )
    return {
        "name": answer["name"],
        "versions": answer["versions"],
        "platform": answer["platform"],
        "inputs": inputs,
        "outputs": outputs,
    }


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    inputs, outputs = (
        [
            {"name": each["name"], "data_type": each["data_type"], "dims": [*map(int, each["dims"])]}
            for each in config[tensors]
        ]
        for tensors in ("input", "output")
    )
    return {
        "name": config["name"],
        "max_batch_size": config["max_batch_size"],
        "input": inputs,
        "output": outputs,
        "parameters": {name: {"string_value": value["string_value"]} for name, value in config["parameters"].items()},
    }
