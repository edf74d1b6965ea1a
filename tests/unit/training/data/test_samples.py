"""Labelled tracks as samples, their split, and their batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reentry.errors import InputError, TrackFileError
from tests.training_data import relabelled, short_samples, short_tracks, write_flights
from training.data.samples import Chosen, Counts, read_labelled, samples_of, split


def test_the_split_is_by_track_and_depends_on_the_seed(tmp_path: Path) -> None:
    samples = short_samples(tmp_path, tracks=20)
    train, held = split(samples, 0.2, seed=3)
    ids = [sample.track.track_id for sample in held]
    assert (len(train), len(held)) == (16, 4)
    assert sorted([*ids, *(sample.track.track_id for sample in train)]) == list(range(20))
    assert [sample.track.track_id for sample in split(samples, 0.2, seed=3)[1]] == ids
    assert any([s.track.track_id for s in split(samples, 0.2, seed=other)[1]] != ids for other in range(5))


def test_two_tracks_give_one_training_and_one_validation_track(tmp_path: Path) -> None:
    train, held = split(short_samples(tmp_path, tracks=2), 0.9, seed=0)
    assert (len(train), len(held)) == (1, 1)


def test_one_track_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few labelled tracks") as error:
        split(short_samples(tmp_path, tracks=1), 0.2, seed=0)
    assert error.value.got == "1"


@pytest.mark.parametrize("phase", [0, 1])
def test_labels_with_a_single_phase_are_rejected(tmp_path: Path, phase: int) -> None:
    samples = [relabelled(sample, [phase] * 20) for sample in short_samples(tmp_path, tracks=4)]
    with pytest.raises(InputError, match="reentry_phase is the same") as error:
        split(samples, 0.2, seed=0)
    assert (error.value.expected, error.value.got) == ("both 0 and 1", f"only {phase}")


def test_a_training_split_with_a_single_phase_is_rejected(tmp_path: Path) -> None:
    first, second = short_samples(tmp_path, tracks=2)
    samples = [relabelled(first, [0] * 20), relabelled(second, [0, 1] * 10)]
    seed = next(seed for seed in range(20) if np.random.default_rng(seed).permutation(2)[0] == 1)
    with pytest.raises(InputError, match="training split of seed"):
        split(samples, 0.5, seed=seed)


def test_an_empty_list_and_unlabelled_tracks_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no good track"):
        samples_of([], where="x.csv")
    unlabelled = replace(short_tracks(tmp_path, tracks=1)[0], reentry_phase=None)
    with pytest.raises(InputError, match="no labels") as error:
        samples_of([unlabelled], where="x.csv")
    assert (error.value.where, error.value.expected) == ("x.csv", "a column reentry_phase")


def test_a_file_without_labels_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TrackFileError, match="reentry_phase"):
        read_labelled(write_flights(tmp_path / "plain.csv", labels=False))


def test_a_split_counts_the_steps_once_and_its_parts_keep_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = short_samples(tmp_path, tracks=10)
    train, validation = split(samples, 0.2, seed=3)
    monkeypatch.setattr(Chosen, "__iter__", None)  # reading a sample for its length would fail
    for chosen in (train, validation, train[::2]):
        assert Counts.of(chosen).steps.tolist() == [len(chosen[index].phase) for index in range(len(chosen))]
        assert Counts.of(chosen).reentry.tolist() == [int(chosen[index].phase.sum()) for index in range(len(chosen))]
    assert train[::2][1] is train[2]
