"""Catalogue of the models that Triton serves."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import structlog

from client.connection import Connection, Endpoint
from gateway.problems import Problem
from reentry.errors import ClientError
from reentry.schema import (
    CANDIDATE_ENSEMBLE,
    ENSEMBLE,
    REENTRY_FAST,
    REENTRY_LSTM,
    REENTRY_SCAN,
    REENTRY_STREAM,
    REENTRY_TRACK,
    Model,
)

MODELS: Final[tuple[tuple[Model, str], ...]] = (
    (ENSEMBLE, "scores whole tracks"),
    (CANDIDATE_ENSEMBLE, "scores whole tracks by a second version, to compare it"),
    (REENTRY_FAST, "scores whole tracks in one graph"),
    (REENTRY_STREAM, "scores live tracks, one measurement in a request"),
    (REENTRY_SCAN, "scores live tracks, the measurements of a scan in a request"),
    (REENTRY_LSTM, "network; its version is the one in the answers"),
    (REENTRY_TRACK, "graph of the features, the network and the decision"),
)
"""Models that the gateway shows, and what each one is for."""
_SECONDS: Final = 1.0
"""Time for which an answer of Triton is used again, s."""
_TIMEOUT: Final = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A served model."""

    name: str
    purpose: str
    ready: bool
    versions: list[int]
    """Versions that Triton serves; the largest one answers."""


class ModelCatalogue:
    """Asks Triton for its models, at most once in a second."""

    def __init__(self, triton_url: str) -> None:
        self._endpoint = Endpoint.parse(triton_url)
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._asked = 0.0
        self._entries: list[CatalogueEntry] | None = []

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.__aexit__()

    async def entries(self) -> list[CatalogueEntry]:
        """Return the models that are served.

        Raises:
            Problem: Triton does not answer.
        """
        async with self._lock:
            if not self._asked or time.monotonic() - self._asked > _SECONDS:
                self._entries = await self._ask()
                self._asked = time.monotonic()
        if self._entries is None:
            raise Problem("model-unavailable", "the model server does not answer", where="the model server")
        return self._entries

    async def _ask(self) -> list[CatalogueEntry] | None:
        self._connection = self._connection or Connection(self._endpoint, timeout=_TIMEOUT)
        try:
            await self._connection.server_version()
        except ClientError as error:
            _log.warning("the models cannot be listed", error=str(error))
            return None
        entries = await asyncio.gather(*(self._entry(self._connection, model, text) for model, text in MODELS))
        return [entry for entry in entries if entry is not None]

    async def _entry(self, connection: Connection, model: Model, purpose: str) -> CatalogueEntry | None:
        try:
            versions = await connection.versions(model)
            ready = await connection.is_ready(model)
        except ClientError:
            return None  # not served
        return CatalogueEntry(name=model.name, purpose=purpose, ready=ready, versions=sorted(map(int, versions)))
