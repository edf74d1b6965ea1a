"""Labelled tracks as samples, their split, and their batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reentry.errors import InputError, TrackFileError
from tests.training_data import short_samples, short_tracks, write_flights
from training.config import TrainConfig
from training.data.batches import Collate
from training.data.samples import Chosen, Counts, Sample, read_labelled, samples_of, split


def relabelled(sample: Sample, phase: list[int]) -> Sample:
    return replace(sample, features=sample.features[: len(phase)], phase=torch.tensor(phase, dtype=torch.float32))


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


def test_a_batch_pads_on_the_right_with_the_last_row_and_weight_zero(tmp_path: Path) -> None:
    long, short = sorted(short_samples(tmp_path, tracks=2), key=lambda sample: -len(sample.phase))
    batch = Collate(TrainConfig(), [long, short])([long, short])
    steps = len(short.phase)
    assert batch.features.shape == (2, len(long.phase), long.features.shape[1])
    assert torch.equal(batch.features[1, :steps], short.features)
    assert torch.equal(batch.features[1, steps:], short.features[-1:].expand(len(long.phase) - steps, -1))
    assert batch.weight[1, steps:].tolist() == [0.0] * (len(long.phase) - steps)
    assert bool((batch.weight[0] > 0).all())


def test_class_weighting_gives_both_phases_the_same_total_and_a_step_weight_one_on_average(tmp_path: Path) -> None:
    samples = short_samples(tmp_path)
    batch = Collate(TrainConfig(onset_weight=0.0, class_weighting=True), samples)(samples)
    real = batch.weight > 0
    inside = float(batch.weight[real & (batch.phase == 1)].sum())
    outside = float(batch.weight[real & (batch.phase == 0)].sum())
    assert inside == pytest.approx(outside, rel=1e-5)
    assert float(batch.weight[real].mean()) == pytest.approx(1.0, rel=1e-5)


def test_every_step_weighs_one_without_class_weighting(tmp_path: Path) -> None:
    samples = short_samples(tmp_path)
    batch = Collate(TrainConfig(onset_weight=0.0, class_weighting=False), samples)(samples)
    assert set(batch.weight.unique().tolist()) == {0.0, 1.0}


def test_onset_weights_are_symmetric_around_the_onset(tmp_path: Path) -> None:
    sample = relabelled(short_samples(tmp_path, tracks=1)[0], [0] * 10 + [1] * 10)
    config = TrainConfig(class_weighting=False, onset_weight=8.0, onset_span=2.0)
    weight = Collate(config, [sample])([sample]).weight[0]
    assert torch.allclose(weight, weight.flip(0))
    assert float(weight[10]) == pytest.approx(1.0 + 8.0 * np.exp(-0.25))
    assert float(weight[11]) == pytest.approx(1.0 + 8.0 * np.exp(-0.75))


def test_every_step_of_a_track_without_onset_weighs_one(tmp_path: Path) -> None:
    samples = short_samples(tmp_path, tracks=2)
    none = relabelled(samples[0], [0] * 12)
    collate = Collate(TrainConfig(class_weighting=False), [none, samples[1]])
    assert collate([none]).weight.tolist() == [[1.0] * 12]


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
