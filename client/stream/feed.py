"""A feed of live tracks: sends measurements to a Triton server and gives an alert for each onset of reentry.

The server keeps the state of the tracks. If it is lost, the feed connects again, to another server if there is one,
replays the live tracks from its buffer and continues. No alert and no refinement is lost or given twice.

Shapes: N measurements of one call, M measurement columns.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from client.connection import ServerUnavailableError
from client.retry import RetryConfig
from client.stream.alert import Alert, Answers, Refinement
from client.stream.scan_session import ScanSession
from client.stream.sequence_stream import SequenceStream
from client.stream.servers import addresses_of, grpc_endpoints, ranked
from client.stream.session import SequenceLostError
from client.stream.state import FeedState
from client.stream.statistics import ReplayReason, Statistics
from client.stream.track_session import TrackSession
from client.stream.track_table import TrackTable
from reentry.errors import ClientError, ConfigError, InputError
from reentry.runtime.arguments import require_between
from reentry.schema import LARGEST_SCAN, MEASUREMENT_COLUMNS, REENTRY_SCAN, REENTRY_STREAM
from reentry.triton.live_feed import LARGEST_FEED

Mode = Literal["scan", "tracks"]
"""`scan`: one request for the measurements of all tracks; `tracks`: one request for each measurement."""

_LONGEST_NAME: Final = 98
"""Bytes of the longest name. Triton accepts 128 for a sequence, whose name has a random part and a track too."""
_LONGEST_END: Final = 5.0
"""Time that the end of a feed may take, s. The server drops sequences that were not ended after its idle time."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedConfig:
    """Settings of a feed."""

    mode: Mode = "scan"
    timeout: float = 30.0
    """Longest wait for the answer to a request, and for a free slot of the server, s."""
    idle: float = 60.0
    """Silence after which the server drops a track, s: max_sequence_idle_microseconds of the served model."""
    buffer: int = 2_000_000
    """Largest number of measurements that are kept for replays, 64 bytes each."""
    retry: RetryConfig = field(default_factory=RetryConfig)
    """Delays between connections, and the time without a server after which the feed fails."""

    def __post_init__(self) -> None:
        require_between("timeout", self.timeout, 0.001, 86_400, unit="s")
        require_between("idle time", self.idle, 0.001, 86_400, unit="s")
        require_between("measurements in the replay buffer", self.buffer, LARGEST_SCAN, 2**31 - 1)
        if self.mode not in ("scan", "tracks"):
            raise ConfigError("unknown mode of a feed", expected="scan or tracks", got=repr(self.mode))


