"""`reentry runs`: the list and the comparison, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from reentry.errors import InputError
from training.runs.recorder import recording


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Store of three runs; the ids, oldest first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")
        ids = []
        for name, seed, rmse in (("first", 0, 0.5), ("second", 1, 0.25), ("first", 2, float("nan"))):
            with recording(True, {"train.seed": seed, "model.hidden": 16, "data.path": "a.csv"}, name) as recorder:
                recorder.metrics({"onset_rmse": rmse, "f1": 0.9})
            ids.append(recorder.run_id)
        yield ids


def runs(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["runs", *arguments])


def test_the_list_shows_the_newest_run_first(store: list[str]) -> None:
    for arguments in ((), ("list",)):
        result = runs(*arguments)
        assert result.exit_code == 0, result.output
        rows = [line.split() for line in result.stdout.splitlines() if "finished" in line]
        assert [row[0] for row in rows] == [run_id[:8] for run_id in reversed(store)]
        assert rows[1][1] == "second"
        assert rows[1][3:] == ["finished", "a.csv", "1", "0.250", "-", "0.9000", "-"]


def test_the_list_is_available_as_json(store: list[str]) -> None:
    for arguments in (("--json",), ("list", "--json")):
        found = json.loads(runs(*arguments).stdout)
        assert [run["run_id"] for run in found] == store[::-1]
        assert found[2]["parameters"]["train.seed"] == "0"
        assert found[2]["metrics"] == {"onset_rmse": 0.5, "f1": 0.9}


def test_a_comparison_shows_the_parameters_that_differ_and_all_metrics(store: list[str]) -> None:
    result = runs("compare", store[0][:10], "second", store[2])
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.split()}
    assert rows["train.seed"] == ["0", "1", "2"]
    assert "model.hidden" not in rows
    assert rows["onset_rmse"] == ["0.5", "0.25", "-"]
    assert rows["f1"] == ["0.9", "0.9", "0.9"]


def test_a_comparison_is_available_as_json(store: list[str]) -> None:
    found = json.loads(runs("compare", store[0], store[1], "--json").stdout)
    assert [run["name"] for run in found["runs"]] == ["first", "second"]
    assert found["parameters"] == {"train.seed": ["0", "1"]}
    assert found["metrics"] == {"f1": [0.9, 0.9], "onset_rmse": [0.5, 0.25]}


def test_a_run_compared_with_itself_has_the_same_parameters(store: list[str]) -> None:
    assert "all parameters are the same" in runs("compare", store[0], store[0]).stdout


def test_an_ambiguous_name_is_refused_with_the_ids_of_its_runs(store: list[str]) -> None:
    result = runs("compare", "first", "second")
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == (
        f"2 runs are called first; expected one; got {store[2][:8]}, {store[0][:8]}; fix: give more of the id"
    )


def test_an_unknown_run_is_refused(store: list[str]) -> None:
    result = runs("compare", store[0], "nothing")
    assert str(result.exception) == "no run nothing; expected an id or a name that `reentry runs` lists"


def test_a_comparison_of_one_run_is_wrong_usage(store: list[str]) -> None:
    result = runs("compare", store[0])
    assert result.exit_code == 2
    assert "two runs or more" in result.stderr


def test_the_list_without_a_store_names_the_command_that_records_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert runs().stdout == "no run is recorded; `reentry train TRACKS` records one\n"
    assert json.loads(runs("--json").stdout) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["list", "compare"])
def test_the_help_of_each_command_has_an_example(command: str) -> None:
    shown = runs(command, "--help").output
    assert shown.count(f"reentry runs {command}") >= 2
