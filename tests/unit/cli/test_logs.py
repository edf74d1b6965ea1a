"""What the options `--verbose` and `--quiet` of `reentry` show on standard error."""

from __future__ import annotations

import logging

import pytest
import typer
from typer.testing import CliRunner

import cli
from cli.logs import PACKAGES

RESULT, WARNING, INFO, DEBUG = "result\n", "warning: full\n", "resuming\n", "debug: client.retry: next try\n"


@pytest.fixture
def chatty(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a command that prints a result and logs one line of each level."""

    def command() -> None:
        log = logging.getLogger("client.retry")
        log.debug("next try")
        log.info("resuming")
        log.warning("full")
        library = logging.getLogger("some.library")
        library.setLevel(logging.DEBUG)
        library.info("not of this project")
        typer.echo("result")

    monkeypatch.setattr(cli.app, "registered_commands", [*cli.app.registered_commands])
    cli.app.command("chatty")(command)
    return "chatty"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], INFO + WARNING),
        (["--verbose"], DEBUG + INFO + WARNING),
        (["-v"], DEBUG + INFO + WARNING),
        (["--quiet"], WARNING),
        (["-q"], WARNING),
    ],
)
def test_each_option_shows_its_levels_and_the_result(chatty: str, options: list[str], shown: str) -> None:
    ended = CliRunner().invoke(cli.app, [*options, chatty])
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, RESULT, shown)


def test_verbose_and_quiet_together_are_wrong_usage(chatty: str) -> None:
    ended = CliRunner().invoke(cli.app, ["-v", "-q", chatty])
    assert ended.exit_code == 2
    assert "not both" in ended.stderr


def test_a_command_leaves_logging_as_it_was(chatty: str) -> None:
    handlers = list(logging.getLogger().handlers)
    CliRunner().invoke(cli.app, ["-v", chatty])
    assert logging.getLogger().handlers == handlers
    assert {logging.getLogger(package).level for package in PACKAGES} == {logging.NOTSET}


def test_quiet_hides_progress_but_not_the_result(tmp_path) -> None:
    out = tmp_path / "t.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reentry.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
        loud = CliRunner().invoke(cli.app, ["simulate", str(out), "--tracks", "2"])
        quiet = CliRunner().invoke(cli.app, ["--quiet", "simulate", str(out), "--tracks", "2"])
    assert "simulating: " in loud.stderr
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert quiet.stdout == loud.stdout != ""
