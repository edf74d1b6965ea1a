"""Start of a process with secret arguments that other users cannot read."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from reentry.errors import ServerError
from reentry.serving import child_process
from reentry.serving.launch import launch

SECRET = "--key=0123456789"
PROGRAM = "import sys; print(sys.argv[1:], open('/proc/self/cmdline').read().split(chr(0))[3:], flush=True)"
COMMAND = [sys.executable, "-c", PROGRAM, "--first", "--key=hidden", "--last"]


def output_of(command: list[str], secrets: dict[int, str]) -> str:
    process = launch(command, secrets, environment={"A": "a"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.decode().strip()


def test_the_program_receives_a_secret_that_its_command_line_does_not_show() -> None:
    arguments, shown = ["--first", SECRET, "--last"], ["--first", "--key=hidden", "--last", ""]
    assert output_of(COMMAND, {4: SECRET}) == f"{arguments} {shown}"


def test_the_program_runs_with_a_warning_on_a_system_that_forbids_tracing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = tmp_path / "child_process.py"
    source = Path(child_process.__file__).read_text()
    # 9999 is not a valid request of ptrace.
    refused.write_text(source.replace("_PTRACE_TRACEME: Final = 0", "_PTRACE_TRACEME: Final = 9999"))
    assert refused.read_text() != source
    monkeypatch.setattr(child_process, "__file__", str(refused))
    with caplog.at_level(logging.WARNING):
        arguments = output_of(COMMAND, {4: SECRET})
    assert arguments.startswith(f"{['--first', SECRET, '--last']}")
    assert "forbids tracing" in caplog.text
    assert SECRET not in caplog.text


def test_a_program_that_does_not_start_is_an_error() -> None:
    with pytest.raises(ServerError, match="could not be started"):
        launch(["/nowhere", "--key=hidden"], {1: SECRET}, environment={}, stderr=subprocess.DEVNULL)
