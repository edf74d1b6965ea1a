"""The benchmark: figures of recorded measurements, the report of them, and one short real run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from typer.testing import CliRunner

from cli import app
from export.sessions import Carried
from perf.formats import benchmark
from perf.formats.benchmark import Benchmark, BenchmarkConfig, benchmark_formats
from perf.formats.figures import Accuracy, Measured, Spread, rows_of
from perf.formats.measure import COMPILED, LEAST_SAMPLES, MOST_SAMPLES, PYTORCH, Measurement, Spec, samples_of
from perf.formats.report import figure_of, markdown, write_report
from perf.formats.round_robin import RoundRobin
from perf.formats.workers import FormatWorker
from reentry.decision import DecisionConfig
from reentry.errors import CheckpointError, ConfigError, ExportError
from reentry.schema import FEATURES
from registry.formats import Format
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.models.networks import ReentryLSTM

HIDDEN = 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of weights as they come: what is measured does not depend on them."""
    torch.manual_seed(0)
    model = ReentryLSTM(ModelConfig(hidden=HIDDEN))
    path = tmp_path_factory.mktemp("benchmark") / "model.ckpt"
    save_checkpoint(
        path,
        Checkpoint(
            model=model.eval(),
            train_config=TrainConfig(),
            decision=DecisionConfig(),
            data_fingerprint="0123",
            git_revision="abcd",
            metrics={},
            validation_tracks=(),
        ),
    )
    return path


@pytest.fixture
def spec(tmp_path: Path, checkpoint: Path) -> Spec:
    """Specification for PyTorch on two tracks of three steps."""
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(2, 3, len(FEATURES))).astype(np.float32))
    return Spec(
        way=PYTORCH,
        checkpoint=checkpoint,
        folder=tmp_path,
        features=tmp_path / "features.npy",
        layers=1,
        hidden=HIDDEN,
        threads=1,
    )


def recorded(factor: float = 1.0, **fields: object) -> Measured:
    """Three rounds, in the last of which the machine was five times slower."""
    own = Measured(
        whole_bytes=round(9000 * factor),
        step_bytes=round(1000 * factor),
        accuracy=Accuracy(probability=2e-7, phase_share=0.0, onset_steps=0),
        loads=[0.004 * factor, 0.003 * factor, 0.002 * factor],
        step=[[1e-5 * factor * slow, 1e-5 * factor * slow, 4e-5 * factor * slow] for slow in (1, 1, 5)],
        whole=[[1e-3 * factor * slow] for slow in (1, 1, 5)],
        sweep={1: 1e-3, 16: 4e-3, 64: 3.2e-2},
        batches=[[4e-3 * factor * slow] for slow in (1, 1, 5)],
        base_bytes=100_000_000,
        one_bytes=101_000_000,
        batch_bytes={1: 101_000_000, 16: 104_000_000, 64: 150_000_000},
    )
    return replace(own, **fields)


def report_of(measured: dict[str, Measured], left_out: dict[str, str] | None = None) -> Benchmark:
    return Benchmark(
        config=BenchmarkConfig(checkpoint=Path("artifacts/train/model.ckpt"), rounds=3),
        layers=1,
        hidden=16,
        parameters=1361,
        data="the 18 tracks that the training held out",
        machine="a processor, 2 cores",
        rows=rows_of(measured, steps=900),
        left_out=left_out or {},
    )


ALL = {
    "onnx": recorded(),
    "onnx-int8": recorded(0.5, accuracy=Accuracy(probability=0.0123, phase_share=0.0004, onset_steps=1)),
    "torchscript": recorded(3.0),
    PYTORCH: recorded(8.0, whole_bytes=None, step_bytes=None, accuracy=None),
    COMPILED: recorded(12.0, whole_bytes=None, step_bytes=None, accuracy=None, loads=[31.5]),
}


def test_figures_are_medians_over_the_rounds_and_percentiles_over_all_runs() -> None:
    (row,) = rows_of({"onnx": recorded()}, steps=900)
    assert row.step == Spread(median=1e-5, low=1e-5, high=pytest.approx(3e-5))
    assert row.step_p99 == pytest.approx(np.percentile([1e-5] * 4 + [4e-5] * 2 + [5e-5] * 2 + [20e-5], 99))
    assert row.samples == (9, 3)
    assert (row.whole.median, row.load.median) == (1e-3, 0.003)
    assert (row.whole_bytes, row.step_bytes, row.size) == (9000, 1000, 10_000)


def test_the_best_batch_is_the_one_with_the_most_tracks_a_second() -> None:
    (row,) = rows_of({"onnx": recorded()}, steps=900)
    assert row.batch == 16
    assert row.tracks_per_second.median == pytest.approx(16 / 4e-3)
    assert row.steps_per_second.median == pytest.approx(900 * 16 / 4e-3)


def test_memory_excludes_the_process_without_the_model() -> None:
    (row,) = rows_of({"onnx": recorded()}, steps=900)
    assert (row.one_memory, row.batch_memory) == (1_000_000, 4_000_000)


