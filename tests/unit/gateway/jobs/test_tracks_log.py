"""The tracks of a job are in the inference log once, however often they are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from client.journal import Score
from gateway.database.tables import LoggedTrack
from gateway.jobs import tracks_log
from gateway.jobs.scored_tracks import ScoredTracks
from gateway.jobs.tracks_log import steps_of, store_rows
from reentry.simulation import simulate_file
from reentry.tracks import read_tracks
from tests.unit.gateway.jobs.conftest import Bench


def score_of(track_id: int, steps: int, **given: Any) -> Score:
    values: dict[str, Any] = {
        "onset_step": -1,
        "onset_timestamp": None,
        "model_version": 4,
        "inference_seconds": 0.25,
        "tracks_in_request": 1,
        "time": "2026-12-01T01:00:00.500000+00:00",
    }
    probability = np.linspace(0, 0.5, steps, dtype=np.float32)
    return Score(track_id=track_id, probability=probability, phase=np.zeros(steps, np.uint8), **values | given)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, int]:
    """A file of three scored tracks, and the number of their steps."""
    simulate_file(tmp_path / "t.csv", tracks=3)
    scored = ScoredTracks()
    with read_tracks(tmp_path / "t.csv") as file:
        tracks = list(file)
        scored.add(tracks[0], score_of(tracks[0].track_id, len(tracks[0]), model_version=3))
        scored.clear()
        for number, track in enumerate(tracks):
            scored.add(track, score_of(track.track_id, len(track), unlike_training=None if number else ""))
        scored.write(tmp_path / "tracks")
        return tmp_path / "tracks", sum(map(len, tracks))


def test_rows_are_stored_once_for_each_job_and_track(
    with_bench: Callable[..., None], stored: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracks_log, "_BATCH", 2)
    path, steps = stored
    assert steps_of(path) == steps

    async def work(bench: Bench) -> None:
        for _ in range(2):
            await bench.create()
            lease = await bench.jobs.leases.acquire("one")
            assert lease is not None
            await store_rows(bench.database, lease, path)
            await store_rows(bench.database, replace(lease, fence=lease.fence + 1, owner="heir"), path)
        async with bench.database.reading() as connection:
            rows = (await connection.execute(select(LoggedTrack).order_by(LoggedTrack.track_id))).all()
        assert [row.track_id for row in rows] == [0, 0, 1, 1, 2, 2]
        assert sum(row.steps for row in rows) == 2 * steps
        assert {row.id[:14] for row in rows} <= {f"trk_{job[4:14]}" for job in await bench.job_ids()}
        assert {(row.account_id, row.key_id, row.request_id) for row in rows} == {
            (bench.east.account_id, "key", "req_1")
        }
        assert [row.model for row in rows] == ["reentry"] * 2 + ["reentry_fast"] * 4
        assert {(row.model_version, row.seconds, row.at) for row in rows} == {(4, 0.25, 1796086800.5)}
        assert {row.largest_probability for row in rows} == {0.5}
        assert not any(row.shadow or row.cached or row.degraded for row in rows)

    with_bench(work)
