"""Gathering of tracks into calls of a real Triton server, inside this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from client.connection import ServerUnavailableError
from client.journal import Score
from client.scoring import Refusal
from gateway import metrics
from gateway.problems import Problem
from gateway.scoring.bodies import ARROW, read_body
from gateway.scoring.gathering import Gathering, Outcome
from gateway.scoring.triton import Triton
from gateway.settings import GatewaySettings
from reentry.schema import ENSEMBLE, REENTRY_FAST
from reentry.serving import EmbeddedServer
from reentry.tracks import Track
from tests.gateway_servers import free_port
from tests.unit.gateway.scoring.test_bodies import as_arrow, table


def tracks_of(count: int, steps: int = 40) -> list[Track]:
    with read_body(as_arrow(table(count, steps)), ARROW) as file:
        return list(file)


@asynccontextmanager
async def gathering(url: str, tmp_path: Path, **given: object) -> AsyncIterator[tuple[Gathering, Triton]]:
    settings = GatewaySettings(data=tmp_path, **given)  # type: ignore[arg-type]
    async with Triton(url, settings).open() as triton:
        yield Gathering(triton, settings), triton


def calls() -> tuple[float, float]:
    """Number of calls and of gathered tracks so far."""
    samples = {sample.name: sample.value for metric in metrics.GATHERED_TRACKS.collect() for sample in metric.samples}
    name = "reentry_gateway_gathered_tracks"
    return samples[f"{name}_count"], samples[f"{name}_sum"]


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work(), 120)

    asyncio.run(bounded())


def test_waiting_tracks_share_calls_and_each_gets_its_own_score(server: EmbeddedServer, tmp_path: Path) -> None:
    tracks = tracks_of(60)

    async def work() -> None:
        async with gathering(f"grpc://{server.grpc_url}", tmp_path, calls_in_flight=2) as (queue, _):
            alone = [(await queue.score([track], ENSEMBLE))[0] for track in tracks[:4]]
            before = calls()
            answers = await asyncio.gather(*(queue.score([track], ENSEMBLE) for track in tracks))
            made, gathered = np.subtract(calls(), before)
            assert (made, gathered) == (2 + 4, 60)  # two start at once; the other 58 wait, and a call takes 16
            for track, [score] in zip(tracks, answers, strict=True):
                assert isinstance(score, Score)
                assert score.track_id == track.track_id
            for expected, [score] in zip(alone, answers, strict=False):
                assert isinstance(score, Score)
                assert isinstance(expected, Score)
                np.testing.assert_allclose(score.probability, expected.probability, atol=1e-6)

    run(work)


def test_tracks_of_very_different_length_do_not_share_a_call(server: EmbeddedServer, tmp_path: Path) -> None:
    tracks = [*tracks_of(3, 40), *tracks_of(3, 400)]

    async def work() -> None:
        async with gathering(f"grpc://{server.grpc_url}", tmp_path, calls_in_flight=1) as (queue, _):
            before = calls()
            await queue.score(tracks, ENSEMBLE)
            made, gathered = np.subtract(calls(), before)
            assert (made, gathered) == (2, 6)

    run(work)


def test_a_refused_track_does_not_refuse_those_of_the_same_call(server: EmbeddedServer, tmp_path: Path) -> None:
    tracks = tracks_of(3)
    tracks[1].measurements[5, 0] = tracks[1].measurements[4, 0] - 10.0  # time goes backwards, which Triton refuses

    async def work() -> None:
        async with gathering(f"grpc://{server.grpc_url}", tmp_path) as (queue, triton):
            first, second, third = await queue.score(tracks, ENSEMBLE)
            assert isinstance(first, Score)
            assert isinstance(second, Refusal)
            assert isinstance(third, Score)
            assert not triton.is_away

    run(work)


def test_the_version_of_an_answer_is_known_until_triton_serves_another(server: EmbeddedServer, tmp_path: Path) -> None:
    async def work() -> None:
        async with gathering(f"grpc://{server.grpc_url}", tmp_path) as (queue, triton):
            assert triton.version(ENSEMBLE) is None
            await queue.score(tracks_of(1), ENSEMBLE)
            assert (triton.version(ENSEMBLE), triton.version(REENTRY_FAST)) == (1, None)

    run(work)


def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        # A listener that never answers stands in for a hung Triton, which cannot be made on purpose.
        with socket.create_server(("127.0.0.1", 0)) as hung:
            await refuse(f"grpc://127.0.0.1:{hung.getsockname()[1]}")

    async def refuse(url: str) -> None:
        async with gathering(url, tmp_path, calls_in_flight=1, queue=2) as (queue, _):
            waiting = [asyncio.create_task(queue.score([track], ENSEMBLE)) for track in tracks_of(3)]
            await asyncio.sleep(0)
            with pytest.raises(Problem) as caught:
                await queue.score(tracks_of(1), ENSEMBLE)
            assert (caught.value.code, caught.value.headers["retry-after"]) == ("overloaded", "1")
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            with pytest.raises(ServerUnavailableError):  # the cancelled ones have left the queue
                await queue.score(tracks_of(1), ENSEMBLE)

    run(work)


@asynccontextmanager
async def hanging(server: EmbeddedServer, tmp_path: Path, **given: object) -> AsyncIterator[Gathering]:
    """Gathering whose calls never end, which a real Triton cannot be made to do on purpose."""

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async with gathering(f"grpc://{server.grpc_url}", tmp_path, **given) as (queue, triton):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(triton, "infer", hang)
            yield queue


async def cancel(tasks: list[asyncio.Task[list[Outcome]]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_single_tracks_are_gathered_while_two_calls_are_in_flight(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.scoring.gathering._GATHERING_SECONDS", 3600.0)

    async def work() -> None:
        async with hanging(server, tmp_path, calls_in_flight=8) as queue:
            waiting, in_flight = [], []
            for tracks in (tracks_of(1), tracks_of(1), tracks_of(1), tracks_of(14), tracks_of(1), tracks_of(100)):
                waiting.append(asyncio.create_task(queue.score(tracks, ENSEMBLE)))
                await asyncio.sleep(0)
                in_flight.append(len(queue._calls))
                assert queue.is_idle is (in_flight[-1] < 2)
            assert in_flight == [1, 2, 2, 2, 3, 8]  # a call takes 16 tracks
            await cancel(waiting)

    run(work)


def test_a_gathered_track_waits_only_a_short_time_for_slow_calls(server: EmbeddedServer, tmp_path: Path) -> None:
    async def work() -> None:
        async with hanging(server, tmp_path) as queue:
            waiting = [asyncio.create_task(queue.score(tracks_of(1), ENSEMBLE)) for _ in range(4)]
            while len(queue._calls) < 3:
                await asyncio.sleep(0.001)
            assert not queue._queue  # both gathered tracks are in the third call
            await cancel(waiting)

    run(work)


def test_a_small_queue_does_not_refuse_tracks_while_slots_are_free(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.scoring.gathering._GATHERING_SECONDS", 3600.0)

    async def work() -> None:
        async with hanging(server, tmp_path, queue=2) as queue:
            waiting = []
            for _ in range(7):  # two alone, two pairs, and one that waits
                waiting.append(asyncio.create_task(queue.score(tracks_of(1), ENSEMBLE)))
                await asyncio.sleep(0)
            assert (len(queue._calls), len(queue._queue)) == (4, 1)
            assert not [task for task in waiting if task.done()]
            await cancel(waiting)

    run(work)


def test_the_breaker_opens_after_three_calls_without_an_answer(tmp_path: Path) -> None:
    async def work() -> None:
        async with gathering(f"grpc://127.0.0.1:{free_port()}", tmp_path) as (queue, triton):
            for number in range(3):
                assert triton.is_away is (number >= 3)
                with pytest.raises(ServerUnavailableError):
                    await queue.score(tracks_of(1), ENSEMBLE)
            assert triton.is_away
            with pytest.raises(ServerUnavailableError, match="does not answer"):
                await queue.score(tracks_of(1), ENSEMBLE)

    run(work)
