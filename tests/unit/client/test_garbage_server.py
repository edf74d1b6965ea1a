"""Whatever answers at the address of a server, `predict` and `repository --url` print one error and write nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import cli
from client import connection
from reentry.serving import http as api
from registry.open import open_store
from registry.promotion import promote
from tests.garbage_server import AWAY, FINAL, LARGER_THAN_ANY_ANSWER, REFUSED, Answer, garbage_server
from tests.training_data import write_flights
from tests.versions import bare_repository, install

EVERY = {**FINAL, **AWAY, **REFUSED, **LARGER_THAN_ANY_ANSWER}


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    return write_flights(tmp_path / "tracks.csv", 2, labels=False)


def error_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the last line on standard error of a command that ends with exit code 1."""
    monkeypatch.setattr(sys, "argv", ["reentry", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    *notes, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()
    assert len(line) < 1_500
    assert all("is unavailable" in note for note in notes)
    return line


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        *((answer, "no Triton server listens there over HTTP") for answer in FINAL.values()),
        *((answer, "no answer from the server") for answer in AWAY.values()),
        *((answer, "") for answer in REFUSED.values()),
        *((answer, "larger than") for answer in LARGER_THAN_ANY_ANSWER.values()),
    ],
    ids=[*FINAL, *AWAY, *REFUSED, *LARGER_THAN_ANY_ANSWER],
)
def test_garbage_over_http_ends_predict_with_one_line(
    tracks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: Answer, phrase: str
) -> None:
    monkeypatch.setattr(connection, "_LARGEST_ANSWER", 2**22)
    out = tracks.with_name("out")
    patience = "0" if answer in AWAY.values() else "60"  # the client does not wait for another answer
    with garbage_server(answer) as address:
        options = ("--url", f"http://{address}", "--patience", patience, "--out", str(out))
        line = error_of(monkeypatch, capsys, "predict", str(tracks), *options)
    assert address in line
    assert phrase in line
    assert not list(out.glob("[!.]*"))


@pytest.mark.parametrize("name", ["a connection that closes at once", "silence", "an HTML page", "random bytes"])
def test_garbage_over_grpc_ends_predict_with_one_line(
    tracks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with garbage_server(EVERY[name]) as address:
        options = ("--url", f"grpc://{address}", "--patience", "0", "--out", str(tracks.with_name("out")))
        line = error_of(monkeypatch, capsys, "predict", str(tracks), *options)
    assert "no answer from the server" in line
    assert "over HTTP" not in line


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("command", [("diff",), ("promote", "1")], ids=" ".join)
def test_garbage_at_the_url_ends_a_repository_command_with_one_line_and_changes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setitem(api._request.__kwdefaults__ or {}, "timeout", 0.5)
    monkeypatch.setattr(api, "_LARGEST_ANSWER", 2**22)
    repository = bare_repository(tmp_path)
    install(repository, tmp_path, 1)
    promote(open_store(repository), 1)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    with garbage_server(EVERY[name]) as address:
        url = f"http://{address}"
        line = error_of(monkeypatch, capsys, "repository", *command, "--repository", str(repository), "--url", url)
    assert line.startswith(f"error: {url}: ")
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before
