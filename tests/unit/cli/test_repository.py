"""`reentry repository` without a running server, and the choice of the version that is served."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import cli
from reentry.errors import ConfigError, ServerError
from reentry.serving import ServerConfig
from reentry.serving.repository import models_of, served_versions
from registry.models import MODELS
from registry.open import open_store
from registry.promotion import label_exported, promote
from tests.versions import IMAGERY, add_imagery, bare_repository, install, install_imagery, pin

RUN = CliRunner()
COMMANDS = ["list", "show", "promote", "rollback", "compare", "prune", "diff"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Repository of version 1 in production, 2 from an older export, and the candidate 3, worse and on other data."""
    repository = bare_repository(tmp_path)
    install(repository, tmp_path, 1, metric=1.0)
    install(repository, tmp_path, 2)
    (repository / "reentry_lstm" / "2" / "manifest.json").write_text('{"version": 2, "format": "onnx"}')
    install(repository, tmp_path, 3, metric=1.5, data_fingerprint="other")
    store = open_store(repository)
    promote(store, 1)
    label_exported(store, [3])
    return repository


def run(repository: Path, command: str, *arguments: str) -> Result:
    return RUN.invoke(cli.app, ["repository", command, "--repository", str(repository), *arguments])


def done(repository: Path, command: str, *arguments: str) -> str:
    result = run(repository, command, *arguments)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


def one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repository: Path, *arguments: str
) -> str:
    """Return the error line of a command that ends with exit status 1."""
    command, *rest = arguments
    monkeypatch.setattr(sys, "argv", ["reentry", "repository", command, "--repository", str(repository), *rest])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example(command: str) -> None:
    result = RUN.invoke(cli.app, ["repository", command, "--help"])
    assert result.exit_code == 0
    assert f"Example: reentry repository {command}" in result.output


def test_the_list_shows_each_version_with_labels_and_metrics(repository: Path) -> None:
    lines = done(repository, "list").splitlines()
    rows = [line.split() for line in lines if line.split() and line.split()[0].isdecimal()]
    created = "2026-01-01T00:00:00+00:00"
    assert [row[:-2] + row[-1:] for row in rows] == [  # all but the size
        ["1", "production", "onnx", created, "1.000", "passed"],
        ["2", "unknown"],
        ["3", "candidate", "onnx", created, "1.500", "passed"],
    ]
    assert lines[-1].startswith("version 2: not a manifest of this program")
    rows = json.loads(done(repository, "list", "--json"))
    assert [(row["version"], row["labels"], row["gate"], row["onset_rmse"]) for row in rows] == [
        (1, ["production"], "passed", 1.0),
        (2, [], "unknown", None),
        (3, ["candidate"], "passed", 1.5),
    ]
    assert rows[0]["format"] == "onnx"
    assert "not a manifest of this program" in rows[1]["problem"]


def test_the_list_of_an_empty_repository_names_the_command_that_installs_a_version(tmp_path: Path) -> None:
    assert done(bare_repository(tmp_path), "list") == (
        "no version is installed; `reentry export CHECKPOINT` installs one\n"
    )


def test_the_list_warns_if_another_version_than_production_is_pinned_and_changes_nothing(repository: Path) -> None:
    pin(repository, 3)
    result = run(repository, "list")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: config.pbtxt serves version 3, and version 1 is in production; "
        "fix: reentry repository promote production\n"
    )
    assert served_versions(repository, "reentry_lstm") == [3]
    assert run(repository, "promote", "production").stderr.startswith("repaired: config.pbtxt serves version 3")
    assert served_versions(repository, "reentry_lstm") == [1]


def test_show_prints_all_details_and_whether_the_files_match_the_manifest(repository: Path) -> None:
    shown = json.loads(done(repository, "show", "production", "--json"))
    assert (shown["version"], shown["whole"], shown["faults"], shown["labels"]) == (1, True, [], ["production"])
    assert shown["manifest"]["verification"] == {"passed": True}
    assert [change["kind"] for change in shown["history"]] == ["promote"]
    (repository / "reentry_lstm/1/step.onnx").write_bytes(b"")
    lines = done(repository, "show", "1").splitlines()
    assert {"whole: False", "faults: step.onnx has 0 bytes, expected 4", "manifest.metrics.onset_rmse: 1.0"} <= set(
        lines
    )
    assert "history[0].version: 1" in lines


