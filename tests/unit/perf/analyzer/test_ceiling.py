"""Measurement of the ceiling: its answers are those of a plain session, in every thread arrangement."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export.builders import build
from export.tensorrt.config import TensorRTConfig
from export.track_graph import track_graph
from perf.analyzer import ceiling
from perf.analyzer.ceiling import CeilingMeasurement, arrangements, runs_per_second, step_runs, track_runs
from perf.analyzer.config import PerfConfig
from perf.analyzer.inputs import requests_of
from perf.analyzer.production import Production
from perf.analyzer.results import Ceiling
from reentry.errors import RepositoryError
from reentry.features.track import track_features
from reentry.schema import REENTRY_TRACK
from registry.formats import Format
from tests.exporting import deciding
from training.config import ModelConfig

VERSION, LAYERS, HIDDEN = 3, 1, 8
CONFIG = PerfConfig(batches=(1, 3), lengths=("20", "12-20"), window=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of a version."""
    made = tmp_path_factory.mktemp("version")
    checkpoint = deciding(ModelConfig(hidden=HIDDEN, layers=LAYERS))
    build(Format.ONNX, checkpoint, VERSION, made, TensorRTConfig())
    onnx.save(track_graph(checkpoint, VERSION), made / "track.onnx")
    return made


def produced(folder: Path, **missing: str) -> Production:
    reasons = {f"{name}.onnx": reason for name, reason in missing.items()}
    return Production(version=VERSION, folder=folder, state=(LAYERS, HIDDEN), missing=reasons)


def recorded(runs: Iterator[Any], into: list[Any]) -> Iterator[Any]:
    for answer in runs:
        into.append(answer)
        yield answer


def test_the_arrangements_are_all_numbers_of_cores_as_runs_at_once_or_as_threads_of_one_run() -> None:
    assert arrangements(1) == [(1, 1)]
    assert arrangements(3) == [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_answers_in_every_arrangement_are_those_of_a_plain_session(
    folder: Path, batch: int, workers: int, threads: int
) -> None:
    requests = requests_of(batch=batch, length="20-40", seed=2)
    plain = onnxruntime.InferenceSession(folder / "track.onnx")
    names = [tensor.name for tensor in REENTRY_TRACK.outputs]
    expected = [
        dict(zip(names, plain.run(names, {"measurements": m, "track_length": lengths[:, None]}), strict=True))
        for m, lengths in requests
    ]
    assert any((each["onset_step"] > 0).any() for each in expected)
    answers: list[list[dict[str, Any]]] = [[] for _ in range(workers)]
    runs = track_runs(folder / "track.onnx", requests, workers, threads)
    assert runs_per_second([recorded(each, into) for each, into in zip(runs, answers, strict=True)], 0.05) > 0.0
    for worker, own in enumerate(answers):
        assert len(own) >= 2
        for number, answer in enumerate(own):
            wanted = expected[(worker + number) % len(expected)]
            assert answer.keys() == wanted.keys()
            for name, values in wanted.items():
                np.testing.assert_allclose(answer[name], values, rtol=0.0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("workers", "threads"), [(2, 1), (1, 2)])
def test_steps_one_at_a_time_give_the_probabilities_of_whole_tracks(folder: Path, workers: int, threads: int) -> None:
    features = track_features(requests_of(batch=3, length="20", seed=2)[0][0])
    whole = onnxruntime.InferenceSession(folder / "model.onnx").run(["reentry_probability"], {"features": features})[0]
    for runs in step_runs(folder, features, (LAYERS, HIDDEN), workers, threads):
        steps = np.concatenate(list(islice(runs, 25)), axis=1)
        np.testing.assert_allclose(steps[:, :20], whole, rtol=0.0, atol=1e-5)
        np.testing.assert_allclose(steps[:, 20:], whole[:, :5], rtol=0.0, atol=1e-5)  # the tracks start over


def test_every_batch_length_and_arrangement_has_one_rate_for_each_window(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceiling, "arrangements", lambda _: [(1, 2)])
    measurement = CeilingMeasurement(CONFIG, produced(folder))
    for _ in range(2):
        measurement.measure()
    found = measurement.ceiling(remote=False)
    scored = [("track.onnx", batch, length) for length in ("20", "12-20") for batch in (1, 3)]
    works = [*scored, ("step.onnx", 1, None), ("step.onnx", 64, None)]
    assert [(each.graph, each.batch, each.length, each.workers, each.threads) for each in found.rates] == [
        (*work, 1, 2) for work in works
    ]
    assert all(len(each.windows) == 2 and min(each.windows) > 0.0 for each in found.rates)
    assert (found.version, found.missing, found.remote) == (VERSION, {}, False)


def test_a_missing_graph_is_not_measured_and_keeps_its_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "cores", lambda: 1)
    measurement = CeilingMeasurement(CONFIG, produced(folder, track="an earlier release"))
    measurement.measure()
    found = measurement.ceiling(remote=True)
    assert {each.graph for each in found.rates} == {"step.onnx"}
    assert (found.missing, found.remote) == ({"track.onnx": "an earlier release"}, True)
    nothing = CeilingMeasurement(CONFIG, produced(folder, track="a reason", step="another"))
    nothing.measure()
    missing = {"track.onnx": "a reason", "step.onnx": "another"}
    assert nothing.ceiling(remote=False) == Ceiling(version=VERSION, missing=missing)


def test_a_graph_that_does_not_run_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "track.onnx").write_bytes(b"damaged")
    with pytest.raises(RepositoryError, match="does not run in this process") as error:
        CeilingMeasurement(CONFIG, produced(tmp_path, step="none")).measure()
    assert error.value.where == str(tmp_path / "track.onnx")
    assert "ceiling = false" in (error.value.fix or "")


def test_the_error_of_one_run_ends_the_runs_of_all_workers() -> None:
    def failing() -> Iterator[None]:
        yield
        raise RuntimeError("a fault")

    def endless() -> Iterator[None]:
        while True:
            yield

    with pytest.raises(RuntimeError, match="a fault"):
        runs_per_second([endless(), failing()], 600.0)
