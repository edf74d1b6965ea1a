"""Gathers the tracks of concurrent requests into common calls to Triton.

A call of 16 tracks costs the gateway and Triton much less than 16 calls. A track is sent at once if few calls are in
flight. Further tracks are gathered until one of these calls has ended, there are enough of them, or a short time is up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from opentelemetry.trace import Span

from client.answers import require_answer
from client.batching import FREE_PADDING, BatchConfig, RequestBatch
from client.connection import ModelFaultError, RefusedError
from client.journal import Score
from client.scoring import Refusal, inputs_of, scores_of
from gateway import metrics
from gateway.problems import Problem
from gateway.scoring.triton import Triton
from gateway.settings import GatewaySettings
from gateway.traces import current_span
from reentry.schema import MODEL_VERSION, Model
from reentry.tracks import Track

_LIMITS: Final = BatchConfig()
_SMALL_CALLS: Final = 2
"""Number of calls in flight from which on tracks are gathered. With eight clients of one track each on two cores, this
scored 11 % more tracks than sending each track at once."""
_GATHERING_SECONDS: Final = 0.02
"""Longest time for which a track waits although a slot is free, s: the calls in flight may be slow ones."""
_WINDOW: Final = 128
"""Number of tracks of one request that may be in the queue at once."""

Outcome = Score | Refusal


@dataclass(slots=True, eq=False)
class _Waiting:
    """A track that waits for its answer."""

    track: Track
    model: Model
    span: Span | None
    """Span of the request that sent the track; None without traces."""
    answer: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    since: float = field(default_factory=time.monotonic)


class Gathering:
    """Queue of the tracks for one Triton server."""

    def __init__(self, triton: Triton, settings: GatewaySettings) -> None:
        self._triton = triton
        self._limit = settings.queue
        self._slots = settings.calls_in_flight
        self._enough = min(_LIMITS.tracks, settings.queue)
        self._queue: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def score(self, tracks: Sequence[Track], model: Model) -> list[Outcome]:
        """Score tracks. A track that Triton refuses has a `Refusal` as its outcome.

        If the caller is cancelled, its tracks leave the queue, and a call of them alone is cancelled.

        Raises:
            Problem: the queue is full.
            ServerUnavailableError: Triton did not answer.
            ClientError: Triton's answer is invalid.
        """
        self.check_room()
        outcomes: list[Outcome] = []
        # A big request puts only a part of its tracks into the queue at a time, so that others get their turn.
        for first in range(0, len(tracks), _WINDOW):
            outcomes += await self._score(tracks[first : first + _WINDOW], model)
        return outcomes

    @property
    def is_idle(self) -> bool:
        """Whether a track would be sent at once."""
        return not self._queue and len(self._calls) < min(self._slots, _SMALL_CALLS)

    def check_room(self) -> None:
        """Check that the queue is not full.

        Raises:
            Problem: the queue is full.
        """
        if len(self._queue) >= self._limit:
            metrics.QUEUE_REFUSED.inc()
            raise Problem(
                "overloaded",
                "too many tracks wait for the model server",
                expected=f"at most {self._limit} waiting tracks",
                got=f"{len(self._queue)} waiting tracks",
                fix="send fewer requests at once, or repeat later",
            )

    async def _score(self, tracks: Sequence[Track], model: Model) -> list[Outcome]:
        span = current_span()
        waiting = [_Waiting(track, model, span) for track in tracks]
        self._queue.extend(waiting)
        self._start_calls()
        try:
            return [await each.answer for each in waiting]
        except BaseException:
            for each in waiting:
                if not each.answer.cancel() and not each.answer.cancelled():
                    each.answer.exception()  # those behind the first error have nobody else who takes theirs
            self._queue = deque(each for each in self._queue if not each.answer.done())
            raise

    def _start_calls(self) -> None:
        """Start a call for each free slot, unless tracks are to be gathered for it."""
        while self._queue and len(self._calls) < self._slots:
            if len(self._calls) >= _SMALL_CALLS and len(self._queue) < self._enough and self._is_gathering():
                break
            batch = self._next_batch()
            if not batch:
                continue
            call = asyncio.create_task(self._call(batch))
            self._calls.add(call)
            for each in batch:
                each.answer.add_done_callback(partial(_cancel_unwanted, batch, call))
            call.add_done_callback(self._calls.discard)
            call.add_done_callback(lambda _: self._start_calls())
        metrics.QUEUE_DEPTH.set(len(self._queue))

    def _is_gathering(self) -> bool:
        """Return whether the oldest track may wait longer; `_start_calls` then runs again when it may not."""
        seconds = self._queue[0].since + _GATHERING_SECONDS - time.monotonic()
        if seconds > 0.0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._gathering_ends)
        return seconds > 0.0

    def _gathering_ends(self) -> None:
        self._timer = None
        self._start_calls()

    def _next_batch(self) -> list[_Waiting]:
        """Take the oldest track and those of similar length that fit into its call. The others keep their order."""
        while self._queue and self._queue[0].answer.done():
            self._queue.popleft()
        if not self._queue:
            return []
        first = self._queue[0]
        most = min(_LIMITS.tracks, self._triton.largest_batch.get(first.model.name, _LIMITS.tracks))
        longest = shortest = len(first.track)
        batch: list[_Waiting] = []
        rest: deque[_Waiting] = deque()
        while self._queue and len(batch) < most:
            each = self._queue.popleft()
            if each.answer.done():
                continue
            steps = len(each.track)
            high, low = max(longest, steps), min(shortest, steps)
            padding_fits = high - low <= max(_LIMITS.padding * high, FREE_PADDING)
            steps_fit = not batch or (len(batch) + 1) * high <= _LIMITS.steps
            if each.model is first.model and padding_fits and steps_fit:
                batch.append(each)
                longest, shortest = high, low
            else:
                rest.append(each)
        self._queue.extendleft(reversed(rest))
        return batch

    async def _call(self, waiting: list[_Waiting]) -> None:
        """Send one call, and give each track its outcome."""
        try:
            batch = RequestBatch(tuple(each.track for each in waiting), waiting[0].model)
            outcomes = await self._outcomes(batch, [each.span for each in waiting if each.span is not None])
        except Exception as error:  # the error of the call is that of each of its tracks
            for each in waiting:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each, outcome in zip(waiting, outcomes, strict=True):
            if not each.answer.done():
                each.answer.set_result(outcome)

    async def _outcomes(self, batch: RequestBatch, spans: Sequence[Span]) -> list[Outcome]:
        sent, begun = time.monotonic(), time.perf_counter()
        metrics.GATHERED_TRACKS.observe(len(batch))
        try:
            answer = await self._triton.infer(batch.model, inputs_of(batch), spans)
        except RefusedError as error:
            if len(batch) == 1:
                return [Refusal(reason=error.problem, is_fault=isinstance(error, ModelFaultError))]
            # One refused track must not refuse the others.
            alone = [RequestBatch((track,), batch.model) for track in batch.tracks]
            return [outcome for each in alone for outcome in await self._outcomes(each, spans)]
        require_answer(batch, answer, where=str(self._triton.endpoint))
        self._triton.answered(batch.model, int(answer[MODEL_VERSION.name][0, 0]), sent)
        return list(scores_of(batch, answer, time.perf_counter() - begun))


def _cancel_unwanted(batch: list[_Waiting], call: asyncio.Task[None], _answer: object) -> None:
    """Cancel a call if nobody waits for any of its tracks."""
    if not call.done() and all(each.answer.cancelled() for each in batch):
        call.cancel()
