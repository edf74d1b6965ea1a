"""The altitude-fraction rule, which scores tracks while Triton is away.

Reentry is below a fraction of the highest altitude so far. It is one of the baselines that the network is compared
with: docs/evaluation.md has its errors. It knows nothing of refined onsets and of the training data.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from client.journal import Score
from reentry.decision import NO_ONSET, onset_of, phase_of
from reentry.features.track import track_features
from reentry.schema import FEATURES
from reentry.tracks import Track

MODEL_NAME: Final = "altitude_fraction"
"""Name of the rule in answers and in the inference log."""
FRACTION: Final = 0.5
"""Fraction of the highest altitude below which a track is in reentry. At the onsets of simulated trapezoids it is
0.500 on average, with a standard deviation of 0.001."""

_COLUMN: Final = FEATURES.index("altitude_fraction")


def score_by_rule(track: Track, *, time: str) -> Score:
    """Score a track by the rule. The model version of the score is 0.

    Args:
        track: the track.
        time: time of the answer, UTC, ISO 8601.
    """
    fraction = track_features(track.measurements, groups=frozenset())[:, _COLUMN]
    probability = (fraction < FRACTION).astype(np.float32)
    phase = phase_of(probability)
    onset = int(onset_of(phase))
    return Score(
        track_id=track.track_id,
        onset_step=onset,
        onset_timestamp=None if onset == NO_ONSET else float(track.timestamp[onset]),
        model_version=0,
        inference_seconds=0.0,
        tracks_in_request=1,
        time=time,
        probability=probability,
        phase=phase,
    )
