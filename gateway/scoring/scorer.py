"""Scores the tracks of one request: the variants of experiments, gathering, the cache of answers, and the fallback."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from client.connection import ServerUnavailableError
from client.journal import Score
from client.scoring import Refusal
from gateway import metrics
from gateway.accounts.principal import Principal
from gateway.comparison.assignment import Assignment, Target, TargetServer
from gateway.comparison.experiments import Experiments
from gateway.problems import Problem
from gateway.scoring.answers import Scored
from gateway.scoring.cache import SingleFlight
from gateway.scoring.fallback import MODEL_NAME as RULE
from gateway.scoring.fallback import score_by_rule
from gateway.scoring.gathering import Gathering, Outcome
from gateway.scoring.triton import Triton, TritonOverloadedError
from gateway.settings import GatewaySettings
from reentry.errors import ClientError
from reentry.schema import ENSEMBLE, REENTRY_FAST, Model
from reentry.tracks import Track

MODELS: Final = {model.name: model for model in (ENSEMBLE, REENTRY_FAST)}
"""Models that score whole tracks, by name."""

_MOST_SHADOWS: Final = 64
"""Number of tracks that a challenger may score beside the answers at once. Further tracks are not compared."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTrack(Scored):
    """One track of a request with its outcome and its part in an experiment."""

    assignment: Assignment | None
    shadow: asyncio.Task[Outcome] | None
    """Score of the challenger, which arrives later."""


class Server:
    """One Triton server with the queue of its tracks."""

    def __init__(self, url: str, settings: GatewaySettings) -> None:
        self.triton = Triton(url, settings)
        self.gathering = Gathering(self.triton, settings)


