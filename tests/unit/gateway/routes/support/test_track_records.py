from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from client.journal import Score
from gateway.accounts.principal import Principal
from gateway.comparison.assignment import Assignment, Target, Variant
from gateway.context import RequestContext
from gateway.inference_log.rows import decode_entry, encode_entry
from gateway.routes.support.track_records import log_rows, record
from gateway.scoring.answers import Answer
from gateway.scoring.scorer import ScoredTrack
from gateway.settings import Tier
from reentry.schema import MEASUREMENT_COLUMNS
from reentry.tracks.track import Track


def score_of(track_id: int) -> Score:
    return Score(
        track_id=track_id,
        onset_step=1,
        onset_timestamp=5.0,
        model_version=1,
        inference_seconds=0.01,
        tracks_in_request=1,
        time="2026-12-01T00:00:00Z",
        probability=np.array([0.1, 0.9], np.float32),
        phase=np.array([0, 1], np.uint8),
    )


def test_the_row_of_a_challenger_has_the_id_of_the_row_of_its_control() -> None:
    logged: list[dict[str, Any]] = []

    async def main() -> None:
        log = SimpleNamespace(record=lambda rows, **_: logged.extend(rows))
        control, challenger = Target(model="reentry"), Target(model="reentry_candidate")
        scored = []
        for track_id in (7, 8):
            track = Track(
                track_id=track_id,
                measurements=np.ones((2, len(MEASUREMENT_COLUMNS))),
                reentry_phase=None,
                rows=np.arange(2),
                steps=np.arange(2),
            )
            shadow = asyncio.create_task(asyncio.sleep(0, score_of(track_id)))
            assignment = Assignment(experiment_id="exp_a", variant=Variant.CONTROL, target=control, shadow=challenger)
            scored.append(
                ScoredTrack(
                    track=track, outcome=score_of(track_id), model="reentry", assignment=assignment, shadow=shadow
                )
            )
        tier = Tier(requests_per_second=1.0, burst=1, steps_per_minute=1, degraded=True)
        principal = Principal(account_id="acct_a", key_id="key", scopes=frozenset(), tier_name="standard", tier=tier)
        answer = Answer(degraded=False, tracks=[], refused=[], repairs={})
        context = RequestContext(request_id="constant")
        record(SimpleNamespace(log=log), principal, context, log_rows(scored), scored, answer, seconds=0.1)  # type: ignore[arg-type]
        await asyncio.gather(*(each.shadow for each in scored if each.shadow is not None))
        await asyncio.sleep(0)

    asyncio.run(main())
    rows = decode_entry(encode_entry("acct_a", 0.0, 0, logged)).rows
    controls = {row.track_id: row.id for row in rows if not row.shadow}
    assert controls.keys() == {7, 8}
    assert {row.track_id: row.control_id for row in rows if row.shadow} == controls
    assert all(row.control_id is None for row in rows if not row.shadow)
