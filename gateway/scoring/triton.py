"""Calls of Triton's models: a bounded number at once, behind a breaker, with metrics.

A call ends with its answer, with `RefusedError` if Triton refuses the request, or with `ServerUnavailableError`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from opentelemetry.trace import Span

from client.connection import Array, Connection, Endpoint, RefusedError, ServerUnavailableError
from gateway import metrics
from gateway.scoring.breaker import Breaker
from gateway.settings import GatewaySettings
from gateway.traces import call_ended, call_metadata, call_span
from reentry.errors import ClientError
from reentry.schema import ENSEMBLE, REENTRY_FAST, REENTRY_LSTM, REENTRY_TRACK, Model

_WATCH_SECONDS = 1.0
"""Time between two looks at the versions that Triton serves, s."""
_NOT_SERVED: Final = re.compile(r"unknown model|no available versions|is not ready", re.IGNORECASE)
"""Reasons of Triton that concern one model."""
_OVERLOADED: Final = re.compile(r"maximum queue size|request timeout expired", re.IGNORECASE)
"""Reasons of a Triton that is not away, but has too much to do."""


class TritonOverloadedError(ServerUnavailableError):
    """Triton answers, but its queue is full."""


class Triton:
    """Connection to one Triton server. Use it inside `open`."""

    def __init__(self, url: str, settings: GatewaySettings) -> None:
        self.endpoint = Endpoint.parse(url)
        self._timeout = settings.timeout
        self._slots = asyncio.Semaphore(settings.calls_in_flight)
        self._breaker = Breaker()
        self._connection: Connection
        self._versions: dict[str, int] = {}
        self._served: object = None
        self._watched = 0.0
        self._looked = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Function that is called when Triton may serve another model under the same version number."""
        self.largest_batch: dict[str, int] = {}
        """Largest number of tracks in one call, by the name of the model. Models that are not served are missing."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Triton]:
        """Connect, and watch the served versions."""
        async with Connection(self.endpoint, timeout=self._timeout) as connection:
            self._connection = connection
            watch = asyncio.create_task(self._watch())
            try:
                with suppress(TimeoutError):  # a server that does not answer must not hold up the start
                    await asyncio.wait_for(self._looked.wait(), _WATCH_SECONDS)
                yield self
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)

    @property
    def is_away(self) -> bool:
        """Whether the last calls were not answered, and none since."""
        return self._breaker.is_open

    @property
    def refuses(self) -> bool:
        """Whether a call now would fail at once."""
        return self._breaker.refuses

    def version(self, model: Model) -> int | None:
        """Return the version in the newest answer of a model; None if another one may be served by now."""
        return self._versions.get(model.name)

    async def infer(self, model: Model, inputs: Mapping[str, Array], spans: Sequence[Span] = ()) -> dict[str, Array]:
        """Send one request and return its outputs by tensor name.

        Cancelling the caller cancels the call.

        Args:
            model: the model to use.
            inputs: its inputs by tensor name.
            spans: spans of the gateway's requests that the call serves.

        Raises:
            ServerUnavailableError: Triton did not answer, or the breaker is open.
            TritonOverloadedError: Triton's queue is full.
            RefusedError: Triton refused the request.
            ClientError: what listens at the address is not Triton.
        """
        async with self._slots:
            if not self._breaker.admits():
                raise ServerUnavailableError("the model server does not answer", where=str(self.endpoint))
            with call_span(self.endpoint, model.name, inputs, spans) as span:
                begun, result = time.perf_counter(), "unavailable"
                answer: dict[str, Array] = {}
                try:
                    answer = await self._connection.infer(model, inputs, call_metadata(span))
                    result = "answered"
                except RefusedError:
                    result = "refused"
                    raise
                except ServerUnavailableError as error:
                    # Requests for a model that is not served must not open the breaker of those that are.
                    if _NOT_SERVED.search(error.problem):
                        result = "refused"
                    if _OVERLOADED.search(error.problem):
                        result = "overloaded"
                        raise TritonOverloadedError(error.problem, where=error.where) from error
                    raise
                except asyncio.CancelledError:
                    result = "cancelled"
                    raise
                finally:
                    call_ended(span, result, answer)
                    metrics.TRITON_SECONDS.observe(time.perf_counter() - begun)
                    metrics.TRITON_CALLS.labels(result).inc()
                    report = {"unavailable": self._breaker.failed, "cancelled": self._breaker.abandoned}
                    report.get(result, self._breaker.succeeded)()
        return answer

    def answered(self, model: Model, version: int, sent: float) -> None:
        """Take the version of an answer to a request that was sent at a time of `time.monotonic`."""
        if sent >= self._watched:
            self._versions[model.name] = version

    async def _watch(self) -> None:
        while True:
            await self._look()
            self._looked.set()
            await asyncio.sleep(_WATCH_SECONDS)

    async def _look(self) -> None:
        """Forget the versions of the answers when Triton serves others, or does not answer."""
        looked = time.monotonic()
        connection = self._connection
        try:
            served = [
                (model.name, await connection.versions(model))
                for model in (REENTRY_LSTM, REENTRY_TRACK)
                if model is REENTRY_LSTM or REENTRY_FAST.name in self.largest_batch
            ]
            if served != self._served:
                self._changed()
                self.largest_batch = {ENSEMBLE.name: await connection.max_batch(ENSEMBLE)}
                if await connection.is_ready(REENTRY_FAST):
                    self.largest_batch[REENTRY_FAST.name] = await connection.max_batch(REENTRY_FAST)
                    served = [(m.name, await connection.versions(m)) for m in (REENTRY_LSTM, REENTRY_TRACK)]
                self._served = served
                self._watched = looked
        except ClientError:
            self._served = None
            self._changed()

    def _changed(self) -> None:
        """Forget what belongs to the versions that were served until now."""
        self._versions.clear()
        self._watched = time.monotonic()
        self.on_change()
