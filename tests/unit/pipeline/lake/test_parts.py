"""Parts of a frozen table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.batching import BatchConfig, batches
from pipeline.lake.lake import Lake
from pipeline.lake.parts import clean_rows, cuts, parts_of
from pipeline.lake.tables import BUCKETS, bucket_of
from reentry.errors import LakeError
from reentry.tracks import Track
from tests.lake import write_clean
from tests.training_data import short_flights

WINDOW = 50
counts_of_tracks = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def tracks_of(counts: list[int], first: int = 0) -> list[Track]:
    rows = [np.arange(count) for count in counts]
    return [
        Track(track_id=first + index, measurements=np.zeros((len(own), 6)), reentry_phase=None, rows=own, steps=own)
        for index, own in enumerate(rows)
    ]


@given(counts_of_tracks, st.integers(1, 400))
def test_every_track_is_in_exactly_one_part_of_bounded_size(counts: list[int], part_rows: int) -> None:
    starts = list(cuts(counts, part_rows, WINDOW))
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    sizes = [sum(counts[start:stop]) for start, stop in zip(starts, [*starts[1:], len(counts)], strict=True)]
    assert sum(sizes) == sum(counts)
    assert min(sizes) > 0
    assert min(sizes[:-1], default=part_rows) >= part_rows
    assert max(sizes) < part_rows + WINDOW + max(counts)


@given(counts_of_tracks, st.integers(1, 400))
def test_the_tracks_of_a_batch_do_not_depend_on_the_size_of_the_parts(counts: list[int], part_rows: int) -> None:
    config = BatchConfig(tracks=4, window=WINDOW)
    starts = list(cuts(counts, part_rows, WINDOW))
    divided = [
        tuple(track.track_id for track in batch.tracks)
        for start, stop in zip(starts, [*starts[1:], len(counts)], strict=True)
        for batch in batches(tracks_of(counts[start:stop], start), config)
    ]
    assert divided == [tuple(track.track_id for track in batch.tracks) for batch in batches(tracks_of(counts), config)]


def test_the_parts_of_all_buckets_cover_the_tracks_of_one_version(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    flights = short_flights(30)
    version = write_clean(lake, flights)
    write_clean(lake, short_flights(3))  # a later version, which the parts must not see
    found = []
    for bucket in range(BUCKETS):
        for part in parts_of(lake.location, version, 100, bucket, window=100):
            inside = flights[
                (bucket_of(flights["track_id"].to_numpy()) == bucket)
                & flights["track_id"].between(part.first, part.last)
            ]
            assert part.bucket == bucket
            assert (part.tracks, part.rows) == (inside["track_id"].nunique(), len(inside))
            found.append(inside)
    assert len(found) > BUCKETS
    pd.testing.assert_frame_equal(pd.concat(found).sort_index(), flights)


def test_a_missing_version_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_clean(Lake(str(tmp_path)), short_flights(1))
    with pytest.raises(LakeError, match="clean: there is no such version; expected 0 to 1; got 7"):
        clean_rows(str(tmp_path), 7)


def test_no_dataset_outlives_the_shutdown_of_arrow(tmp_path: Path) -> None:
    write_clean(Lake(str(tmp_path)), short_flights(1))
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(parts.clean_rows.cache_info().currsize))\n"  # runs after what Arrow registers
        "from pipeline.lake import parts\n"
        "parts.clean_rows(sys.argv[1], 1)\n"
        "print(parts.clean_rows.cache_info().currsize)"
    )
    shown = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=120)
    assert shown.stdout.split() == ["1", "0"], shown.stderr
