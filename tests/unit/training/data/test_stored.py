"""Samples on disk for files larger than memory, which equal the samples in memory, and their batches."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from reentry.errors import InputError, TrackFileError
from reentry.tracks import TrackFile, fingerprint
from reentry.tracks.sources import open_source
from tests.training_data import short_samples, write_flights
from training.config import ModelConfig, TrainConfig
from training.data import stored as stored_module
from training.data.identity import DataIdentity
from training.data.samples import Counts, read_labelled
from training.data.stored import StoredSamples, open_labelled
from training.fit.fit import fit


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_stored_samples_equal_those_in_memory_bit_for_bit(tmp_path: Path) -> None:
    path = write_flights(tmp_path / "flights.parquet")
    in_memory = read_labelled(path)
    with open_labelled(path, in_memory_bytes=0) as data:
        stored = data.samples
        assert isinstance(stored, StoredSamples)
        assert (len(stored), data.report.tracks) == (10, 10)
        for sample, expected in zip(stored, in_memory, strict=True):
            assert torch.equal(sample.features, expected.features)
            assert torch.equal(sample.phase, expected.phase)
            assert sample.track.track_id == expected.track.track_id
            np.testing.assert_array_equal(sample.track.measurements, expected.track.measurements)
            assert sample.track.reentry_phase is not None
            assert expected.track.reentry_phase is not None
            np.testing.assert_array_equal(sample.track.reentry_phase, expected.track.reentry_phase)
        assert torch.equal(stored[-1].features, in_memory[-1].features)
        assert [s.track.track_id for s in stored[2:4]] == [s.track.track_id for s in in_memory[2:4]]
        with pytest.raises(IndexError):
            stored[10]
        one, other = (DataIdentity.of(s.track for s in samples) for samples in (stored, in_memory))
        assert (one.tracks_fingerprint, one.track_ids) == (other.tracks_fingerprint, other.track_ids)
        assert one.flight_fingerprints == other.flight_fingerprints
        assert torch.equal(one.sketches, other.sketches)


def test_a_small_file_is_read_into_memory(tmp_path: Path, temporary: Path) -> None:
    with open_labelled(write_flights(tmp_path / "flights.csv")) as data:
        assert isinstance(data.samples, list)
        assert list(temporary.iterdir()) == []


def test_the_temporary_folder_is_deleted_when_the_block_ends(tmp_path: Path, temporary: Path) -> None:
    path = write_flights(tmp_path / "flights.csv")
    with open_labelled(path, in_memory_bytes=0):
        assert len(list(temporary.iterdir())) == 1  # the folder with the rows of the file is already deleted
    assert list(temporary.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), open_labelled(path, in_memory_bytes=0):
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []


def test_stored_samples_train_the_same_network_as_those_in_memory(tmp_path: Path) -> None:
    path = write_flights(tmp_path / "flights.parquet")
    model, config = ModelConfig(hidden=4), TrainConfig(epochs=2, accelerator="cpu")
    expected = fit(read_labelled(path), model, config, fingerprint="x")
    with open_labelled(path, in_memory_bytes=0) as data:
        got = fit(data.samples, model, config, fingerprint="x")
    assert got.history == expected.history
    np.testing.assert_equal(got.checkpoint.metrics, expected.checkpoint.metrics)  # NaN is equal to NaN here
    assert got.checkpoint.reference == expected.checkpoint.reference


def test_pickled_stored_samples_have_no_values(tmp_path: Path) -> None:
    with open_labelled(write_flights(tmp_path / "flights.csv"), in_memory_bytes=0) as data:
        sent = pickle.dumps(data.samples)
        assert len(sent) < 2000
        assert torch.equal(pickle.loads(sent)[3].features, data.samples[3].features)


def test_an_empty_list_of_samples_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.csv: no good track"):
        StoredSamples.write(tmp_path, [], where="x.csv")


def test_a_full_temporary_folder_is_reported_with_its_fix(tmp_path: Path) -> None:
    (tmp_path / "phase.values").symlink_to("/dev/full")
    with pytest.raises(InputError, match="cannot write features to the temporary folder") as error:
        StoredSamples.write(tmp_path, short_samples(tmp_path), where="x.csv")
    assert error.value.where == "x.csv"
    assert "TMPDIR" in str(error.value.fix)


@pytest.mark.parametrize("in_memory_bytes", [0, 10**9])
def test_the_file_fingerprint_is_that_of_the_bytes_that_were_read(tmp_path: Path, in_memory_bytes: int) -> None:
    path = write_flights(tmp_path / "flights.csv")
    before = fingerprint(path)
    with open_labelled(path, in_memory_bytes=in_memory_bytes) as data:
        write_flights(path, seed=1)
        assert data.file_fingerprint == before != fingerprint(path)


def test_a_file_that_changes_while_it_is_read_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_flights(tmp_path / "flights.csv")
    read_tracks = stored_module.read_tracks

    def changing(*arguments: Any, **settings: Any) -> TrackFile:
        file = read_tracks(*arguments, **settings)
        write_flights(path, seed=1)
        return file

    monkeypatch.setattr(stored_module, "read_tracks", changing)
    with pytest.raises(TrackFileError, match="changed while it was read") as error, open_labelled(path):
        pass
    assert error.value.where == str(path)


def test_a_file_that_changed_after_the_caller_took_its_fingerprint_is_rejected(tmp_path: Path) -> None:
    path = write_flights(tmp_path / "flights.csv")
    before = fingerprint(path)
    write_flights(path, seed=1)
    with pytest.raises(TrackFileError, match="changed"), open_labelled(path, file_fingerprint=before):
        pass


def test_a_parquet_file_is_not_kept_in_memory_while_it_is_read(tmp_path: Path) -> None:
    rows = 50_000
    numbers = np.random.default_rng(0).normal(size=rows)
    names = ["timestamp", "latitude", "longitude", "altitude", "radiometric_intensity"]
    table = pa.table({**dict.fromkeys(names, numbers), "track_id": np.arange(rows), "sensor_id": np.arange(rows)})
    path = tmp_path / "rows.parquet"
    with pyarrow.parquet.ParquetWriter(path, table.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(40):
            writer.write_table(table)
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in open_source(path).chunks())
    assert most < path.stat().st_size / 2


def test_counts_have_the_steps_and_the_steps_in_reentry_of_each_track(tmp_path: Path) -> None:
    samples = read_labelled(write_flights(tmp_path / "flights.csv"))
    counts = Counts.of(samples)
    with open_labelled(tmp_path / "flights.csv", in_memory_bytes=0) as data:
        stored = Counts.of(data.samples)
    assert (stored.steps.tolist(), stored.reentry.tolist()) == (counts.steps.tolist(), counts.reentry.tolist())
    assert counts.steps.tolist() == [len(sample.track) for sample in samples]
    share = np.concatenate([sample.phase.numpy() for sample in samples]).mean()
    assert counts.share_in_reentry == pytest.approx(share)
    assert counts[[0]].steps.tolist() == [len(samples[0].track)]