def test_ratios_are_taken_within_a_round_so_that_a_slow_round_changes_none() -> None:
    rows = {row.way: row for row in rows_of(ALL, steps=900)}
    half = Spread(median=pytest.approx(0.5), low=pytest.approx(0.5), high=pytest.approx(0.5))
    assert rows["onnx-int8"].ratios.step == half
    assert rows["onnx-int8"].ratios.whole == half
    assert rows["onnx-int8"].ratios.throughput.median == pytest.approx(2.0)
    assert rows["onnx-int8"].ratios.size == 0.5
    assert rows[PYTORCH].ratios.step.median == pytest.approx(8.0)
    assert rows[PYTORCH].ratios.size is None
    assert rows["onnx"].ratios.step == Spread(median=1.0, low=1.0, high=1.0)


def test_the_tables_hold_the_measured_figures() -> None:
    text = markdown(report_of(ALL, {"tensorrt": "there is no GPU here; fix: another machine"}))
    lines = {line for line in text.splitlines() if line.startswith(("|", "-"))}
    assert "| onnx | 10.0 | 3.0 | 10.0 | 188.0 | 1.000 | 4.920 | 3.60 | 4,000 | 16 |" in lines
    assert "| torch.compile | - | 31,500.0 | 120.0 | 2,256.0 | 12.000 | 59.040 | 0.30 | 333 | 16 |" in lines
    assert "| onnx-int8 | 1.0 | 4.0 | 1.2e-02 | 0.040% | 1 |" in lines
    assert "| PyTorch | 1.0 | 4.0 | reference |  |  |" in lines
    assert "| onnx-int8 | 0.50 | 0.50 (0.50 to 0.50) | 0.50 (0.50 to 0.50) | 2.00 (2.00 to 2.00) |" in lines
    assert "- tensorrt: there is no GPU here; fix: another machine" in lines
    assert "one thread" in text
    assert "the 18 tracks that the training held out" in text


def test_each_table_has_a_cell_for_each_title() -> None:
    blocks = [block.splitlines() for block in markdown(report_of(ALL)).split("\n\n") if block.startswith("|")]
    assert [len(block) for block in blocks] == [2 + len(ALL)] * 3
    for block in blocks:
        assert {line.count("|") for line in block} == {block[0].count("|")}


def test_the_report_consists_of_three_files_and_the_json_holds_every_figure(tmp_path: Path) -> None:
    paths = write_report(report_of(ALL, {"tensorrt": "no GPU"}), tmp_path / "new")
    assert [path.name for path in paths] == ["benchmark.json", "benchmark.md", "benchmark.png"]
    content = json.loads(paths[0].read_text())
    assert [row["way"] for row in content["rows"]] == list(ALL)
    assert content["rows"][1]["ratios"]["size"] == 0.5
    assert content["rows"][3]["accuracy"] is None
    assert content["config"]["threads"] == 1
    assert content["left_out"] == {"tensorrt": "no GPU"}
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_texts_of_the_picture_do_not_overlap_and_stay_inside_their_panels() -> None:
    figure = figure_of(report_of(ALL))
    FigureCanvasAgg(figure).draw()
    for panel in figure.axes:
        boxes = [text.get_window_extent() for text in panel.texts]
        assert len(boxes) == len(ALL)
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        frame = panel.get_window_extent()
        assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    titles = [panel.title.get_window_extent() for panel in figure.axes]
    assert not any(one.overlaps(other) for one, other in pairwise(titles))


def _key(figure: Figure) -> Iterator[tuple[Text, Patch]]:
    legend = figure.legends[0]
    return zip(legend.get_texts(), legend.get_patches(), strict=True)


def test_better_and_worse_bars_have_different_colours() -> None:
    figure = figure_of(report_of(ALL))
    colours = [[bar.get_facecolor() for bar in panel.patches] for panel in figure.axes]
    small, large = 1, 2  # half of everything, and three times
    assert len({panel[small] for panel in colours}) == 1
    assert len({panel[large] for panel in colours}) == 1
    assert colours[0][small] != colours[0][large]
    key = {text.get_text(): patch.get_facecolor() for text, patch in _key(figure)}
    assert key == {"better than onnx": colours[0][small], "worse": colours[0][large]}


def test_a_step_starts_from_the_state_of_the_previous_step_and_a_new_track_from_zeros(spec: Spec) -> None:
    seen: list[float] = []

    class Counting:
        """Session that adds one to its state in each step."""

        step_limit = None

        def whole(self, features):
            return features[..., 0], np.zeros((len(features), 1), np.int64)

        def step(self, features, state):
            assert features.shape == (1, len(FEATURES))
            seen.append(float(state.hidden.max()))
            return features[:, :1], Carried(state.hidden + 1, state.cell), np.zeros((len(features), 1), np.int64)

    measurement = Measurement(spec)
    measurement._open = Counting
    measurement.load()
    measurement.step(0.0)
    assert seen[0] == 0.0
    assert seen[1:] == [0.0, 1.0, 2.0, 0.0][: 1 + LEAST_SAMPLES]


