"""Choice of the model for each request of a run: the fastest that the server offers, and `reentry` for a sample.

Only `reentry` compares tracks with the training data and measures drift, so a sample of the tracks goes there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from client.batching import BatchConfig, RequestBatch, batches
from client.connection import Connection
from client.retry import Retry
from reentry.errors import ClientError
from reentry.schema import ENSEMBLE, REENTRY_FAST, REENTRY_LSTM, REENTRY_TRACK, TRACK_DECISION, Model
from reentry.tracks import Track

FIRST_TRACKS: Final = 256
"""Number of tracks at the start of a run that `reentry` scores."""
SAMPLED: Final = 64
"""After these tracks, `reentry` scores one of this many requests."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """The models and the batches of one run."""

    model: Model
    """Model for the requests outside the sample: `reentry_fast`, or `reentry`."""
    batching: BatchConfig
    """Limits of one request that all models of the run accept."""

    @classmethod
    async def of(cls, connection: Connection, retry: Retry, config: BatchConfig, *, fast: bool = True) -> Routing:
        """Ask the server for its models, and reduce the tracks in one request to what they accept.

        Args:
            connection: connection to the server.
            retry: retries of the run.
            config: limits of one request.
            fast: use `reentry_fast` if the server offers it.

        Raises:
            ClientError: the server did not answer.
        """
        accepted = await retry(lambda: connection.max_batch(ENSEMBLE))
        model = ENSEMBLE
        if fast:
            try:
                obstacle = await _obstacle(connection)
                if obstacle is None:
                    accepted = min(accepted, await connection.max_batch(REENTRY_FAST))
                    model = REENTRY_FAST
            except ClientError as error:  # only `reentry` has to answer
                obstacle = error.problem
            _log.debug("%s scores the tracks%s", model.name, f", because {obstacle}" if obstacle else "")
        tracks = max(1, min(config.tracks, accepted))
        _log.debug("%s accepts %d tracks in one request; sending up to %d", connection.endpoint, accepted, tracks)
        return cls(model=model, batching=replace(config, tracks=tracks))

    def requests(self, tracks: Iterable[Track]) -> Iterator[RequestBatch]:
        """Group tracks into requests. Each track is in exactly one request."""
        remaining = iter(tracks)
        yield from batches(islice(remaining, FIRST_TRACKS), self.batching)
        for number, batch in enumerate(batches(remaining, self.batching), 1):
            yield batch if number % SAMPLED == 0 else replace(batch, model=self.model)


async def _obstacle(connection: Connection) -> str | None:
    """Return why `reentry_fast` must not be used, or None if it gives the same answers as `reentry`."""
    if not await connection.is_ready(REENTRY_FAST):
        return f"the server does not serve {REENTRY_FAST.name}"
    if thresholds := await connection.parameters(TRACK_DECISION):
        return f"{TRACK_DECISION.name} sets {', '.join(thresholds)}, and {REENTRY_FAST.name} has the default thresholds"
    versions, others = await connection.versions(REENTRY_LSTM), await connection.versions(REENTRY_TRACK)
    if versions != others:
        return f"{REENTRY_LSTM.name} serves version {', '.join(versions)}, {REENTRY_TRACK.name} {', '.join(others)}"
    return None