class Scorer:
    """Scoring of one process."""

    def __init__(self, settings: GatewaySettings, experiments: Experiments) -> None:
        self._experiments = experiments
        self._servers = {TargetServer.MAIN: Server(settings.triton_url, settings)}
        if settings.second_triton_url:
            self._servers[TargetServer.SECOND] = Server(settings.second_triton_url, settings)
        self._flights: SingleFlight[list[Outcome] | None] = SingleFlight()
        self._shadows: set[asyncio.Task[Outcome]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Scorer]:
        """Connect to the servers."""
        async with AsyncExitStack() as stack:
            for server in self._servers.values():
                await stack.enter_async_context(server.triton.open())
            try:
                yield self
            finally:
                for task in self._shadows:
                    task.cancel()
                await asyncio.gather(*self._shadows, return_exceptions=True)

    @property
    def main(self) -> Server:
        """The server at `triton_url`."""
        return self._servers[TargetServer.MAIN]

    def has_experiment(self, account_id: str) -> bool:
        """Whether the account runs an experiment, so that answers depend on the account."""
        return self._experiments.is_running(account_id)

    def check(self, principal: Principal) -> None:
        """Refuse a request that would fail, before its body is read.

        Raises:
            Problem: the queue is full, or Triton is away and the tier does not allow the fallback.
        """
        self.main.gathering.check_room()
        if self.main.triton.refuses and not principal.tier.degraded:
            raise _away()

    async def score(
        self, principal: Principal, tracks: Sequence[Track], model: Model, content: bytes
    ) -> list[ScoredTrack]:
        """Score tracks in their order.

        Args:
            principal: sender of the tracks.
            tracks: the tracks.
            model: model for the tracks that are in no experiment.
            content: hash of the content; the same content is scored once for all concurrent requests.

        Raises:
            Problem: the queue is full, or Triton is away and the tier does not allow the fallback, or the answer of
                Triton is invalid.
        """
        if not self.has_experiment(principal.account_id):
            outcomes = await self._flights.run((content, model.name), lambda: self._by_main(tracks, model))
            return await self._taken(principal, tracks, [None] * len(tracks), model.name, outcomes)
        assignments = [self._experiments.variant_of(principal.account_id, track.track_id) for track in tracks]
        groups: dict[Target, list[int]] = {}
        for place, assignment in enumerate(assignments):
            target = Target(model=model.name) if assignment is None else assignment.target
            groups.setdefault(target, []).append(place)
        answers = await asyncio.gather(
            *(self._by_target(target, [tracks[place] for place in places]) for target, places in groups.items())
        )
        scored: dict[int, ScoredTrack] = {}
        for (target, places), answered in zip(groups.items(), answers, strict=True):
            chosen = [tracks[place] for place in places]
            parts = [assignments[place] for place in places]
            outcomes, name = answered, target.model
            if outcomes is None:  # the target is away; its tracks leave the experiment
                outcomes, name, parts = await self._by_main(chosen, model), model.name, [None] * len(chosen)
            scored |= zip(places, await self._taken(principal, chosen, parts, name, outcomes), strict=True)
        return [scored[place] for place in range(len(tracks))]

    async def _taken(
        self,
        principal: Principal,
        tracks: Sequence[Track],
        assignments: Sequence[Assignment | None],
        model: str,
        outcomes: Sequence[Outcome] | None,
    ) -> list[ScoredTrack]:
        """Join tracks and outcomes. Without outcomes the altitude-fraction rule scores the tracks.

        Raises:
            Problem: Triton is away and the tier does not allow the rule.
        """
        if outcomes is None:
            if not principal.tier.degraded:
                raise _away()
            scores = await asyncio.to_thread(_by_rule, tracks)
            return [
                ScoredTrack(track=track, model=RULE, outcome=score, assignment=None, shadow=None)
                for track, score in zip(tracks, scores, strict=True)
            ]
        return [
            ScoredTrack(
                track=track,
                model=model,
                outcome=outcome,
                assignment=assignment,
                shadow=None if assignment is None else self._shadow(track, assignment),
            )
            for track, outcome, assignment in zip(tracks, outcomes, assignments, strict=True)
        ]

    async def _by_target(self, target: Target, tracks: Sequence[Track]) -> list[Outcome] | None:
        """Return the outcomes of a target of an experiment; None if it is away or fails."""
        server = self._servers.get(target.server)
        try:
            return None if server is None else await self._by_server(server, tracks, _model(target.model))
        except Problem as problem:
            if problem.code == "overloaded":
                raise
            _log.warning("a target of an experiment failed: %s: %s", target.model, problem)
            return None

    async def _by_main(self, tracks: Sequence[Track], model: Model) -> list[Outcome] | None:
        """Return the outcomes of a model of the main server; None if Triton is away.

        Raises:
            Problem: Triton does not serve the model, the queue is full, or the answer is invalid.
        """
        outcomes = await self._by_server(self.main, tracks, model)
        triton = self.main.triton
        is_served = triton.is_away or ENSEMBLE.name not in triton.largest_batch or model.name in triton.largest_batch
        if outcomes is None and not is_served:
            raise Problem(
                "model-unavailable",
                f"Triton does not serve {model.name}",
                where="query parameter model",
                expected=", ".join(sorted(triton.largest_batch)),
                got=model.name,
            )
        return outcomes

    async def _by_server(self, server: Server, tracks: Sequence[Track], model: Model) -> list[Outcome] | None:
        """Return the outcomes of tracks; None if Triton is away.

        Raises:
            Problem: the queue is full, or the answer is invalid.
        """
        try:
            return await server.gathering.score(tracks, model)
        except TritonOverloadedError as error:
            raise Problem.of("overloaded", error, where="the model server") from error
        except ServerUnavailableError as error:
            _log.warning("Triton does not answer: %s", error.problem)
            return None
        except ClientError as error:
            _log.error("Triton's answer is invalid: %s", error)
            raise Problem.of("invalid-answer", error, where="the model server") from error

    def _shadow(self, track: Track, assignment: Assignment) -> asyncio.Task[Outcome] | None:
        """Score a track by the challenger in the background."""
        server = None if assignment.shadow is None else self._servers.get(assignment.shadow.server)
        # The answers come first: a challenger scores only what does not have to wait.
        if assignment.shadow is None or server is None or len(self._shadows) >= _MOST_SHADOWS:
            return None
        if not server.gathering.is_idle:
            return None
        task = asyncio.ensure_future(_first(server.gathering, track, _model(assignment.shadow.model)))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)
        return task


def _by_rule(tracks: Sequence[Track]) -> list[Score]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return [score_by_rule(track, time=now) for track in tracks]


def _away() -> Problem:
    return Problem(
        "model-unavailable",
        "the model server does not answer",
        retry_after=1.0,
        fix="repeat the request later, or create a job, which waits: POST /v1/jobs",
    )


async def _first(gathering: Gathering, track: Track, model: Model) -> Outcome:
    [outcome] = await gathering.score([track], model)
    return outcome


def _model(name: str) -> Model:
    """Return a model by name: one of `MODELS`, or an ensemble with the tensors of `reentry`."""
    return MODELS.get(name) or Model(name, ENSEMBLE.inputs, ENSEMBLE.outputs)


def counted(scored: Sequence[Scored]) -> None:
    """Count the tracks of an answer."""
    results = Counter(
        "refused" if isinstance(each.outcome, Refusal) else "degraded" if each.model == RULE else "scored"
        for each in scored
    )
    for result, count in results.items():
        metrics.TRACKS.labels(result).inc(count)
    metrics.STEPS.inc(sum(len(each.track) for each in scored if isinstance(each.outcome, Score)))
