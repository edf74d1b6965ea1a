"""Whole files scored through a real server: correct values, every row exactly once, whatever is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from typer.testing import CliRunner

from cli import app
from client.batching import BatchConfig
from client.connection import Connection
from client.outputs import REFINED
from client.predict import JOURNAL_NAME, PredictConfig, predict_file
from client.retry import RetryConfig
from reentry.decision import phase_of
from reentry.errors import ClientError, TrackFileError
from reentry.features.track import track_features
from reentry.schema import MEASUREMENT_COLUMNS
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from tests.conftest import on_free_ports
from tests.processes import children_of, command_line
from tests.toy_model import write_toy_model
from tests.versions import pin


@pytest.fixture
def table() -> pd.DataFrame:
    return simulate_trapezoid(TrapezoidConfig(tracks=7, shortest=30, longest=90, seed=3, labels=False))


@pytest.fixture
def source(tmp_path: Path, table: pd.DataFrame) -> Path:
    path = tmp_path / "tracks.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def config(server: EmbeddedServer, source: Path, tmp_path: Path) -> PredictConfig:
    return PredictConfig(
        source=source, out=tmp_path / "out", url=f"grpc://{server.grpc_url}", batching=BatchConfig(tracks=3)
    )


def in_process(repository: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the probability and phase of a table, computed track by track with the code that the server runs."""
    session = onnxruntime.InferenceSession(repository / "reentry_lstm" / "1" / "model.onnx")
    expected = pd.DataFrame(index=table.index, columns=["reentry_probability", "reentry_phase"], dtype=np.float64)
    for _, track in table.groupby("track_id"):
        ordered = track.sort_values("timestamp")
        features = track_features(ordered[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64))
        probability = session.run(["reentry_probability"], {"features": features[None]})[0][0]
        expected.loc[ordered.index, "reentry_probability"] = probability
        expected.loc[ordered.index, "reentry_phase"] = phase_of(probability)
    return expected


