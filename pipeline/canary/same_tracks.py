"""Agreement of two releases about the same tracks, which both score."""

from __future__ import annotations

import pandas as pd

from client.dataframe import Reentry
from pipeline.canary.checks import Pairs
from pipeline.canary.config import SameTracks
from pipeline.canary.prometheus import NoFiguresError
from reentry.decision import AGREEMENT_SECONDS
from reentry.errors import ClientError
from reentry.schema import TRACK_ID
from reentry.tracks import read_tracks, tracks_table

_PATIENCE = 15.0
"""Time without an answer after which a server is given up, s."""


def read_sample(config: SameTracks) -> pd.DataFrame:
    """Read the file of tracks.

    Raises:
        TrackFileError: it is not a file of tracks.
    """
    with read_tracks(config.tracks) as file:
        return tracks_table(list(file))


def score_pairs(config: SameTracks, tracks: pd.DataFrame) -> Pairs:
    """Score tracks by both servers, and count those with the same decision.

    A track that only one of the servers scores is one that they do not agree about.

    Raises:
        NoFiguresError: a server does not answer, or its answer is invalid.
    """
    onsets = {}
    for name, url in (("stable", config.stable), ("canary", config.canary)):
        try:
            scores = Reentry(url, patience=_PATIENCE).score(tracks)
        except ClientError as error:
            raise NoFiguresError(f"the {name} server does not score the tracks: {error}") from error
        onsets[name] = scores.tracks.set_index(TRACK_ID.name)["onset_timestamp"].astype(float)
    both = onsets["stable"].index.intersection(onsets["canary"].index)
    one, other = onsets["stable"][both], onsets["canary"][both]
    agrees = (one.isna() & other.isna()) | ((one - other).abs() <= AGREEMENT_SECONDS)
    return Pairs(tracks=len(onsets["stable"].index.union(onsets["canary"].index)), agreeing=int(agrees.sum()))
