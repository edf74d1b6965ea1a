"""The number of held-out tracks, which is checked before a training."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.features.build import build_features
from pipeline.features.training_data import LakeTrainingData
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.retraining.gate import FEWEST, require_held_out
from reentry.errors import InputError
from tests.lake import write_clean
from tests.landing import flat_track


@pytest.mark.parametrize(("tracks", "enough"), [(30, False), (200, True)])
def test_too_few_held_out_tracks_are_refused(lake: Lake, tracks: int, enough: bool) -> None:
    write_clean(lake, pd.concat([flat_track(number) for number in range(tracks)], ignore_index=True))
    build_features(lake)
    data = LakeTrainingData.of(lake, TableReference("features"))
    if enough:
        require_held_out(data)
    else:
        with pytest.raises(InputError) as raised:
            require_held_out(data)
        assert raised.value.expected == f"at least {FEWEST}"