def test_a_promotion_that_breaks_a_rule_ends_with_one_line(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = one_line(monkeypatch, capsys, repository, "promote", "candidate")
    assert line.startswith(f"error: {repository}: version 3 is not promoted: its onset_rmse is 1.5 s, worse than 1 s")
    assert "fix: " in line


def test_a_reason_overrides_the_rule_and_a_rollback_restores_the_version_before(repository: Path) -> None:
    result = run(repository, "promote", "candidate", "--reason", "a drill")
    assert result.stdout.splitlines() == [
        "version 3 is in production, after version 1",
        "overridden: its onset_rmse is 1.5 s, worse than 1 s of version 1 in production",
    ]
    assert result.stderr.startswith("warning: trained on other data than version 1")
    back = json.loads(done(repository, "rollback", "--json", "--reason", "the drill is over"))
    assert (back["version"], back["previous"], back["kind"], back["reason"]) == (1, 3, "rollback", "the drill is over")
    assert served_versions(repository, "reentry_lstm") == [1]


def test_quiet_hides_the_repairs_of_a_promotion_but_not_its_warnings(repository: Path) -> None:
    pin(repository, 2)
    promotion = ["repository", "promote", "3", "--repository", str(repository), "--reason", "a drill"]
    result = RUN.invoke(cli.app, ["--quiet", *promotion])
    assert (result.exit_code, result.stderr) == (
        0,
        "warning: trained on other data than version 1, so their metrics may not be comparable\n",
    )


def test_the_json_of_a_promotion_has_its_warnings_and_repairs(repository: Path) -> None:
    pin(repository, 2)
    shown = json.loads(done(repository, "promote", "3", "--json", "--reason", "a drill"))
    assert shown["warnings"] == ["trained on other data than version 1, so their metrics may not be comparable"]
    assert shown["notes"] == ["repaired: config.pbtxt serves version 2, and version 1 is in production"]


def test_an_unused_label_and_an_unknown_word_are_named_in_the_error(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done(repository, "promote", "3", "--reason", "a drill")
    line = one_line(monkeypatch, capsys, repository, "promote", "candidate")
    assert "no version is labelled candidate; fix: give a number" in line
    line = one_line(monkeypatch, capsys, repository, "show", "newest")
    assert "newest: not a version; expected a number, `candidate` or `production`" in line


def test_prune_prints_the_versions_to_remove_and_then_removes_them(repository: Path) -> None:
    assert done(repository, "prune", "--keep", "0", "--dry-run") == "would remove 2\n"
    assert json.loads(done(repository, "prune", "--keep", "0", "--json"))["removed"] == [2]
    assert done(repository, "prune", "--keep", "0") == "removed nothing\n"
    assert sorted(path.name for path in (repository / "reentry_lstm").glob("[0-9]*")) == ["1", "3"]


def test_the_model_option_chooses_another_model_of_the_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, IMAGERY.name, IMAGERY)
    add_imagery(repository)
    install_imagery(repository, tmp_path, 1)
    assert done(repository, "promote", "1", "--model", IMAGERY.name) == "version 1 is in production\n"
    (row,) = json.loads(done(repository, "list", "--json", "--model", IMAGERY.name))
    assert (row["version"], row["labels"], row["miss_rate"]) == (1, ["production"], 0.1)
    assert " miss_rate " in done(repository, "list", "--model", IMAGERY.name)
    assert [row["version"] for row in json.loads(done(repository, "list", "--json"))] == [1, 2, 3]


def test_the_diff_of_two_versions_lists_the_manifest_fields_that_differ(repository: Path) -> None:
    found = json.loads(done(repository, "diff", "production", "candidate", "--json"))
    assert found == {
        "version": [1, 3],
        "data_fingerprint": ["data", "other"],
        "metrics.onset_rmse": [1.0, 1.5],
    }
    assert "data_fingerprint" in done(repository, "diff", "1", "3")


@pytest.mark.parametrize("arguments", [[], ["1"], ["1", "2", "3"], ["1", "2", "--url", "http://127.0.0.1:8000"]])
def test_a_diff_of_anything_but_two_versions_or_a_server_is_wrong_usage(repository: Path, arguments: list[str]) -> None:
    assert run(repository, "diff", *arguments).exit_code == 2


@pytest.mark.parametrize("command", [["promote", "3", "--reason", "a drill"], ["diff"]])
def test_a_server_that_does_not_answer_ends_with_one_line_and_changes_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        line = one_line(monkeypatch, capsys, repository, *command, "--url", url)
    assert line.startswith(f"error: {url}: no server answers: ")
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_a_folder_without_a_repository_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = one_line(monkeypatch, capsys, tmp_path, "list")
    assert line.startswith(f"error: {tmp_path}: not a model repository of this program; expected")


def test_the_pinned_version_is_served_and_must_be_installed(repository: Path) -> None:
    assert served_versions(repository, "reentry_lstm") == [1]
    pin(repository, 9)
    with pytest.raises(ServerError) as failure:
        models_of(repository)
    assert str(failure.value) == (
        f"{repository}/reentry_lstm/config.pbtxt: serves version 9, which is not installed; expected 1 or 2 or 3; "
        f"fix: reentry repository promote 3 --repository {repository}"
    )


@pytest.mark.parametrize(("policy", "served"), [("latest { num_versions: 2 }", [2, 3]), ("all {}", [1, 2, 3])])
def test_without_a_pinned_version_triton_s_version_policy_applies(
    repository: Path, policy: str, served: list[int]
) -> None:
    path = repository / "reentry_lstm/config.pbtxt"
    path.write_text(path.read_text().replace("specific { versions: 1 }", policy))
    assert served_versions(repository, "reentry_lstm") == served


def test_a_control_key_has_plain_characters_and_is_not_printed() -> None:
    assert "secret" not in repr(ServerConfig(control_key="secret"))
    with pytest.raises(ConfigError, match="control_key"):
        ServerConfig(control_key="a,b=c")
