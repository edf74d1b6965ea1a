"""A run that is stopped keeps what it scored, and its caller sees the progress. The requests are replaced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from client import predict
from client.batching import BatchConfig, RequestBatch
from client.control import Control, Progress, Stage
from client.journal import Score
from client.predict import JOURNAL_NAME, PredictConfig, predict_file
from client.routing import Routing
from client.scoring import Outcome, Refusal
from reentry.schema import ENSEMBLE
from reentry.simulation import simulate_file
from reentry.tracks import ReadReport

REFUSED = 1
"""Track that the replaced server refuses."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictConfig:
    """Settings for a file of five tracks, scored one by one by a replaced server."""

    async def score(batches: Iterable[RequestBatch], *_: Any, **__: Any) -> AsyncGenerator[list[Outcome], None]:
        for (track,) in (batch.tracks for batch in batches):
            await asyncio.sleep(0)
            if track.track_id == REFUSED:
                yield [(track, Refusal(reason="refused"))]
                continue
            steps = len(track)
            values: dict[str, Any] = {
                "onset_step": -1,
                "onset_timestamp": None,
                "model_version": 4,
                "inference_seconds": 0.0,
            }
            values |= {"tracks_in_request": 1, "time": "", "track_id": track.track_id}
            yield [(track, Score(**values, probability=np.zeros(steps, np.float32), phase=np.zeros(steps, np.uint8)))]

    @asynccontextmanager
    async def connection(*_: Any, **__: Any) -> AsyncGenerator[None, None]:
        yield

    async def routing(*_: Any, **__: Any) -> Routing:
        return Routing(model=ENSEMBLE, batching=BatchConfig(tracks=1))

    async def unchanged(*_: Any) -> None:
        pass

    monkeypatch.setattr(predict, "score", score)
    monkeypatch.setattr(predict, "Connection", connection)
    monkeypatch.setattr(Routing, "of", routing)
    monkeypatch.setattr(predict._Run, "_check_journal", unchanged)
    simulate_file(tmp_path / "t.csv", tracks=5)
    return PredictConfig(source=tmp_path / "t.csv", out=tmp_path / "out")


def test_the_progress_counts_scored_and_refused_tracks(config: PredictConfig) -> None:
    seen: list[Progress] = []
    reports: list[ReadReport] = []
    predict_file(config, Control(on_progress=seen.append, on_report=reports.append))
    assert (seen[0].done, seen[0].refused) == (0, 0)
    assert (seen[-1].done, seen[-1].refused) == (4, 1)
    assert sorted(each.done + each.refused for each in seen) == [0, 1, 2, 3, 4, 5, 5]
    assert {(each.tracks, each.rows) for each in seen} == {(5, len(pd.read_csv(config.source)))}
    assert [each.stage for each in seen] == [Stage.SCORING] * 6 + [Stage.WRITING]
    assert (seen[0].model_version, seen[-1].model_version) == (None, 4)
    assert [each.track_id for each in reports[0].set_aside] == [REFUSED]


def test_every_scored_track_is_reported_once(config: PredictConfig) -> None:
    seen: list[tuple[int, int]] = []
    predict_file(config, Control(on_scored=lambda track, score: seen.append((track.track_id, score.track_id))))
    assert sorted(seen) == [(each, each) for each in range(5) if each != REFUSED]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_stopped_run_writes_every_row_and_leaves_the_unscored_ones_empty(
    config: PredictConfig, resumed: bool
) -> None:
    scored = 2

    def stop(progress: Progress) -> None:
        if progress.done >= scored:
            control.stop()

    control = Control(on_progress=stop)
    if resumed:
        # The first run ends without results, like one whose process is killed.
        def end(progress: Progress) -> None:
            if progress.done >= scored:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            predict_file(config, Control(on_progress=end))
        assert (config.out / JOURNAL_NAME).exists()
        control = Control()
        control.stop()
    summary = predict_file(config, control)
    # Without the kept scores the refused track is known before the stop.
    assert (summary.tracks, summary.unscored, summary.set_aside) == ((scored, 3, 0) if resumed else (scored, 2, 1))
    table = pd.read_csv(config.out / "predictions.csv")
    source = pd.read_csv(config.source)
    pd.testing.assert_frame_equal(table[source.columns.drop("reentry_phase")], source.drop(columns="reentry_phase"))
    filled = table.groupby("track_id")["reentry_probability"].agg(["count", "size"])
    assert ((filled["count"] == filled["size"]) | (filled["count"] == 0)).all()
    assert (filled["count"] > 0).sum() == scored
    assert len(pd.read_csv(config.out / "onsets.csv")) == scored
    assert not (config.out / JOURNAL_NAME).exists()


def test_a_stop_from_another_thread_ends_a_wait_for_the_server(
    config: PredictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(*_: Any, **__: Any) -> Routing:
        threading.Thread(target=control.stop).start()
        await asyncio.sleep(600)
        raise AssertionError

    monkeypatch.setattr(Routing, "of", wait)
    control = Control()
    summary = predict_file(config, control)
    assert (summary.tracks, summary.unscored) == (0, 5)
    assert pd.read_csv(config.out / "predictions.csv")["reentry_probability"].isna().all()


def test_an_error_of_the_run_is_raised_in_spite_of_the_control() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(Control().run(fail))