def test_the_number_of_samples_is_bounded_and_the_first_run_is_not_counted() -> None:
    runs: list[None] = []
    assert len(samples_of(lambda: runs.append(None), 0.0)) == LEAST_SAMPLES
    assert len(runs) == LEAST_SAMPLES + 1
    assert len(samples_of(lambda: None, math.inf)) == MOST_SAMPLES


def test_a_worker_process_measures_each_requested_quantity(spec: Spec) -> None:
    with FormatWorker(spec) as worker:
        before = worker.peak()
        assert worker.load() > 0.0
        assert len(worker.step(0.0)) == len(worker.whole(2, 0.0)) == LEAST_SAMPLES
        assert worker.peak() > before


def test_a_worker_process_that_ends_raises_an_error_with_its_last_message(spec: Spec) -> None:
    with (
        FormatWorker(replace(spec, features=Path("/none.npy"))) as worker,
        pytest.raises(ExportError, match=r"^PyTorch: its process ended at peak with status 1: .*'/none.npy'"),
    ):
        worker.peak()


def test_an_unreadable_model_raises_an_error_and_the_worker_process_survives(spec: Spec) -> None:
    (spec.folder / "model.onnx").write_text("no graph")
    with FormatWorker(replace(spec, way=Format.ONNX)) as worker:
        with pytest.raises(ExportError, match="onnx: load failed"):
            worker.load()
        assert worker.peak() > 0


def test_a_failing_format_is_left_out_with_its_reason_and_the_others_are_measured() -> None:
    class Steady:
        """Stands in for a worker process, to fail at a chosen batch; the tests above run real ones."""

        def __init__(self, fails: bool) -> None:
            self._fails = fails

        def peak(self) -> int:
            return 10

        def load(self) -> float:
            return 3.0

        def step(self, seconds: float) -> list[float]:
            return [seconds]

        def whole(self, batch: int, seconds: float) -> list[float]:
            if self._fails and batch == 4:
                raise ExportError("its process ended", where="onnx-int8")
            return [seconds * batch]

    measured = {"onnx": Measured(), "onnx-int8": Measured()}
    left_out: dict[str, str] = {}
    advanced: list[int] = []
    workers = {"onnx": Steady(False), "onnx-int8": Steady(True)}
    rounds = RoundRobin(workers, measured, left_out, seconds=0.5, advance=advanced.append)  # type: ignore[arg-type]
    rounds.prepare()
    rounds.sweep((4, 1))
    rounds.round()
    rounds.round()
    assert left_out == {"onnx-int8": "onnx-int8: its process ended"}
    assert measured["onnx"].sweep == {1: 0.5, 4: 2.0}
    assert measured["onnx"].step == [[0.5], [0.5]]
    assert measured["onnx"].loads == [3.0], "a slow model is loaded once"
    assert measured["onnx-int8"].step == []


def test_one_run_measures_the_supported_formats_and_gives_the_reason_for_each_other_one(checkpoint: Path) -> None:
    formats = (Format.ONNX, Format.ONNX_FP16, Format.TORCHSCRIPT)
    found = benchmark_formats(
        BenchmarkConfig(
            checkpoint=checkpoint,
            formats=formats,
            references=(PYTORCH,),
            rounds=1,
            seconds=0.01,
            steps=300,
            batches=(1, 2),
        )
    )
    rows = {row.way: row for row in found.rows}
    assert set(rows) | set(found.left_out) == {*formats, PYTORCH}
    assert {Format.ONNX, Format.TORCHSCRIPT, PYTORCH} <= set(rows)
    for row in rows.values():
        assert 0.0 < row.step.median <= row.step_p99
        assert 0.0 < row.whole.median <= row.whole_p99
        assert row.batch in (1, 2)
        assert row.steps_per_second.median == pytest.approx(300 * row.tracks_per_second.median)
        assert row.batch_memory >= row.one_memory > 0
    assert rows["onnx"].accuracy is not None
    assert rows["onnx"].accuracy.probability < 1e-5
    assert rows["onnx"].ratios.step.median == 1.0
    assert (found.hidden, found.layers, found.data) == (HIDDEN, 1, "20 simulated flights")


def test_a_benchmark_without_its_baseline_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "built", lambda *_: ({}, {"onnx": "fails the check of names"}))
    with pytest.raises(ExportError, match=r"baseline onnx .* fails the check of names"):
        benchmark_formats(BenchmarkConfig(checkpoint=checkpoint))


@pytest.mark.parametrize(
    "setting", [{"rounds": 0}, {"threads": 0}, {"seconds": 0.0}, {"batches": ()}, {"formats": (Format.ONNX_INT8,)}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        BenchmarkConfig(checkpoint=Path("model.ckpt"), **setting)


def test_the_command_refuses_a_missing_checkpoint(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path / "none.ckpt"), "--benchmark"])
    assert isinstance(done.exception, CheckpointError)
    assert (done.exception.problem, done.exception.where) == ("no such file", str(tmp_path / "none.ckpt"))
