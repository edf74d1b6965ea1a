"""Whatever is wrong with a command line or a file ends with one line, soon, and leaves everything as it was."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from reentry import cli
from tests.bad_input import DEADLINE, Case, Ending, listing, make_world, run_process, written_cases


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix") / "world"
    folder.mkdir()
    make_world(folder)
    return folder


@pytest.fixture
def unchanged(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The world as the current folder; nothing in it may change."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("TMPDIR", str(world / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = listing(world)
    yield world
    assert listing(world) == before


def run(arguments: tuple[str, ...]) -> Ending:
    """Run a command in this process; one that hangs is interrupted by an error."""

    def hang(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still running after {DEADLINE:g} s")

    stdout, stderr = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as end:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["reentry", *arguments])
                patch.setenv("TERMINAL_WIDTH", "1000")
                cli.main()
                sys.exit(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    return Ending(int(end.value.code or 0), stdout.getvalue(), stderr.getvalue())


CASES = list(dict.fromkeys(written_cases()))


def test_there_are_cases_of_every_command() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_command_line_ends_with_one_line_and_changes_nothing(case: Case, unchanged: Path) -> None:
    ending = run(case.arguments)
    assert not ending.faults(case), ending
