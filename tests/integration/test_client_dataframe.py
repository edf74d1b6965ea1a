"""The client for tables gives the values of `reentry predict`, with the index of the table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from client import Reentry
from client.predict import PredictConfig, predict_file
from reentry.errors import ClientError, ConfigError, InputError, TrackFileError
from reentry.serving import EmbeddedServer
from reentry.simulation import TrapezoidConfig, simulate_trapezoid


@pytest.fixture
def table() -> pd.DataFrame:
    return simulate_trapezoid(TrapezoidConfig(tracks=5, shortest=30, longest=90, seed=3, labels=False))


@pytest.fixture
def reentry(server: EmbeddedServer) -> Reentry:
    return Reentry(f"grpc://{server.grpc_url}", patience=10.0)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_table_gets_the_same_results_as_a_file(
    scheme: str, server: EmbeddedServer, table: pd.DataFrame, tmp_path: Path
) -> None:
    url = f"{scheme}://{server.grpc_url if scheme == 'grpc' else server.http_url}"
    shuffled = table.sample(frac=1.0, random_state=0)
    shuffled.to_csv(tmp_path / "tracks.csv", index=False)
    predict_file(PredictConfig(source=tmp_path / "tracks.csv", out=tmp_path / "out", url=url))
    before = shuffled.copy()
    scores = Reentry(url).score(shuffled)

    pd.testing.assert_frame_equal(shuffled, before)
    pd.testing.assert_index_equal(scores.rows.index, shuffled.index)
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    np.testing.assert_allclose(scores.rows["reentry_probability"], rows["reentry_probability"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(scores.rows["reentry_phase"].astype(int), rows["reentry_phase"])
    tracks = pd.read_csv(tmp_path / "out" / "onsets.csv")
    pd.testing.assert_frame_equal(
        scores.tracks, tracks[scores.tracks.columns].astype(scores.tracks.dtypes.to_dict()), rtol=0.0
    )
    assert scores.set_aside.empty


def test_a_table_is_scored_while_an_event_loop_runs(reentry: Reentry, table: pd.DataFrame) -> None:
    async def notebook() -> pd.DataFrame:
        return reentry.score(table).tracks

    pd.testing.assert_frame_equal(asyncio.run(notebook()), reentry.score(table).tracks)


def test_a_track_that_cannot_be_scored_is_set_aside_with_its_reason(reentry: Reentry, table: pd.DataFrame) -> None:
    table.loc[table["track_id"] == 2, "latitude"] = 95.0
    bright = table.index[table["track_id"] == 3][0]
    table.loc[bright, "radiometric_intensity"] = 1e300  # only the server refuses this value
    scores = reentry.score(table)
    bad = table["track_id"].isin([2, 3])
    assert scores.tracks["track_id"].tolist() == [0, 1, 4]
    assert scores.set_aside["track_id"].tolist() == [2, 3]
    assert scores.set_aside["rows"].tolist() == [(table["track_id"] == number).sum() for number in (2, 3)]
    assert "row 0, column intensity: feature does not fit in float32" in scores.set_aside["reason"][1]
    assert "column latitude: above 90 degrees" in scores.set_aside["reason"][0]
    for column in scores.rows:
        assert scores.rows[column].isna().tolist() == bad.tolist()


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype(str)


def as_nullable(table: pd.DataFrame) -> pd.DataFrame:
    return table.convert_dtypes()


def with_more(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(remark="text", at=pd.Timestamp("2026-01-01"))[["remark", *reversed(table.columns), "at"]]


@pytest.mark.parametrize("change", [as_text, as_nullable, with_more])
def test_column_types_and_column_order_do_not_change_the_results(
    reentry: Reentry, table: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    expected, got = reentry.score(table), reentry.score(change(table))
    pd.testing.assert_frame_equal(got.tracks, expected.tracks)
    np.testing.assert_allclose(got.rows["reentry_probability"], expected.rows["reentry_probability"], rtol=0, atol=1e-5)


def test_timestamps_of_type_datetime_are_refused(reentry: Reentry, table: pd.DataFrame) -> None:
    scores = reentry.score(table.assign(timestamp=pd.to_datetime(table["timestamp"], unit="s")))
    assert scores.tracks.empty
    assert scores.set_aside["reason"].str.contains("column timestamp: not a number, got ").all()


def test_a_table_with_a_missing_column_is_refused(reentry: Reentry, table: pd.DataFrame) -> None:
    with pytest.raises(TrackFileError, match=r"missing column altitude \(is it 'Altitude'\?\)") as error:
        reentry.score(table.rename(columns={"altitude": "Altitude"}))
    assert error.value.where == "DataFrame"


def test_a_table_without_rows_is_refused(reentry: Reentry, table: pd.DataFrame) -> None:
    with pytest.raises(TrackFileError, match="no rows") as error:
        reentry.score(table.iloc[:0])
    assert error.value.where == "DataFrame"


def test_an_argument_that_is_not_a_dataframe_is_refused(reentry: Reentry) -> None:
    with pytest.raises(InputError) as error:
        reentry.score(np.zeros((3, 6)))
    assert (error.value.expected, error.value.got) == ("a pandas DataFrame", "ndarray")


def test_invalid_settings_are_refused_before_scoring() -> None:
    with pytest.raises(ConfigError, match="not the URL of a Triton server"):
        Reentry("127.0.0.1:8000")
    with pytest.raises(ConfigError, match="timeout") as error:
        Reentry(timeout=float("nan"))
    assert (error.value.expected, error.value.got) == ("more than 0 s", "nan")
    with pytest.raises(ConfigError, match="patience"):
        Reentry(patience=-1.0)


def test_a_server_that_does_not_answer_is_an_error(table: pd.DataFrame) -> None:
    with pytest.raises(ClientError, match="no answer from the server") as error:
        Reentry("grpc://127.0.0.1:9", patience=0.0).score(table)
    assert error.value.where == "grpc://127.0.0.1:9"
