"""A run that cannot end well says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import predict
from client.predict import PredictConfig, predict_file
from reentry.errors import ClientError, InputError
from reentry.simulation import simulate_file


def test_a_model_that_changes_in_every_pass_ends_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two servers of different versions behind one address: a rollout that never ends cannot be staged for real.
    async def change(self: object) -> None:
        raise predict._ModelChangedError("the model changed")

    monkeypatch.setattr(predict._Run, "score_all", change)
    simulate_file(tmp_path / "t.csv", tracks=1)
    with pytest.raises(ClientError, match="the model version keeps changing"):
        predict_file(PredictConfig(source=tmp_path / "t.csv", out=tmp_path / "out"))
    assert capsys.readouterr().err.count("scoring all tracks again") == 3


@pytest.mark.parametrize(
    "name", ["predictions.csv", "onsets.csv", "inference.jsonl", "set_aside.csv", predict.JOURNAL_NAME]
)
def test_a_file_that_the_results_would_replace_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"the results would replace the file to score; fix: .* --out"):
        predict_file(PredictConfig(source=source, out=tmp_path / "link"))
    assert source.read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["link", name])


@pytest.mark.parametrize("out", ["t.csv", "t.csv/below"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, out: str) -> None:
    simulate_file(tmp_path / "t.csv", tracks=1)
    with pytest.raises(InputError, match=f"{out}: cannot be written: .*; fix: "):
        predict_file(PredictConfig(source=tmp_path / "t.csv", out=tmp_path / out))
