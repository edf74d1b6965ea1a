"""Scoring of one part."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bulk.model import BulkModel, scorer_of
from pipeline.bulk.score import Job, score_part
from pipeline.lake.lake import Lake
from pipeline.lake.parts import Part, parts_of
from pipeline.lake.tables import BUCKETS, CLEAN, PREDICTIONS
from reentry.decision import decide_tracks
from reentry.errors import RepositoryError
from reentry.features.track import track_features
from reentry.schema import MEASUREMENT_COLUMNS, NO_ONSET_TIMESTAMP
from tests.bulk import model_of
from tests.lake import clean_rows as rows_of
from tests.lake import write_clean
from tests.toy_model import write_toy_model
from tests.training_data import short_flights

FLIGHTS = short_flights(12)


def job_of(lake: Lake, repository: Path, version: int) -> Job:
    lake.create(PREDICTIONS.name)
    return Job(run="r", lake=lake.location, version=version, source="lake:clean@1", model=model_of(repository))


def all_parts(lake: Lake, version: int) -> list[Part]:
    return [part for bucket in range(BUCKETS) for part in parts_of(lake.location, version, 1_000_000, bucket)]


def file_of(lake: Lake, path: str) -> pd.DataFrame:
    return pq.ParquetFile(Path(lake.uri(PREDICTIONS.name)) / path).read().to_pandas()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_the_file_of_a_part_has_the_results_of_features_network_and_decision(
    lake: Lake, model_repository: Path
) -> None:
    job = job_of(lake, model_repository, write_clean(lake, FLIGHTS))
    results = [score_part(job, part) for part in all_parts(lake, job.version)]
    found = pd.concat([file_of(lake, result.path) for result in results])
    assert sum(result.onsets for result in results) == found.groupby("track_id")["predicted_onset"].first().count()
    assert sorted(found["track_id"].unique()) == sorted(FLIGHTS["track_id"].unique())
    assert set(found["source"]) == {"lake:clean@1"}
    assert set(found["model_version"]) == {1}
    network = onnxruntime.InferenceSession(model_repository / "reentry_lstm" / "1" / "model.onnx")
    for track_id, rows in found.groupby("track_id"):
        own = FLIGHTS[FLIGHTS["track_id"] == track_id]
        assert rows["timestamp"].tolist() == own["timestamp"].tolist()
        measurements = own[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64)[None]
        (probability,) = network.run(["reentry_probability"], {"features": track_features(measurements)})
        np.testing.assert_allclose(rows["reentry_probability"], probability[0], rtol=0, atol=1e-6)
        phase, _, onset = decide_tracks(probability, own["timestamp"].to_numpy()[None], np.array([len(own)]))
        assert rows["predicted_phase"].tolist() == phase[0].tolist()
        onsets = rows["predicted_onset"].fillna(NO_ONSET_TIMESTAMP)
        assert set(onsets) == {onset[0]}


def test_rows_in_any_order_and_in_several_files_give_the_same_results(
    tmp_path: Path, lake: Lake, model_repository: Path
) -> None:
    job = job_of(lake, model_repository, write_clean(lake, FLIGHTS))
    (first, *_) = parts = all_parts(lake, job.version)
    shuffled = Lake(str(tmp_path / "shuffled"))
    rows = rows_of(FLIGHTS)
    order = np.random.default_rng(0).permutation(len(rows))
    for key, chosen in enumerate(np.array_split(order, 3)):
        piece = rows.take(chosen)
        shuffled.commit_once(CLEAN.name, [str(key)], lambda *_, piece=piece: piece)
    other = job_of(shuffled, model_repository, shuffled.open(CLEAN.name).version())
    assert all_parts(shuffled, other.version) == parts
    one, two = (score_part(each, first) for each in (job, other))
    pd.testing.assert_frame_equal(file_of(lake, one.path), file_of(shuffled, two.path))


def test_a_part_whose_file_is_complete_is_not_scored_again(
    lake: Lake, model_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(lake, model_repository, write_clean(lake, FLIGHTS))
    part = all_parts(lake, job.version)[0]
    result = score_part(job, part)
    place = Path(lake.uri(PREDICTIONS.name)) / result.path
    content = place.read_bytes()
    pq.write_table(pa.table({"other": [1]}), place)  # not the rows of this part
    assert not score_part(job, part).reused
    assert place.read_bytes() == content
    monkeypatch.setattr("pipeline.bulk.score.scorer_of", lambda _model: pytest.fail("the part was scored"))
    again = score_part(job, part)
    assert again.reused
    assert (again.size, again.onsets) == (len(content), result.onsets)


def test_tracks_that_the_network_refuses_are_named_and_leave_no_file(
    tmp_path: Path, lake: Lake, model_repository: Path
) -> None:
    repository = shutil.copytree(model_repository, tmp_path / "faulty")
    write_toy_model(repository / "reentry_lstm" / "1" / "model.onnx", version=1, fault="run")  # above 8 steps
    short = FLIGHTS.groupby("track_id").head(5)
    flights = FLIGHTS[FLIGHTS["track_id"].isin([3, 7])].combine_first(short)[FLIGHTS.columns]
    flights["track_id"] = flights["track_id"].astype("int64")
    job = job_of(lake, repository, write_clean(lake, flights))
    results = [score_part(job, part) for part in all_parts(lake, job.version)]
    failures = [failure for result in results for failure in result.failures]
    assert sorted(failure.track_id for failure in failures) == [3, 7]
    assert all(failure.reason for failure in failures)
    written = {result.part.bucket for result in results if not result.failures}
    assert written
    for result in results:
        assert (Path(lake.uri(PREDICTIONS.name)) / result.path).exists() == (result.part.bucket in written)


def test_a_probability_outside_0_to_1_is_no_result(tmp_path: Path, lake: Lake, model_repository: Path) -> None:
    repository = shutil.copytree(model_repository, tmp_path / "faulty")
    write_toy_model(repository / "reentry_lstm" / "1" / "model.onnx", version=1, fault="values")
    job = job_of(lake, repository, write_clean(lake, short_flights(1)))
    (part,) = all_parts(lake, job.version)
    (failure,) = score_part(job, part).failures
    assert (failure.track_id, failure.reason) == (0, "reentry_probability is not a number from 0 to 1")


def test_a_version_that_changed_since_the_start_of_the_run_is_refused(tmp_path: Path, model_repository: Path) -> None:
    repository = shutil.copytree(model_repository, tmp_path / "changed")
    model = model_of(repository)
    write_toy_model(repository / "reentry_lstm" / "1" / "model.onnx", version=1, seed=1)
    with pytest.raises(RepositoryError, match="changed during the run"):
        scorer_of(model)


def test_a_version_without_an_onnx_graph_is_refused(tmp_path: Path, model_repository: Path) -> None:
    repository = shutil.copytree(model_repository, tmp_path / "plan")
    (repository / "reentry_lstm" / "1" / "model.onnx").rename(repository / "reentry_lstm" / "1" / "model.plan")
    with pytest.raises(RepositoryError, match=r"expected model\.onnx; got model\.plan"):
        BulkModel.find(str(repository), "1")
    with pytest.raises(RepositoryError, match="no such version"):
        BulkModel.find(str(repository), "9")
