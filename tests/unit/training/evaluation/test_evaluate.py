"""Evaluation of a checkpoint, its report, and the commands `train` and `evaluate`."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cli import app
from reentry.errors import ConfigError, InputError
from reentry.tracks import fingerprint
from tests.training_data import short_flights, write_flights
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.stored import StoredPredictions
from training.evaluation.evaluate import NETWORK, Evaluation, open_evaluation
from training.evaluation.report import as_dict, markdown, write_report
from training.train import TrainReport, train_file

METHODS = [NETWORK, "mean onset altitude", "altitude fraction", "elapsed fraction", "logistic regression"]


def evaluate_file(checkpoint: Path, data: Path, *, seeds: int = 1) -> Evaluation:
    """Evaluation on a small file, whose predictions stay in memory after the block."""
    with open_evaluation(checkpoint, data, seeds=seeds) as evaluation:
        return evaluation


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flights(tmp_path_factory.mktemp("data") / "train.csv", tracks=15)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    out = tmp_path_factory.mktemp("trained")
    return train_file(data, out, ModelConfig(hidden=8), TrainConfig(epochs=6, seed=2, accelerator="cpu"))


def test_validation_tracks_are_scored_with_the_network_and_the_baselines(data: Path, trained: TrainReport) -> None:
    evaluation = evaluate_file(trained.checkpoint, data)
    (run,) = evaluation.runs
    held = load_checkpoint(trained.checkpoint).validation_tracks
    assert list(run.metrics) == METHODS
    for method in METHODS:
        assert tuple(p.track.track_id for p in run.predictions[method]) == held
    assert run.metrics[NETWORK].as_dict() == trained.trained.checkpoint.metrics


def test_another_file_is_scored_whole_by_the_network_alone(tmp_path: Path, trained: TrainReport) -> None:
    evaluation = evaluate_file(trained.checkpoint, write_flights(tmp_path / "other.parquet", tracks=4, seed=9))
    assert (evaluation.held_out, evaluation.trained_on, evaluation.warning) == (False, 0, None)
    assert list(evaluation.runs[0].metrics) == [NETWORK]
    assert evaluation.runs[0].metrics[NETWORK].tracks == 4
    assert "baselines need the training file" in markdown(evaluation)


def test_training_tracks_are_recognised_in_another_file(data: Path, trained: TrainReport, tmp_path: Path) -> None:
    shuffled = pd.read_csv(data, float_precision="round_trip").sample(frac=1.0, random_state=0)
    shuffled.to_parquet(tmp_path / "train.parquet")
    evaluation = evaluate_file(trained.checkpoint, tmp_path / "train.parquet")
    assert evaluation.held_out
    held = set(load_checkpoint(trained.checkpoint).validation_tracks)
    assert {p.track.track_id for p in evaluation.runs[0].predictions[NETWORK]} == held
    assert evaluation.warning == (
        f"{tmp_path / 'train.parquet'}: the checkpoint was trained on the same tracks in another file; "
        "only the 3 validation tracks are scored"
    )


def test_the_training_file_is_recognised_by_its_content(data: Path, trained: TrainReport, tmp_path: Path) -> None:
    assert load_checkpoint(trained.checkpoint).data_file_fingerprint == fingerprint(data)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(data.read_bytes())
    evaluation = evaluate_file(trained.checkpoint, copy)
    assert (evaluation.held_out, evaluation.same_file, evaluation.trained_on, evaluation.scored) == (True, True, 12, 3)
    assert evaluation.warning == (
        f"{copy}: the checkpoint was trained on this file; only the 3 validation tracks are scored"
    )


def test_training_tracks_among_others_are_left_out(data: Path, trained: TrainReport, tmp_path: Path) -> None:
    held = set(load_checkpoint(trained.checkpoint).validation_tracks)
    table = pd.read_csv(data, float_precision="round_trip")
    known = sorted(set(table["track_id"]) - held)[:4]
    some = table[table["track_id"].isin({*known, *list(held)[:1]})].copy()
    some["track_id"] += 500  # under other ids
    both = pd.concat([some, short_flights(2, seed=9)])
    both.to_parquet(tmp_path / "both.parquet")
    evaluation = evaluate_file(trained.checkpoint, tmp_path / "both.parquet")
    scored = {p.track.track_id for p in evaluation.runs[0].predictions[NETWORK]}
    assert scored == {0, 1, next(iter(held)) + 500}
    assert (evaluation.held_out, evaluation.trained_on, evaluation.scored) == (False, 4, 3)
    assert evaluation.warning == (
        f"{tmp_path / 'both.parquet'}: the checkpoint was trained on 4 of 7 tracks; only the other 3 are scored"
    )
    assert "the 3 tracks that it was not trained on." in markdown(evaluation)
    assert as_dict(evaluation)["tracks_that_trained_it"] == 4


def test_a_truncated_training_track_is_left_out(data: Path, trained: TrainReport, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained.checkpoint)
    table = pd.read_csv(data, float_precision="round_trip")
    first, second, *_ = sorted(set(table["track_id"]) - set(checkpoint.validation_tracks))
    begin, end = (table[table["track_id"] == of].assign(track_id=of + 500) for of in (first, second))
    unseen = table[table["track_id"] == checkpoint.validation_tracks[0]]
    pd.concat([begin.iloc[: len(begin) // 2], end.iloc[len(end) // 2 :], unseen]).to_parquet(tmp_path / "cut.parquet")
    evaluation = evaluate_file(trained.checkpoint, tmp_path / "cut.parquet")
    assert (evaluation.trained_on, evaluation.scored) == (2, 1)
    assert "trained on 2 of 3 tracks; only the other 1 are scored" in (evaluation.warning or "")

    save_checkpoint(tmp_path / "old.ckpt", replace(checkpoint, trained_rows=None))
    assert evaluate_file(tmp_path / "old.ckpt", tmp_path / "cut.parquet").trained_on == 0


def test_training_tracks_alone_are_scored_with_a_warning(data: Path, trained: TrainReport, tmp_path: Path) -> None:
    held = load_checkpoint(trained.checkpoint).validation_tracks
    table = pd.read_csv(data, float_precision="round_trip")
    table[~table["track_id"].isin(held)].to_csv(tmp_path / "known.csv", index=False)
    arguments = ["evaluate", str(trained.checkpoint), str(tmp_path / "known.csv"), "--out", str(tmp_path / "report")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["tracks_that_trained_it"], content["tracks_scored"]) == (12, 12)
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert "the checkpoint was trained on 12 of 12 tracks; they are scored all the same" in warning
    assert content["warning"] in warning


def test_a_checkpoint_without_flight_fingerprints_recognises_its_tracks_as_a_whole(
    data: Path, trained: TrainReport, tmp_path: Path
) -> None:
    old = replace(
        load_checkpoint(trained.checkpoint), trained_flights=frozenset(), trained_rows=None, data_file_fingerprint=""
    )
    save_checkpoint(tmp_path / "old.ckpt", old)
    evaluation = evaluate_file(tmp_path / "old.ckpt", data)
    assert (evaluation.held_out, evaluation.same_file, evaluation.scored) == (True, False, 3)


def test_the_summary_over_seeds_holds_mean_and_worst(data: Path, trained: TrainReport) -> None:
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


def test_several_seeds_need_the_training_file(tmp_path: Path, trained: TrainReport) -> None:
    other = write_flights(tmp_path / "other.csv")
    with pytest.raises(ConfigError, match="more than one seed") as error:
        evaluate_file(trained.checkpoint, other, seeds=2)
    assert error.value.where == str(other)


def test_zero_seeds_are_refused(data: Path, trained: TrainReport) -> None:
    with pytest.raises(ConfigError, match="seeds out of range") as error:
        evaluate_file(trained.checkpoint, data, seeds=0)
    assert (error.value.expected, error.value.got) == ("1 to 1,000", "0")


def test_a_file_larger_than_memory_has_the_same_report_to_the_bit(
    data: Path, trained: TrainReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for name, limit in (("memory", 2**30), ("disk", 0)):
        with open_evaluation(trained.checkpoint, data, seeds=2, in_memory_bytes=limit) as evaluation:
            on_disk = all(isinstance(of, StoredPredictions) for of in evaluation.runs[0].predictions.values())
            assert on_disk == (name == "disk")
            write_report(evaluation, tmp_path / name)
        assert list((tmp_path / "temporary").iterdir()) == []
    for path in (tmp_path / "memory").iterdir():
        assert path.read_bytes() == (tmp_path / "disk" / path.name).read_bytes()


def test_training_tracks_in_a_large_file_are_left_out(data: Path, trained: TrainReport, tmp_path: Path) -> None:
    others = short_flights(2, seed=9)
    others["track_id"] += 90
    table = pd.concat([pd.read_csv(data, float_precision="round_trip"), others])
    table.to_parquet(tmp_path / "both.parquet")
    in_memory = evaluate_file(trained.checkpoint, tmp_path / "both.parquet")
    with open_evaluation(trained.checkpoint, tmp_path / "both.parquet", in_memory_bytes=0) as evaluation:
        assert evaluation.warning == in_memory.warning
        assert (evaluation.trained_on, evaluation.scored) == (12, 5)
        assert evaluation.runs[0].metrics == in_memory.runs[0].metrics


def test_baselines_are_fitted_on_part_of_a_large_training_split_and_the_report_says_so(
    data: Path, trained: TrainReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "evenly chosen" not in markdown(evaluate_file(trained.checkpoint, data))
    monkeypatch.setattr("training.evaluation.evaluate.BASELINE_STEPS", 500)  # of some 1,100
    evaluation = evaluate_file(trained.checkpoint, data)
    assert evaluation.runs[0].fitted_on == 4
    assert "The baselines were fitted on 4 of the training tracks, evenly chosen." in markdown(evaluation)
    assert as_dict(evaluation)["runs"][0]["baselines_fitted_on"] == 4


def test_an_unwritable_report_folder_is_refused_before_the_tracks_are_read(
    trained: TrainReport, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "wrong.csv").write_text("no tracks")
    arguments = ["evaluate", str(trained.checkpoint), str(tmp_path / "wrong.csv"), "--out", str(tmp_path / "file/x")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError)
    assert "cannot be written" in str(result.exception)


def test_the_report_consists_of_five_complete_files(data: Path, trained: TrainReport, tmp_path: Path) -> None:
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
    for name in ("track.png", "onset_errors.png", "reliability.png"):
        image = (tmp_path / "report" / name).read_bytes()
        assert image.startswith(b"\x89PNG")
        assert len(image) < 150_000


def test_metrics_without_cases_are_null_in_json_and_a_dash_in_the_table(tmp_path: Path, trained: TrainReport) -> None:
    flights = short_flights(2)
    flights["reentry_phase"] = 0
    flights.to_csv(tmp_path / "none.csv", index=False)
    evaluation = evaluate_file(trained.checkpoint, tmp_path / "none.csv")
    write_report(evaluation, tmp_path / "report")
    content = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert content["runs"][0]["metrics"][NETWORK]["roc_auc"] is None
    titles, figures = (
        markdown(evaluation).splitlines()[-3].split(" | "),
        markdown(evaluation).splitlines()[-1].split(" | "),
    )
    assert figures[titles.index("ROC AUC")] == "-"


def test_training_on_a_single_track_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few labelled tracks"):
        train_file(write_flights(tmp_path / "one.csv", tracks=1), tmp_path / "out", ModelConfig(), TrainConfig())
    assert not (tmp_path / "out").exists()


def test_the_commands_train_and_evaluate_work_together(data: Path, tmp_path: Path) -> None:
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


def test_metrics_without_cases_are_null_in_the_json_of_train(data: Path, tmp_path: Path) -> None:
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
    figures = json.loads(result.stdout, parse_constant=lambda constant: pytest.fail(f"{constant} is not valid JSON"))
    assert (
        figures["metrics"]["missed_onsets"] == 3
    )  # no step is predicted in reentry yet, so the precision has no cases
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
