"""Batches of tracks: their order, their padding, and the weight of each step in the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training_data import relabelled, short_samples, write_flights
from training.config import ModelConfig, TrainConfig
from training.data.batches import Batches, Collate
from training.data.samples import read_labelled
from training.fit.fit import fit


def padding(lengths: np.ndarray, batches: list[list[int]]) -> float:
    """Share of the steps of batches that are padding."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - sum(int(lengths[batch].sum()) for batch in batches) / padded


def lengths_of(tracks: int, longest: int) -> np.ndarray:
    return np.random.default_rng(0).integers(60, longest, tracks)


@pytest.mark.parametrize(("tracks", "size", "longest"), [(10_000, 8, 1200), (10_000, 64, 3000), (1_000, 8, 3000)])
def test_batches_by_length_hold_less_than_a_tenth_of_padding(tracks: int, size: int, longest: int) -> None:
    lengths = lengths_of(tracks, longest)
    generator = torch.Generator().manual_seed(0)
    batches = list(Batches(lengths, size, generator=generator, by_length=True))
    assert padding(lengths, batches) < 0.1
    assert padding(lengths, list(Batches(lengths, size, generator=generator))) > 0.2


def test_padding_is_the_share_of_steps_after_the_end_of_their_track() -> None:
    assert padding(np.array([4, 1, 2]), [[0, 1], [2]]) == pytest.approx(3 / 10)


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_track_is_in_one_batch_of_one_process_in_each_epoch(by_length: bool, ranks: int) -> None:
    lengths = lengths_of(25, 300)

    def drawn(rank: int, of: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(3)
        batches = Batches(lengths, 8, generator=generator, by_length=by_length, rank=rank, ranks=of)
        epochs = [list(batches), list(batches)]
        assert [len(epoch) for epoch in epochs] == [len(batches)] * 2
        assert epochs[0] != epochs[1]
        return epochs[0]

    shares = [drawn(rank, ranks) for rank in range(ranks)]
    assert all(batch for share in shares for batch in share)
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(25))
    if ranks > 1:  # the remaining single track joins another batch
        assert [len(share) for share in shares] == [3] * ranks
        together = [{i for share in shares for i in share[batch]} for batch in range(3)]
        assert sorted(map(len, together)) == [8, 8, 9]


def test_batches_without_a_generator_keep_the_order_of_tracks_or_of_lengths() -> None:
    lengths = np.array([5, 3, 4, 1])
    assert list(Batches(lengths, 3)) == [[0, 1, 2], [3]]
    assert list(Batches(lengths, 3, by_length=True)) == [[3, 1, 2], [0]]


def test_a_large_training_uses_batches_of_similar_length(tmp_path: Path) -> None:
    samples = read_labelled(write_flights(tmp_path / "flights.csv", tracks=40))
    model, config = ModelConfig(hidden=4), TrainConfig(epochs=1, accelerator="cpu")
    mixed = fit(samples, model, config, fingerprint="x")
    alike = fit(samples, model, replace(config, bucket_from=32), fingerprint="x")
    assert mixed.history != alike.history
    assert mixed.history == fit(samples, model, replace(config, bucket_from=33), fingerprint="x").history


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