def predictions(config: PredictConfig) -> pd.DataFrame:
    return pd.read_csv(config.out / "predictions.csv")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_the_server_gives_the_values_of_the_same_code_in_process(
    scheme: str, config: PredictConfig, server: EmbeddedServer, model_repository: Path, table: pd.DataFrame
) -> None:
    address = {"grpc": server.grpc_url, "http": server.http_url}[scheme]
    prediction = predict_file(replace(config, url=f"{scheme}://{address}"))
    expected = in_process(model_repository, table)
    got = predictions(config)
    np.testing.assert_allclose(got["reentry_probability"], expected["reentry_probability"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(got["reentry_phase"], expected["reentry_phase"])
    assert (prediction.tracks, prediction.rows_scored, prediction.set_aside) == (7, len(table), 0)
    assert prediction.model_version == 1


def test_rows_keep_their_order_and_their_text(config: PredictConfig, table: pd.DataFrame) -> None:
    shuffled = table.sample(frac=1, random_state=0)
    text = shuffled.assign(remark='a, "b"').to_csv(index=False, float_format="%.7e")
    config.source.write_text(text)
    predict_file(config)
    rows = (config.out / "predictions.csv").read_text().splitlines()
    lines_before = text.splitlines()
    assert rows[0] == lines_before[0] + ",reentry_probability,reentry_phase"
    assert len(rows) == len(lines_before)
    assert all(row.startswith(before + ",") for before, row in zip(lines_before[1:], rows[1:], strict=True))


def test_onsets_and_inference_log_have_one_line_per_track_in_order_of_first_appearance(
    config: PredictConfig, table: pd.DataFrame
) -> None:
    backwards = pd.concat([table[table["track_id"] == track_id] for track_id in range(6, -1, -1)])
    backwards.to_csv(config.source, index=False)
    predict_file(config)
    onsets = pd.read_csv(config.out / "onsets.csv")
    causal = ["track_id", "onset_row", "onset_timestamp"]
    assert onsets.columns.tolist() == [*causal, *REFINED, "rows", "model_version"]
    assert onsets[list(REFINED)].isna().all(axis=None)  # the version has no prior of ballistic coefficients
    assert onsets["track_id"].tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert onsets["rows"].sum() == len(table)
    by_track = predictions(config).groupby("track_id")
    for onset, log in zip(onsets.itertuples(), lines(config.out / "inference.jsonl"), strict=True):
        track = by_track.get_group(onset.track_id)
        entered = np.flatnonzero(track["reentry_phase"])
        assert (log["track_id"], log["rows"]) == (onset.track_id, len(track))
        assert log["model_version"] == onset.model_version == 1
        assert log["inference_seconds"] > 0
        if len(entered):
            assert onset.onset_row == log["onset_row"] == entered[0]
            assert onset.onset_timestamp == log["onset_timestamp"] == track["timestamp"].iloc[entered[0]]
        else:
            assert np.isnan(onset.onset_row)
            assert log["onset_row"] is None


def test_an_invalid_track_is_set_aside_and_the_others_are_scored(config: PredictConfig, table: pd.DataFrame) -> None:
    table.loc[table["track_id"] == 2, "latitude"] = 95.0
    table.to_csv(config.source, index=False)
    prediction = predict_file(config)
    bad = table["track_id"] == 2
    got = predictions(config)
    assert got.loc[bad, ["reentry_probability", "reentry_phase"]].isna().all(axis=None)
    assert got.loc[~bad, ["reentry_probability", "reentry_phase"]].notna().all(axis=None)
    assert (prediction.tracks, prediction.set_aside) == (6, 1)
    set_aside = pd.read_csv(config.out / "set_aside.csv")
    assert len(set_aside) == bad.sum()
    assert set_aside["set_aside_reason"].str.contains("latitude").all()

    table.loc[bad, "latitude"] = 60.0
    table.to_csv(config.source, index=False)
    predict_file(config)
    assert not (config.out / "set_aside.csv").exists(), "left over from the run before"


def test_a_track_that_the_server_refuses_is_set_aside_alone(config: PredictConfig, table: pd.DataFrame) -> None:
    # Reading does not check that slopes are within the range of float32, but the server does.
    table.loc[table["track_id"] == 4, "radiometric_intensity"] = 1e39
    table.to_csv(config.source, index=False)
    prediction = predict_file(replace(config, batching=BatchConfig(tracks=7, padding=1.0)))
    assert (prediction.tracks, prediction.set_aside) == (6, 1)
    set_aside = pd.read_csv(config.out / "set_aside.csv")
    assert set_aside["track_id"].unique().tolist() == [4]
    assert set_aside["set_aside_reason"].str.startswith("refused by the server").all()
    assert predictions(config).groupby("track_id")["reentry_phase"].count()[4] == 0


def test_parquet_and_csv_give_the_same_results(config: PredictConfig, table: pd.DataFrame, tmp_path: Path) -> None:
    predict_file(config)
    parquet = replace(config, source=tmp_path / "tracks.parquet", out=tmp_path / "from_parquet")
    table.to_parquet(parquet.source)
    predict_file(parquet)
    pd.testing.assert_frame_equal(predictions(parquet), predictions(config))
    assert (parquet.out / "onsets.csv").read_text() == (config.out / "onsets.csv").read_text()


def test_labels_of_the_file_are_kept_beside_the_predictions(config: PredictConfig) -> None:
    labelled = simulate_trapezoid(TrapezoidConfig(tracks=2, shortest=30, longest=60, seed=1))
    labelled.to_csv(config.source, index=False)
    predict_file(config)
    got = predictions(config)
    assert got["reentry_phase_given"].tolist() == labelled["reentry_phase"].tolist()
    assert got.columns[-2:].tolist() == ["reentry_probability", "reentry_phase"]


def test_a_long_track_is_sent_in_one_message_over_both_protocols(
    config: PredictConfig, server: EmbeddedServer, tmp_path: Path
) -> None:
    long = simulate_trapezoid(TrapezoidConfig(tracks=1, shortest=100_000, longest=100_000, labels=False))
    long.to_parquet(tmp_path / "long.parquet")
    for url in (f"grpc://{server.grpc_url}", f"http://{server.http_url}"):
        assert predict_file(replace(config, source=tmp_path / "long.parquet", url=url)).rows_scored == 100_000


def test_an_invalid_file_leaves_no_folder_behind(config: PredictConfig) -> None:
    config.source.write_text("a;b\n1;2\n")
    with pytest.raises(TrackFileError, match="delimiter"):
        predict_file(config)
    assert not config.out.exists()


def test_without_a_server_the_error_has_the_address_and_a_fix(config: PredictConfig) -> None:
    nobody = replace(config, url="grpc://127.0.0.1:1", retry=RetryConfig(patience=0.1))
    with pytest.raises(ClientError, match="no answer") as error:
        predict_file(nobody)
    assert error.value.where == "grpc://127.0.0.1:1"
    assert "reentry serve" in str(error.value.fix)
    assert [path.name for path in config.out.iterdir()] == [JOURNAL_NAME]


# --- interruptions -------------------------------------------------------------------------------------------------

SLOW = BatchConfig(tracks=1)


@pytest.fixture
def many(config: PredictConfig) -> PredictConfig:
    """Enough tracks, one per request, to interrupt a run in the middle."""
    simulate_trapezoid(TrapezoidConfig(tracks=150, shortest=600, longest=700, labels=False)).to_parquet(
        config.source.with_suffix(".parquet")
    )
    return replace(config, source=config.source.with_suffix(".parquet"), batching=SLOW, concurrency=2)


@pytest.fixture
def own_server(model_repository: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(ports(model_repository)) as running:
        yield running


def ports(repository: Path, like: EmbeddedServer | None = None) -> ServerConfig:
    config = on_free_ports(repository)
    if like is None:
        return config
    http_port, grpc_port = (int(url.rpartition(":")[2]) for url in (like.http_url, like.grpc_url))
    return replace(config, http_port=http_port, grpc_port=grpc_port)


def in_the_middle(config: PredictConfig, act: Callable[[], None]) -> threading.Thread:
    """Call `act` as soon as some tracks are in the journal."""
    journal = config.out / JOURNAL_NAME

    def watch() -> None:
        deadline = time.monotonic() + 300
        while not (journal.exists() and journal.stat().st_size > 20_000) and time.monotonic() < deadline:
            time.sleep(0.001)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def run_until_patience_ends(
    many: PredictConfig, server: EmbeddedServer, kill: Callable[[], None], problem: str
) -> PredictConfig:
    """Score `many` on a server that `kill` breaks in the middle, until the patience ends."""
    config = replace(many, url=f"grpc://{server.grpc_url}", retry=RetryConfig(patience=0.5))
    killed = in_the_middle(config, kill)
    with pytest.raises(ClientError, match=problem):
        predict_file(config)
    killed.join()
    return config


def test_a_run_waits_for_a_server_that_is_killed_and_restarted(
    many: PredictConfig, own_server: EmbeddedServer, model_repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(many, url=f"grpc://{own_server.grpc_url}")
    restarted = EmbeddedServer(ports(model_repository, like=own_server))

    def kill_and_restart() -> None:
        os.killpg(own_server.process_id, signal.SIGKILL)
        own_server.stop()  # waits until its ports are free
        restarted.__enter__()

    thread = in_the_middle(config, kill_and_restart)
    try:
        prediction = predict_file(config)
    finally:
        thread.join()
        restarted.stop()
    assert "is unavailable" in caplog.text
    assert (prediction.tracks, prediction.resumed, prediction.set_aside) == (150, 0, 0)
    assert predictions(config)["reentry_phase"].notna().all()


def test_a_resumed_run_scores_no_track_twice(many: PredictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [Path(sys.executable).with_name("reentry"), "predict", many.source, "--url", many.url, "--out", many.out]
    process = subprocess.Popen([*map(str, command), "--batch", "1", "--concurrency", "2"], stderr=subprocess.PIPE)
    in_the_middle(many, lambda: process.send_signal(signal.SIGINT)).join()
    stderr = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 130, stderr
    assert "run the same command again to resume" in stderr
    assert not (many.out / "predictions.csv").exists()

    requests = 0  # of one track each; the server may still work on those of the interrupted run
    infer = Connection.infer

    async def counted(self: Connection, *request: Any) -> dict[str, np.ndarray]:
        nonlocal requests
        requests += 1
        return await infer(self, *request)

    monkeypatch.setattr(Connection, "infer", counted)
    prediction = predict_file(many)
    assert 0 < prediction.resumed < 150
    assert requests == 150 - prediction.resumed + 1, "one track is scored twice to check that the model is the same"
    assert prediction.tracks == 150
    assert sorted(path.name for path in many.out.iterdir()) == ["inference.jsonl", "onsets.csv", "predictions.csv"]
    resumed = {path.name: path.read_bytes() for path in many.out.iterdir()}

    whole = replace(many, out=many.out.with_name("whole"))
    predict_file(whole)
    for name in ("predictions.csv", "onsets.csv"):
        assert (whole.out / name).read_bytes() == resumed[name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_the_run_with_its_server_and_the_scores_are_kept(
    many: PredictConfig, model_repository: Path, number: signal.Signals
) -> None:
    command = [Path(sys.executable).with_name("reentry"), "predict", many.source, "--out", many.out, "--batch", "1"]
    started = ["--start-server", "--repository", model_repository]
    process = subprocess.Popen([*map(str, [*command, *started])], stderr=subprocess.PIPE)
    servers: list[int] = []

    def end() -> None:
        servers.extend(children_of(process.pid))
        process.send_signal(number)

    in_the_middle(many, end).join()
    stderr = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 130, stderr
    assert "run the same command again to resume" in stderr
    assert "Traceback" not in stderr
    assert servers
    assert not any(Path(f"/proc/{server}").exists() for server in servers)
    assert [path.name for path in many.out.iterdir()] == [JOURNAL_NAME]


def test_after_a_new_version_all_tracks_are_scored_again_by_that_version(
    many: PredictConfig,
    own_server: EmbeddedServer,
    model_repository: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    config = run_until_patience_ends(
        many, own_server, lambda: os.killpg(own_server.process_id, signal.SIGKILL), "no answer"
    )

    newer = shutil.copytree(model_repository, tmp_path / "newer")
    write_toy_model(newer / "reentry_lstm" / "2" / "model.onnx", version=2, seed=5)
    pin(newer, 2)
    with EmbeddedServer(ports(newer)) as server:
        prediction = predict_file(replace(config, url=f"grpc://{server.grpc_url}"))
    assert "resuming: an interrupted run has scored" in caplog.text
    assert "the model changed from version 1 to 2; scoring all tracks again" in caplog.text
    assert (prediction.tracks, prediction.resumed, prediction.model_version) == (150, 0, 2)
    assert pd.read_csv(config.out / "onsets.csv")["model_version"].unique().tolist() == [2]


def test_another_model_with_the_same_version_is_detected_by_its_answer_and_scores_all_tracks(
    many: PredictConfig,
    own_server: EmbeddedServer,
    model_repository: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    config = run_until_patience_ends(
        many, own_server, lambda: os.killpg(own_server.process_id, signal.SIGKILL), "no answer"
    )

    replaced = shutil.copytree(model_repository, tmp_path / "replaced")
    write_toy_model(replaced / "reentry_lstm" / "1" / "model.onnx", version=1, seed=5)
    with EmbeddedServer(ports(replaced)) as server:
        prediction = predict_file(replace(config, url=f"grpc://{server.grpc_url}"))
        predict_file(replace(config, url=f"grpc://{server.grpc_url}", out=tmp_path / "whole"))
    assert "version 1 of the model was replaced by another model; scoring all tracks again" in caplog.text
    assert (prediction.tracks, prediction.resumed, prediction.model_version) == (150, 0, 1)
    assert prediction.files.predictions.read_bytes() == (tmp_path / "whole" / "predictions.csv").read_bytes()


def test_no_track_is_set_aside_while_the_process_of_a_model_is_dead(
    many: PredictConfig, own_server: EmbeddedServer
) -> None:
    stubs = [stub for stub in children_of(own_server.process_id) if "/track_features/" in command_line(stub)]
    assert stubs

    def kill() -> None:
        for stub in stubs:  # each instance has one
            os.kill(stub, signal.SIGKILL)

    config = run_until_patience_ends(many, own_server, kill, "no answer from the server .* is not healthy")
    assert [path.name for path in config.out.iterdir()] == [JOURNAL_NAME]


def test_a_changed_file_is_scored_from_the_start(
    many: PredictConfig, own_server: EmbeddedServer, server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = run_until_patience_ends(
        many, own_server, lambda: os.killpg(own_server.process_id, signal.SIGKILL), "no answer"
    )
    pd.read_parquet(config.source).assign(altitude=1.0).to_parquet(config.source)
    prediction = predict_file(many)
    assert "are of another file" in caplog.text
    assert (prediction.tracks, prediction.resumed) == (150, 0)


@pytest.mark.parametrize(
    ("tensor", "change", "problem"),
    [
        ("reentry_probability", lambda values: values + np.float32(7.5), "reentry_probability of track .* from 0 to 1"),
        ("onset_step", lambda values: values + np.int32(100_000), "onset_step of track"),
        ("reentry_phase", lambda values: values[:, :-1], r"reentry_phase; expected shape .* of uint8"),
    ],
)
def test_an_invalid_answer_ends_the_run_without_results(
    many: PredictConfig,
    server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    tensor: str,
    change: Callable[[np.ndarray], np.ndarray],
    problem: str,
) -> None:
    requests = 0
    infer = Connection.infer

    async def garbled(self: Connection, *request: Any) -> dict[str, np.ndarray]:
        nonlocal requests
        requests += 1
        answer = await infer(self, *request)
        return answer if requests < 5 else answer | {tensor: change(answer[tensor])}

    monkeypatch.setattr(Connection, "infer", garbled)
    config = replace(many, url=f"grpc://{server.grpc_url}")
    with pytest.raises(ClientError, match=f"the server's answer is invalid: {problem}") as error:
        predict_file(config)
    assert error.value.where == config.url
    assert [path.name for path in config.out.iterdir()] == [JOURNAL_NAME]
    monkeypatch.setattr(Connection, "infer", infer)
    prediction = predict_file(config)
    assert prediction.tracks == 150
    assert prediction.resumed > 0


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_can_start_its_own_server(source: Path, model_repository: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(source), "--start-server", "--repository", str(model_repository), "--json"]
    ended = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert ended.exit_code == 0, ended.output
    summary = json.loads(ended.stdout)
    assert (summary["tracks"], summary["model_version"]) == (7, 1)
    assert summary["files"]["predictions"] == str(tmp_path / "out" / "predictions.csv")


def test_the_command_ends_with_status_1_after_writing_all_results_if_a_track_is_set_aside(
    config: PredictConfig, table: pd.DataFrame
) -> None:
    table.loc[table["track_id"] == 2, "latitude"] = 95.0
    table.to_csv(config.source, index=False)
    ended = CliRunner().invoke(app, ["predict", str(config.source), "--url", config.url, "--out", str(config.out)])
    assert ended.exit_code == 1
    assert f"set aside, not scored: 1 track, {(table['track_id'] == 2).sum()} rows, see" in ended.output
    assert len(predictions(config)) == len(table)


def test_the_command_ends_with_status_1_and_counts_rows_without_a_track(
    config: PredictConfig, table: pd.DataFrame
) -> None:
    ids = table["track_id"].astype(str).where(table["track_id"] != 2, "?")
    table.assign(track_id=ids).to_csv(config.source, index=False)
    ended = CliRunner().invoke(app, ["predict", str(config.source), "--url", config.url, "--out", str(config.out)])
    assert ended.exit_code == 1
    assert f"set aside, not scored: {(ids == '?').sum()} rows of no track, see" in ended.output
