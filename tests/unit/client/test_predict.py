"""A run that cannot give results ends with an error. Most tests replace the requests and need no server."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from client import predict
from client.predict import PredictConfig, predict_file
from reentry.errors import ClientError, InputError, TrackFileError
from reentry.simulation import simulate_file


def test_a_model_that_changes_in_every_pass_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A rollout that never ends cannot be reproduced with real servers.
    async def change(self: object) -> None:
        raise predict._ModelChangedError("the model changed")

    caplog.set_level("INFO")
    monkeypatch.setattr(predict._Run, "score_all", change)
    simulate_file(tmp_path / "t.csv", tracks=1)
    with pytest.raises(ClientError, match="the model version keeps changing"):
        predict_file(PredictConfig(source=tmp_path / "t.csv", out=tmp_path / "out"))
    assert caplog.text.count("scoring all tracks again") == 3


@pytest.mark.parametrize(
    "name", ["predictions.csv", "onsets.csv", "inference.jsonl", "set_aside.csv", predict.JOURNAL_NAME]
)
def test_a_file_that_the_results_would_replace_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="the results would replace the file to score") as error:
        predict_file(PredictConfig(source=source, out=tmp_path / "link"))
    assert "--out" in str(error.value.fix)
    assert source.read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["link", name])


@pytest.mark.parametrize("out", ["t.csv", "t.csv/below"])
def test_a_folder_that_cannot_be_created_is_named_in_the_error(tmp_path: Path, out: str) -> None:
    simulate_file(tmp_path / "t.csv", tracks=1)
    with pytest.raises(InputError, match=f"{out}: cannot be written: ") as error:
        predict_file(PredictConfig(source=tmp_path / "t.csv", out=tmp_path / out))
    assert error.value.fix is not None


@pytest.mark.parametrize("link", ["loop.csv", "out"])
def test_a_loop_of_symbolic_links_is_an_input_error(tmp_path: Path, link: str) -> None:
    simulate_file(tmp_path / "t.csv", tracks=1)
    (tmp_path / link).symlink_to(tmp_path / link)
    source = tmp_path / ("t.csv" if link == "out" else link)
    with pytest.raises(InputError, match=r"loop\.csv: cannot be read; got Too many|out: cannot be written: "):
        predict_file(PredictConfig(source=source, out=tmp_path / "out"))


@pytest.mark.parametrize("when", ["score_all", "write"])
def test_a_file_that_is_replaced_while_it_is_scored_gives_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    source, out = tmp_path / "t.csv", tmp_path / "out"
    write = predict._Run.write

    def replace() -> None:
        simulate_file(tmp_path / "other.csv", tracks=1, seed=9)
        (tmp_path / "other.csv").replace(source)

    async def score_all(self: object) -> None:
        if when == "score_all":
            replace()

    def write_later(self: predict._Run, reading_seconds: float) -> predict.ScoringSummary:
        if when == "write":
            replace()
        return write(self, reading_seconds)

    monkeypatch.setattr(predict._Run, "score_all", score_all)
    monkeypatch.setattr(predict._Run, "write", write_later)
    simulate_file(source, tracks=1)
    with pytest.raises(TrackFileError, match="changed while it was scored") as error:
        predict_file(PredictConfig(source=source, out=out))
    assert error.value.fix == "score it again"
    assert [path.name for path in out.iterdir()] == [predict.JOURNAL_NAME]


def test_leftovers_of_a_killed_run_are_removed_from_the_results_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def score_all(self: object) -> None:
        pass

    monkeypatch.setattr(predict._Run, "score_all", score_all)
    simulate_file(tmp_path / "t.csv", tracks=1)
    (tmp_path / "out").mkdir()
    for name in (".set_aside.csv.0123456789abcdef.csv", ".predictions.csv.0123456789abcdef.csv", ".own.csv"):
        (tmp_path / "out" / name).touch()
    predict_file(PredictConfig(source=tmp_path / "t.csv", out=tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(".own.csv", "inference.jsonl", "onsets.csv", "predictions.csv")
    ]


def test_a_parquet_column_that_cannot_be_written_is_an_error_before_the_scoring(tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    simulate_file(source, tracks=1)
    table = pyarrow.parquet.read_table(source)
    pairs = pa.array([None, *[[1.0, 2.0]] * (len(table) - 1)], pa.list_(pa.float64(), 2))  # pyarrow cannot read it back
    pyarrow.parquet.write_table(table.append_column("pairs", pairs), source)
    with pytest.raises(TrackFileError, match=r"t\.parquet: not readable as Parquet"):
        predict_file(PredictConfig(source=source, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
