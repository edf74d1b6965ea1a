"""Plots: no line across missing measurements, no legend over the data, a dot for each result of the study."""

from __future__ import annotations

import numpy as np
import pytest

from reentry.decision import DecisionConfig
from reentry.schema import MEASUREMENT_COLUMNS
from reentry.tracks import Track
from training.evaluation.metrics import Prediction
from training.evaluation.plots import reliability_figure, silences, track_figure
from training.evaluation.reliability import Reliability
from training.studies.study import StudyRow
from training.studies.study_report import errors_figure

NAN = float("nan")


def prediction(seconds: np.ndarray) -> Prediction:
    measurements = np.zeros((len(seconds), len(MEASUREMENT_COLUMNS)))
    measurements[:, 0] = 1e9 + seconds
    steps = np.arange(len(seconds))
    phase = (steps >= len(steps) // 2).astype(np.int8)
    track = Track(track_id=7, measurements=measurements, reentry_phase=phase, rows=steps, steps=steps)
    return Prediction(track=track, probability=phase * 0.8 + 0.1)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([0.0, 1.0, 2.0, 14.0, 15.0, 16.0], [3]),
        ([0.0, 1.0, 2.0, 5.9, 7.0], []),
        ([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 9.0], [6]),
        ([5.0, 5.0, 5.0], []),
        ([5.0], []),
    ],
)
def test_a_silence_is_at_least_four_median_steps_long(seconds: list[float], expected: list[int]) -> None:
    assert silences(np.array(seconds)).tolist() == expected


def test_lines_break_at_a_silence_and_the_silence_is_marked() -> None:
    seconds = np.concatenate([np.arange(20.0), np.arange(31.0, 40.0)])
    figure = track_figure([prediction(seconds)], DecisionConfig())
    above, below = figure.axes
    over_time = [line for panel in (above, below) for line in panel.lines if len(line.get_xdata()) > len(seconds)]
    assert len(over_time) == 3  # altitude, phase, probability
    for line in over_time:
        assert np.flatnonzero(np.isnan(np.asarray(line.get_ydata(), dtype=float))).tolist() == [20]
    for panel in (above, below):
        assert len(panel.patches) == 1
    assert "no measurements" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_track_without_silences_has_no_marks() -> None:
    figure = track_figure([prediction(np.arange(30.0))], DecisionConfig())
    assert [len(panel.patches) for panel in figure.axes] == [0, 0]
    assert "no measurements" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_reliability_line_joins_adjacent_bins_only() -> None:
    two = Reliability(
        steps=np.array([90, 0, 0, 10]),
        predicted=np.array([0.0, NAN, NAN, 1.0]),
        observed=np.array([0.0, NAN, NAN, 1.0]),
    )
    figure = reliability_figure({"LSTM": two})
    line = next(line for line in figure.axes[0].lines if line.get_label().startswith("LSTM"))
    np.testing.assert_array_equal(line.get_xdata(), [0.0, NAN, NAN, 1.0])
    assert line.get_marker() == "o"
    assert [panel.get_legend() for panel in figure.axes] == [None, None]
    assert len(figure.legends) == 1


def test_the_plot_of_a_study_has_a_dot_for_each_method_and_severity() -> None:
    rows = [
        StudyRow(
            method=method,
            severity=severity,
            seed=seed,
            metrics={"onset_rmse": value + seed},
            parameters=1,
            training_seconds=1.0,
            step_microseconds=None,
            reliability={},
            refined=[],
        )
        for severity in (0, 1)
        for method, value in (("LSTM", 1.0), ("known path", 0.5))
        for seed in (0, 1)
    ]
    figure = errors_figure(rows)
    assert [panel.get_title() for panel in figure.axes] == ["severity 0", "severity 1"]
    for panel in figure.axes:
        dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in panel.lines if line.get_marker() == "o"]
        assert dots == [(1.5, 0), (1.0, 1)]
        assert [text.get_text() for text in panel.texts] == ["1.50", "1.00"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["LSTM", "known path"]
