"""The study: flights, methods, study.json, the table, and resuming."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import training
from cli import app
from reentry.errors import ConfigError
from reentry.schema import ORBIT_FEATURES, ROBUST_FEATURES
from tests.training_data import short_samples
from training.config import TrainConfig, read_configs
from training.data.batches import Batch
from training.data.samples import Sample
from training.fit.module import worst_alarms
from training.studies import study_config
from training.studies.study import STUDY_NAME, StudyRow, read_rows, run_study, write_rows
from training.studies.study_config import LSTM_NAME, QUICK, StudyConfig, methods, networks
from training.studies.study_flights import shortened
from training.studies.study_report import comparison, markdown, refinement, write_report

TINY = StudyConfig(seeds=1, training_flights=6, unseen_flights=3, epochs=1, hidden=3, trees=3, severities=(0, 2))


def row(method: str, severity: int, rmse: float, *, seed: int = 0, refined: float | None = None) -> StudyRow:
    metrics = {
        "onset_rmse": rmse,
        "onset_worst": 2 * rmse,
        "f1": 0.9,
        "detection_delay": None,
        "false_alarms": 0.0,
        "brier": 0.01,
    }
    bins = {"steps": [4.0, 0.0], "predicted": [0.2, None], "observed": [0.25, None]}
    return StudyRow(
        method=method,
        seed=seed,
        severity=severity,
        metrics=metrics,
        reliability=bins,
        parameters=10,
        training_seconds=1.0,
        step_microseconds=2.0,
        refined=[] if refined is None else [{"hindsight": 5.0, "onset_rmse": refined, "refined": 3, "spread": None}],
    )


def long_sample(steps: int, onset: int) -> Sample:
    """Sample whose first feature is the number of the step."""
    sample = short_samples_cached()[0]
    features = torch.zeros(steps, sample.features.shape[1])
    features[:, 0] = torch.arange(steps)
    numbers = np.arange(steps)
    track = replace(
        sample.track,
        measurements=np.repeat(sample.track.measurements[:1], steps, axis=0),
        reentry_phase=(numbers >= onset).astype(np.int8),
        rows=numbers,
        steps=numbers,
    )
    return Sample(track=track, features=features, phase=(torch.arange(steps) >= onset).float())


def short_samples_cached() -> list[Sample]:
    return _SAMPLES


_SAMPLES: list[Sample] = []


@pytest.fixture(scope="module", autouse=True)
def _flights(tmp_path_factory: pytest.TempPathFactory) -> None:
    _SAMPLES[:] = short_samples(tmp_path_factory.mktemp("flights"), tracks=2)


def test_a_shortened_flight_keeps_its_start_its_onset_and_its_order() -> None:
    flights = shortened([long_sample(2_000, 1_500)] * 40, seed=1)
    whole = [flight for flight in flights if len(flight.phase) > 1_000]
    assert 0 < len(whole) < 15  # one in ten
    for flight in flights:
        numbers = flight.features[:, 0]
        assert (numbers.diff() > 0).all()
        assert numbers[:60].tolist() == list(range(60))
        assert numbers[-1] == 1_559
        assert numbers[int(flight.phase.argmax())] == 1_500
        assert len(flight.track) == len(flight.phase)
        before = int((numbers > 1_440).nonzero()[0])
        assert numbers[before:].tolist() == list(range(1_441, 1_560))
        if len(numbers) <= 1_000:
            assert 60 + 60 + 60 <= len(numbers) < 200 + 160 + 60


def test_a_flight_with_a_short_coast_loses_only_the_steps_long_after_its_onset() -> None:
    (flight,) = shortened([long_sample(400, 100)], seed=0)
    assert flight.features[:, 0].tolist() == list(range(160))


def test_a_flight_without_an_onset_keeps_its_end() -> None:
    for flight in shortened([long_sample(900, 900)] * 5, seed=0):
        assert not flight.phase.any()
        assert flight.features[-1, 0] == 899


def test_the_worst_alarm_is_a_step_well_before_the_onset() -> None:
    phase = (torch.arange(50) >= 40).float()[None]
    logits = torch.full((1, 50), -5.0)
    logits[0, 10], logits[0, 38], logits[0, 45] = 2.0, 9.0, 9.0  # a false alarm, one near the onset, a true one
    batch = Batch(torch.zeros(1, 50, 1), phase, torch.ones(1, 50))
    expected = torch.nn.functional.softplus(torch.tensor([2.0]))
    torch.testing.assert_close(worst_alarms(logits, batch, span=2.0), expected)
    padded = batch._replace(weight=(torch.arange(50) != 10).float()[None])  # a step that does not count
    expected = torch.nn.functional.softplus(torch.tensor([-5.0]))
    torch.testing.assert_close(worst_alarms(logits, padded, span=2.0), expected)


def test_the_network_without_the_orbit_filter_has_all_other_features_of_the_first() -> None:
    (first, train), (without, old) = networks(QUICK).values()
    assert set(first.features) - set(without.features) == set(ORBIT_FEATURES)
    assert set(ROBUST_FEATURES) <= set(without.features)
    assert replace(old, onset_weight=train.onset_weight) == train
    assert replace(without, features=first.features, hidden=first.hidden) == first


def test_a_study_scores_every_severity_and_resumes_where_it_stopped(tmp_path: Path) -> None:
    lines: list[str] = []
    rows = run_study(TINY, tmp_path, lines.append, processes=1)
    names = [
        *networks(TINY),
        "orbit filter",
        "boosted trees",
        "altitude threshold",
        "deceleration threshold",
        "known path",
    ]
    assert methods(TINY) == names
    assert [(r.method, r.severity) for r in rows] == [(m, s) for m in names for s in (0, 2)]
    assert lines[0] == "3 flights of severity 0 to judge by, seed 90000"
    assert [line.split(", seed 0: ")[0] for line in lines[4:]] == names
    assert all(r.metrics["tracks"] == 3 for r in rows)
    assert sum(steps or 0 for steps in rows[0].reliability["steps"]) == rows[0].metrics["steps"]
    assert (tmp_path / "networks" / "LSTM-0.ckpt").exists()
    assert {r.method for r in rows if r.refined} == {"LSTM", "orbit filter"}
    assert [errors["hindsight"] for errors in rows[0].refined] == [0.0, 5.0, 10.0, 20.0]
    assert all(r.step_microseconds for r in rows if r.method != "known path")
    assert read_rows(tmp_path / STUDY_NAME, TINY) == rows

    finished = [r for r in rows if r.method != "altitude threshold"]
    write_rows(tmp_path / STUDY_NAME, TINY, finished)
    lines.clear()
    again = run_study(TINY, tmp_path, lines.append, processes=1)
    assert [line.split(",")[0] for line in lines[4:]] == ["altitude threshold"]
    assert figures(again) == figures(rows)  # the same seed, the same figures

    # One severity, so that only the methods need processes, which take seconds to start.
    one, out = replace(TINY, severities=(2,)), tmp_path / "one"
    shutil.copytree(tmp_path / "flights", out / "flights")
    apart = ["LSTM", "altitude threshold"]
    expected = [r for r in rows if r.severity == 2]
    write_rows(out / STUDY_NAME, one, [r for r in expected if r.method not in apart])
    lines.clear()
    both = run_study(one, out, lines.append, processes=2)
    assert [line.split(",")[0] for line in lines[2:]] == apart
    assert figures(both).keys() == figures(expected).keys()
    assert figures(both)["altitude threshold", 2] == figures(expected)["altitude threshold", 2]
    assert (out / "networks" / "LSTM-0.ckpt").exists()

    written = write_report(again, TINY, tmp_path, "reentry study")
    assert [path.name for path in written] == ["study.md", "study.png", "study_reliability.png"]
    assert all(path.stat().st_size > 500 for path in written)


def figures(rows: list[StudyRow]) -> dict[tuple[str, int], dict[str, float | None]]:
    return {(each.method, each.severity): each.metrics for each in rows}


def test_a_study_with_other_settings_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / STUDY_NAME, TINY, [row(LSTM_NAME, 0, 1.0)])
    with pytest.raises(ConfigError, match="other settings") as error:
        run_study(replace(TINY, epochs=2), tmp_path, print)
    assert "--out" in str(error.value.fix)


@pytest.mark.parametrize("text", ["", "{}", '{"settings": 1, "rows": [{"method": 1}]}'])
def test_a_file_that_is_not_a_study_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / STUDY_NAME).write_text(text)
    with pytest.raises(ConfigError, match="not a study"):
        run_study(TINY, tmp_path, print)


@pytest.mark.parametrize("knob", ["seeds", "training_flights", "unseen_flights", "epochs", "hidden", "trees"])
def test_a_size_out_of_range_is_refused(knob: str) -> None:
    with pytest.raises(ConfigError, match=f"{knob} out of range"):
        replace(TINY, **{knob: 0})


def test_the_table_has_a_row_for_each_method_and_severity(tmp_path: Path) -> None:
    rows = [row(LSTM_NAME, 0, 1.0), row("boosted trees", 0, 3.0), row(LSTM_NAME, 1, 2.0)]
    text = markdown(rows, TINY, "reentry study --quick")
    assert "`reentry study --quick`: 1 seed;" in text
    assert "| 0 | LSTM | 1.00 | 2 | 0.9000 | - | 0.0 | 0.01000 | 10 | 2 |" in text
    assert "| 1 | LSTM | 2.00 | 4 |" in text
    assert "- severity 0: LSTM 1.00 s; boosted trees 3.00 s (3.0 times)" in text


def test_cells_over_several_seeds_hold_the_mean_the_range_of_the_rmse_and_the_worst_error() -> None:
    text = markdown([row(LSTM_NAME, 0, 1.0), row(LSTM_NAME, 0, 2.0, seed=1)], TINY, "reentry study")
    assert "2 seeds, mean over them with the lowest and highest onset RMSE" in text
    assert "| 1.50 (1.00 to 2.00) | 4 | 0.9000 | - |" in text


def test_refined_onsets_have_their_own_table() -> None:
    rows = [
        row(LSTM_NAME, 1, 4.0, refined=2.0),
        row(LSTM_NAME, 1, 3.0, refined=1.0, seed=1),
        row("boosted trees", 1, 9.0),
    ]
    lines = markdown(rows, TINY, "reentry study").splitlines()
    assert "| severity | method | alarm | 5 s | spread, 5 s |" in lines
    assert "| 1 | LSTM | 3.50 | 1.50 | - |" in lines
    assert refinement([row("boosted trees", 1, 9.0)]) == []


def test_the_comparison_needs_the_lstm() -> None:
    assert comparison([row("boosted trees", 0, 1.0)]) == []


def test_the_command_writes_its_report_and_prints_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_config, "QUICK", TINY)
    rows = [row(method, severity, 1.0) for method in methods(TINY) for severity in TINY.severities]
    write_rows(tmp_path / STUDY_NAME, TINY, rows)  # nothing is left to compute
    result = CliRunner().invoke(app, ["study", "--quick", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "`reentry study --quick`" in result.output
    assert "| 0 | boosted trees | 1.00 |" in (tmp_path / "study.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / STUDY_NAME).read_text())["settings"]["epochs"] == 1


def test_a_negative_alarm_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="alarm weight out of range"):
        TrainConfig(alarm_weight=-1.0)


def test_the_preset_is_the_network_of_the_quick_study() -> None:
    model, train = networks(QUICK)[LSTM_NAME]
    preset = Path(training.__file__).parent / "presets" / "ballistic.toml"
    assert read_configs(preset, model={}, train={"accelerator": "cpu"}) == (model, train)