class Feed:
    """A live feed.

    Example:
        async with Feed("radar-3", ["grpc://127.0.0.1:8001"], on_alert=print) as feed:
            answers = await feed.send(track_ids, measurements)
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        *,
        config: FeedConfig | None = None,
        on_alert: Callable[[Alert], None] | None = None,
        on_refinement: Callable[[Refinement], None] | None = None,
    ) -> None:
        """Prepare a feed; nothing is sent yet.

        Args:
            name: name of the feed, which appears in its alerts.
            urls: addresses of the servers. A name with several addresses counts as several servers.
            config: settings.
            on_alert: function that gets each alert the moment it arises.
            on_refinement: function that gets each refinement of an alert, 2, 5, 10 and 20 s after the onset. There are
                none in mode `tracks`, and none from a network that does not use the orbit filter.

        Raises:
            ConfigError: the name is empty or too long, or a URL is invalid.
        """
        check_name(name)
        self._config = config or FeedConfig()
        self._endpoints = grpc_endpoints(urls)
        self._state = FeedState(name, buffer=self._config.buffer, on_alert=on_alert, on_refinement=on_refinement)
        self._session: ScanSession | TrackSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._failure: BaseException | None = None
        self._server: str | None = None
        self._lost: str | None = None

    async def __aenter__(self) -> Feed:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(abandon=error is not None)

    def open(self) -> None:
        """Begin to connect. The connection is kept until `close`."""
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(self._ended)

    async def close(self, *, abandon: bool = False) -> None:
        """End the sequences on the server, within a bounded time.

        Args:
            abandon: whether nobody waits for unanswered measurements any more.
        """
        assert self._task is not None
        self._closing = True
        if abandon:
            self._state.abandon()
        if self._session is None:
            self._task.cancel()
        else:
            self._session.close()
        await asyncio.wait({self._task}, timeout=_LONGEST_END)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._state.fail(ClientError("the feed has ended", where=self.name))

    @property
    def name(self) -> str:
        """Name of the feed."""
        return self._state.name

    @property
    def server(self) -> str | None:
        """Address of the server in use; None while the feed is not connected."""
        return self._server

    @property
    def statistics(self) -> Statistics:
        """Counts and latencies since the start."""
        return self._state.statistics

    @property
    def model_version(self) -> int:
        """Version of the network that gave the latest answer; 0 before the first one."""
        return self._state.model_version

    @property
    def tracks(self) -> TrackTable:
        """The live tracks."""
        return self._state.tracks

    async def send(self, track_ids: npt.ArrayLike, measurements: npt.ArrayLike) -> Answers:
        """Send measurements and wait for their answers. Calls may overlap; the order of the calls counts.

        An invalid or late measurement never fails the call: it is not accepted. While no server answers, the call
        waits.

        Args:
            track_ids: track of each measurement, (N,).
            measurements: measurements, (N, M), with the columns of `schema.MEASUREMENT_COLUMNS`.

        Raises:
            InputError: the arrays have the wrong shape or type.
            ClientError: no server answered within the patience of the configuration, or the feed has ended.
        """
        tracks, rows = _checked(track_ids, measurements)
        return await self._send(tracks, rows)

    async def _send(self, tracks: npt.NDArray[np.int64], rows: npt.NDArray[np.float64]) -> Answers:
        if self._failure is not None:
            raise self._failure
        if self._task is None or self._closing:
            raise ClientError("the feed is not open", where=self.name, fix="use it inside `async with`")
        if self._config.mode == "scan":
            beyond = self._state.tracks.beyond(tracks, LARGEST_FEED)
            if beyond.any():
                return await self._send_known(tracks, rows, ~beyond)
        works = []
        for first in range(0, len(tracks), LARGEST_SCAN):
            work = self._state.hand(tracks[first : first + LARGEST_SCAN], rows[first : first + LARGEST_SCAN])
            works.append(work)
            if self._session is not None:
                self._session.add(work)
        parts = [await work.future for work in works]
        return parts[0] if len(parts) == 1 else Answers.joined(parts)

    async def _send_known(
        self, tracks: npt.NDArray[np.int64], rows: npt.NDArray[np.float64], sent: npt.NDArray[np.bool_]
    ) -> Answers:
        """Send only the measurements for whose tracks the server has room."""
        reason = (
            f"the feed has {len(self._state.tracks):,} live tracks, and a server keeps at most {LARGEST_FEED:,}; "
            "split the tracks into several feeds"
        )
        self._state.statistics.rejected["no_slot"] += int(np.count_nonzero(~sent))
        answers = await self._send(tracks[sent], rows[sent]) if sent.any() else Answers.empty(0)
        return answers.spread(sent, reason)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._failure = error
            self._state.fail(error)

    async def _run(self) -> None:
        """Connect again and again, until the feed is closed.

        Raises:
            ClientError: nothing was answered within the patience.
        """
        retry, delay = self._config.retry, self._config.retry.first_delay
        reason: ReplayReason = "lost_server"
        failing_since: float | None = None
        while True:
            updates = self._state.statistics.updates
            try:
                await self._connected(reason)
            except SequenceLostError as error:
                reason, problem = error.reason, str(error)
            except ServerUnavailableError as error:
                reason, problem = "lost_server", error.problem
            else:
                return
            now = time.monotonic()
            if failing_since is None or self._state.statistics.updates > updates:
                failing_since, delay = now, retry.first_delay
                _log.warning("feed %s: %s; connecting again for %g s", self.name, problem, retry.patience)
            if self._state.works:
                waiting = now - max(failing_since, next(iter(self._state.works)).handed)
                if waiting >= retry.patience:
                    raise ClientError(
                        f"no answer from the server for {waiting:.0f} s: {problem}",
                        where=", ".join(map(str, self._endpoints)),
                        fix="start a server with `reentry serve`, or give its address with --url",
                    )
            if self._closing and not self._state.works:
                return
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(retry.longest_delay, 2.0 * delay)

    async def _connected(self, reason: ReplayReason) -> None:
        """Use the first server that answers until it is lost, or the feed is closed."""
        session_kind, model = (
            (ScanSession, REENTRY_SCAN) if self._config.mode == "scan" else (TrackSession, REENTRY_STREAM)
        )
        addresses = ranked(self.name, await addresses_of(self._endpoints))
        addresses.sort(key=lambda address: address == self._lost)  # the lost server last, because it may hang
        for address in addresses:
            stream = SequenceStream(address, model)
            try:
                await stream.open()
                break
            except ServerUnavailableError:
                if address == addresses[-1]:
                    raise
        try:
            self._session = session_kind(
                self._state, stream, timeout=self._config.timeout, idle=self._config.idle, reason=reason
            )
            self._server = address
            if self._closing:
                self._session.close()
            await self._session.run()
            await stream.finish()
        except ServerUnavailableError:
            self._lost = address
            raise
        finally:
            self._session = self._server = None
            stream.close()


def check_name(name: str) -> None:
    """Check the name of a feed.

    Raises:
        ConfigError: it is empty or too long.
    """
    if not 1 <= len(name.encode()) <= _LONGEST_NAME:
        raise ConfigError(
            "invalid name of a feed",
            expected=f"1 to {_LONGEST_NAME} bytes",
            got=repr(name),
            fix="give another name with --name",
        )


def _checked(track_ids: Any, measurements: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the arrays of a call with the types of the model.

    Raises:
        InputError: they have the wrong shape or type.
    """
    tracks, rows = np.asarray(track_ids), np.asarray(measurements)
    columns = len(MEASUREMENT_COLUMNS)
    are_numbers = tracks.dtype.kind in "iu" and rows.dtype.kind in "fiu"
    if not are_numbers or tracks.ndim != 1 or not len(tracks) or rows.shape != (len(tracks), columns):
        raise InputError(
            "not the measurements of live tracks",
            expected=f"track_ids (N,) of integers and measurements (N, {columns}) of numbers, N >= 1",
            got=f"{tracks.dtype} {tracks.shape} and {rows.dtype} {rows.shape}",
        )
    return tracks.astype(np.int64), rows.astype(np.float64)
