"""Evaluation and its report, and the two commands over them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from reentry.cli import app
from reentry.errors import ConfigError, InputError
from tests.training_data import short_flights, write_flights
from training.checkpoint import load_checkpoint
from training.config import ModelConfig, TrainConfig
from training.evaluate import NETWORK, evaluate_file
from training.report import as_dict, markdown, write_report
from training.train import TrainReport, train_file

METHODS = [NETWORK, "mean onset altitude", "altitude fraction", "logistic regression"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flights(tmp_path_factory.mktemp("data") / "train.csv", tracks=15)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    out = tmp_path_factory.mktemp("trained")
    return train_file(data, out, ModelConfig(hidden=8), TrainConfig(epochs=6, seed=2, accelerator="cpu"))


def test_the_tracks_held_out_are_scored_beside_the_baselines(data: Path, trained: TrainReport) -> None:
    evaluation = evaluate_file(trained.checkpoint, data)
    (run,) = evaluation.runs
    held = load_checkpoint(trained.checkpoint).validation_tracks
    assert list(run.metrics) == METHODS
    for method in METHODS:
        assert tuple(p.track.track_id for p in run.predictions[method]) == held
    assert run.metrics[NETWORK].as_dict() == trained.trained.checkpoint.metrics


def test_of_another_file_every_track_is_scored_by_the_network_alone(tmp_path: Path, trained: TrainReport) -> None:
    evaluation = evaluate_file(trained.checkpoint, write_flights(tmp_path / "other.parquet", tracks=4, seed=9))
    assert not evaluation.held_out
    assert list(evaluation.runs[0].metrics) == [NETWORK]
    assert evaluation.runs[0].metrics[NETWORK].tracks == 4
    assert "baselines need the training file" in markdown(evaluation)


def test_the_training_tracks_are_known_again_in_another_form(data: Path, trained: TrainReport, tmp_path: Path) -> None:
    shuffled = pd.read_csv(data, float_precision="round_trip").sample(frac=1.0, random_state=0)
    shuffled.to_parquet(tmp_path / "train.parquet")
    evaluation = evaluate_file(trained.checkpoint, tmp_path / "train.parquet")
    assert evaluation.held_out
    held = set(load_checkpoint(trained.checkpoint).validation_tracks)
    assert {p.track.track_id for p in evaluation.runs[0].predictions[NETWORK]} == held
    shuffled[shuffled["track_id"] != 0].to_parquet(tmp_path / "fewer.parquet")
    assert not evaluate_file(trained.checkpoint, tmp_path / "fewer.parquet").held_out


def test_over_seeds_the_summary_holds_mean_and_worst(data: Path, trained: TrainReport) -> None:
    evaluation = evaluate_file(trained.checkpoint, data, seeds=3)
    assert [run.seed for run in evaluation.runs] == [2, 3, 4]
    held = [{p.track.track_id for p in run.predictions[NETWORK]} for run in evaluation.runs]
    assert held[0] != held[1]
    for method in METHODS:
        errors = [run.metrics[method].onset_rmse for run in evaluation.runs]
        scores = [run.metrics[method].f1 for run in evaluation.runs]
        figures = evaluation.summary()[method]
        assert figures["onset_rmse"] == {"mean": pytest.approx(sum(errors) / 3), "worst": max(errors)}
        assert figures["f1"] == {"mean": pytest.approx(sum(scores) / 3), "worst": min(scores)}
    assert "mean / worst" in markdown(evaluation)


def test_more_seeds_need_the_training_file(tmp_path: Path, trained: TrainReport) -> None:
    with pytest.raises(ConfigError, match="more than one seed needs the tracks"):
        evaluate_file(trained.checkpoint, write_flights(tmp_path / "other.csv"), seeds=2)


def test_no_seed_is_refused(data: Path, trained: TrainReport) -> None:
    with pytest.raises(ConfigError, match="seeds out of range; expected at least 1; got 0"):
        evaluate_file(trained.checkpoint, data, seeds=0)


def test_the_report_is_four_whole_files(data: Path, trained: TrainReport, tmp_path: Path) -> None:
    evaluation = evaluate_file(trained.checkpoint, data)
    written = write_report(evaluation, tmp_path / "report")
    assert sorted(written) == sorted((tmp_path / "report").iterdir())
    content = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert content == json.loads(json.dumps(as_dict(evaluation)))
    assert content["runs"][0]["metrics"][NETWORK]["onset_rmse"] == trained.trained.checkpoint.metrics["onset_rmse"]
    table = (tmp_path / "report" / "evaluation.md").read_text()
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")][
        2:
    ] == METHODS
    for name in ("track.png", "onset_errors.png"):
        image = (tmp_path / "report" / name).read_bytes()
        assert image.startswith(b"\x89PNG")
        assert len(image) < 150_000


def test_figures_without_cases_are_null_in_json_and_a_dash_in_the_table(tmp_path: Path, trained: TrainReport) -> None:
    flights = short_flights(2)
    flights["reentry_phase"] = 0
    flights.to_csv(tmp_path / "none.csv", index=False)
    evaluation = evaluate_file(trained.checkpoint, tmp_path / "none.csv")
    write_report(evaluation, tmp_path / "report")
    content = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert content["runs"][0]["metrics"][NETWORK]["roc_auc"] is None
    assert markdown(evaluation).splitlines()[-1].endswith("| - |")


def test_one_track_alone_is_not_trained_on_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few labelled tracks"):
        train_file(write_flights(tmp_path / "one.csv", tracks=1), tmp_path / "out", ModelConfig(), TrainConfig())
    assert not (tmp_path / "out").exists()


def test_train_and_evaluate_from_the_command_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[model]\nhidden = 4\n[train]\naccelerator = "cpu"\nepochs = 9\n')
    arguments = ["train", str(data), "--out", str(tmp_path), "--config", str(tmp_path / "settings.toml")]
    result = CliRunner().invoke(app, [*arguments, "--epochs", "2", "--seed", "5", "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["seed"], figures["epochs"], figures["train_tracks"], figures["set_aside"]) == (5, 2, 12, 0)
    assert load_checkpoint(tmp_path / "model.ckpt").model_config.hidden == 4

    arguments = ["evaluate", str(tmp_path / "model.ckpt"), str(data), "--out", str(tmp_path / "report")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["runs"][0]["metrics"][NETWORK] == figures["metrics"]
    result = CliRunner().invoke(app, arguments)
    assert "| logistic regression |" in result.stdout
    assert str(tmp_path / "report" / "track.png") in result.stdout


def test_figures_without_cases_are_null_in_the_json_of_train(data: Path, tmp_path: Path) -> None:
    # One epoch at next to no learning rate leaves every probability below the threshold.
    (tmp_path / "slow.toml").write_text("[model]\nharmonics = []\n[train]\nlearning_rate = 1e-6\nseed = 3\n")
    result = CliRunner().invoke(
        app,
        [
            "train",
            str(data),
            "--out",
            str(tmp_path),
            "--epochs",
            "1",
            "--config",
            str(tmp_path / "slow.toml"),
            "--json",
        ],
    )
    figures = json.loads(result.stdout, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert figures["metrics"]["missed_onsets"] == 3  # nothing is predicted yet, so precision has no cases
    assert figures["metrics"]["precision"] is None


def test_a_bad_track_is_set_aside_and_the_others_are_trained_on(tmp_path: Path) -> None:
    flights = short_flights(6)
    flights.loc[flights["track_id"] == 3, "latitude"] = 120.0
    flights.to_csv(tmp_path / "bad.csv", index=False)
    result = CliRunner().invoke(
        app, ["train", str(tmp_path / "bad.csv"), "--out", str(tmp_path / "out"), "--epochs", "1"]
    )
    assert result.exit_code == 1
    assert "onset RMSE" in result.stdout
    assert "trained on 4 tracks" in result.stdout
    assert (tmp_path / "out" / "model.ckpt").exists()
    assert set((tmp_path / "out" / "set_aside.csv").read_text().splitlines()[1:]) != set()
    result = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "out" / "model.ckpt"), str(tmp_path / "bad.csv"), "--out", str(tmp_path / "e")]
    )
    assert result.exit_code == 1
    assert (tmp_path / "e" / "evaluation.md").exists()
