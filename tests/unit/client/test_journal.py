"""The journal returns all complete records, however the run that wrote them ended."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.journal import Journal, Score
from reentry.errors import InputError
from reentry.refinement import RefinedOnset
from tests.full_disk import room_for

IDENTITY = {"file": "abc", "program": "1"}


def score_of(track_id: int, steps: int = 4, version: int = 3) -> Score:
    probability = np.linspace(0.0, 0.9, steps, dtype=np.float32)
    return Score(
        track_id=track_id,
        onset_step=steps - 1,
        onset_timestamp=1731308400.5,
        refinement=RefinedOnset(1731308399.75, 0.5, 19.5),
        model_version=version,
        inference_seconds=0.25,
        tracks_in_request=2,
        time="2026-01-01T00:00:00.000+00:00",
        unlike_training="[]",
        probability=probability,
        phase=(probability > 0.5).astype(np.uint8),
    )


def assert_same(left: Score, right: Score) -> None:
    np.testing.assert_array_equal(left.probability, right.probability)
    np.testing.assert_array_equal(left.phase, right.phase)
    for name in (
        "track_id",
        "onset_step",
        "onset_timestamp",
        "refinement",
        "model_version",
        "inference_seconds",
        "time",
        "unlike_training",
    ):
        assert getattr(left, name) == getattr(right, name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def write(path: Path, *track_ids: int) -> None:
    with Journal(path, IDENTITY) as journal:
        for track_id in track_ids:
            journal.append(score_of(track_id, steps=4 + track_id))


def test_appended_scores_are_read_by_the_next_run(path: Path) -> None:
    write(path, 5, 9)
    with Journal(path, IDENTITY) as journal:
        assert len(journal) == 2
        assert not journal.outdated
        assert 5 in journal
        assert 6 not in journal
        assert_same(journal[9], score_of(9, steps=13))
        assert_same(journal[5], score_of(5, steps=9))
        journal.append(score_of(6))
        assert_same(journal[6], score_of(6))
        assert isinstance(journal[6].refinement, RefinedOnset)
    with Journal(path, IDENTITY) as journal:
        assert len(journal) == 3


def test_a_score_without_an_onset_is_restored(path: Path) -> None:
    without_onset = replace(score_of(1), onset_step=-1, onset_timestamp=None, refinement=None)
    with Journal(path, IDENTITY) as journal:
        journal.append(without_onset)
    with Journal(path, IDENTITY) as journal:
        assert (journal[1].onset_step, journal[1].onset_timestamp) == (-1, None)


def test_an_incomplete_last_record_is_removed_and_can_be_written_again(path: Path) -> None:
    write(path, 1, 2)
    whole = path.read_bytes()
    first_only = len(whole) - (len(whole) - whole.rindex(b'{"track_id"')) - 8
    for torn_at in (first_only + 3, first_only + 20, len(whole) - 1):
        path.write_bytes(whole[:torn_at])
        with Journal(path, IDENTITY) as journal:
            assert [track_id in journal for track_id in (1, 2)] == [True, False]
            assert path.stat().st_size == first_only
            journal.append(score_of(2, steps=6))
        assert path.read_bytes() == whole


def test_the_journal_ends_before_a_record_with_a_flipped_bit(path: Path) -> None:
    write(path, 1, 2)
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    path.write_bytes(spoilt)
    with Journal(path, IDENTITY) as journal:
        assert [track_id in journal for track_id in (1, 2)] == [True, False]


def test_a_journal_of_another_file_is_discarded_and_reported_as_outdated(path: Path) -> None:
    write(path, 1)
    with Journal(path, IDENTITY | {"file": "other"}) as journal:
        assert journal.outdated
        assert len(journal) == 0


def test_a_file_that_is_not_a_journal_is_discarded(path: Path) -> None:
    path.write_bytes(b"hello")
    with Journal(path, IDENTITY) as journal:
        assert len(journal) == 0
        journal.append(score_of(1))
    with Journal(path, IDENTITY) as journal:
        assert len(journal) == 1


def test_a_restart_removes_all_scores(path: Path) -> None:
    write(path, 1, 2)
    with Journal(path, IDENTITY) as journal:
        journal.restart()
        assert len(journal) == 0
        journal.append(score_of(7))
    with Journal(path, IDENTITY) as journal:
        assert not journal.outdated
        assert [track_id in journal for track_id in (1, 2, 7)] == [False, False, True]


def test_a_second_run_into_the_same_folder_is_refused(path: Path) -> None:
    with Journal(path, IDENTITY), pytest.raises(InputError, match="another run is writing here"):
        Journal(path, IDENTITY)
    write(path, 1)


def test_a_removed_journal_is_deleted(path: Path) -> None:
    with Journal(path, IDENTITY) as journal:
        journal.remove()
    assert not path.exists()


def test_a_full_disk_is_an_error_and_earlier_records_stay(path: Path) -> None:
    write(path, 1)
    with room_for(path.stat().st_size + 10), pytest.raises(InputError, match=r"journal: cannot be written: .*; fix: "):
        write(path, 2)
    with Journal(path, IDENTITY) as journal:
        assert [track_id in journal for track_id in (1, 2)] == [True, False]


def test_a_journal_that_cannot_be_opened_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(InputError, match="journal: cannot be written: Is a directory"):
        Journal(tmp_path / "journal", IDENTITY)


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_as_journal_is_refused_and_its_target_is_kept(path: Path, there: bool) -> None:
    target = path.with_name("precious")
    if there:
        target.write_text("kept")
    path.symlink_to(target)
    with pytest.raises(InputError, match="journal: not a regular file"):
        Journal(path, IDENTITY)
    assert target.exists() == there
    assert not there or target.read_text() == "kept"


def test_a_pipe_as_journal_is_refused(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(InputError, match="journal: not a regular file"):
        Journal(path, IDENTITY)
