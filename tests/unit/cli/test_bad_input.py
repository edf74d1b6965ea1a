"""Any error in a command line or a file ends the command soon, with one line, and changes nothing."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import typer

import cli
from reentry.serving.doctor import _repository
from tests.bad_input import DEADLINE, Case, Ending, listing, make_world, run_process, written_cases
from tests.versions import bare_repository


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of broken files, in which all cases run; nothing in it may change."""
    folder = tmp_path_factory.mktemp("matrix") / "world"
    folder.mkdir()
    make_world(folder)
    before = listing(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TMPDIR", str(folder / "temporary"))
        patch.setenv("TERMINAL_WIDTH", "1000")
        patch.setattr(tempfile, "tempdir", None)
        yield folder
    assert listing(folder) == before


COMMAND = typer.main.get_command(cli.app)
"""The command line as Typer builds it. `cli.main` builds it at each call, which takes longer than most cases."""


def run(arguments: tuple[str, ...]) -> Ending:
    """Run a command in this process, and fail if it takes longer than `DEADLINE`."""

    def hang(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still running after {DEADLINE:g} s")

    stdout, stderr = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "argv", ["reentry", *arguments])
            patch.setattr(cli, "app", COMMAND)
            cli.main()
        code: int | str | None = 0
    except SystemExit as end:
        code = end.code
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    return Ending(int(code or 0), stdout.getvalue(), stderr.getvalue())


CASES = list(dict.fromkeys(written_cases()))


def test_the_number_of_cases_has_not_shrunk() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_command_line_ends_with_one_line_and_changes_nothing(case: Case, world: Path) -> None:
    ending = run(case.arguments)
    assert not ending.faults(case), ending


@pytest.mark.parametrize(
    "case",
    [
        Case(("evaluate", "model.ckpt", "missing.csv"), (1,), "no such file"),
        Case(("simulate", "x.csv", "--config", "deep_list.toml"), (1,), "nested too deeply"),
        Case(("predict", "good.csv", "--patience", "nan"), (1,), "patience"),
        Case(("doctor", "--nothing"), (2,), "No such option"),
    ],
    ids=str,
)
def test_the_installed_command_ends_like_the_call_in_process(case: Case, world: Path) -> None:
    ending = run_process(case, world)
    assert isinstance(ending, Ending)
    assert not ending.faults(case), ending


HEAVY = {"torch", "sklearn", "matplotlib", "mlflow", "lightning", "pandas", "onnxruntime"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "--help"),
        ("evaluate", "missing.ckpt", "good.csv"),
        ("evaluate", "model.ckpt", "missing.csv"),
        ("evaluate", "model.ckpt", "good.csv", "--seeds", "0"),
        ("evaluate", "model.ckpt", "good.csv", "--out", "file"),
        ("train", "missing.csv"),
        ("train", "good.csv", "--epochs", "0"),
        ("export", "missing.ckpt"),
        ("study", "--out", "file"),
    ],
    ids=" ".join,
)
def test_help_and_errors_import_nothing_heavy(arguments: tuple[str, ...], world: Path) -> None:
    script = (
        "import sys; import cli; sys.argv = ['reentry', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        f"finally: print('heavy:', *sorted({HEAVY!r} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == (0 if "--help" in arguments else 1), ended.stderr
    assert ended.stdout.splitlines()[-1] == "heavy:"


def test_doctor_fails_without_a_repository_and_warns_of_a_repository_without_a_version(
    world: Path, tmp_path: Path
) -> None:
    assert _repository(Path("missing")).status == "fail"
    assert _repository(Path("config_cut/repository")).status == "fail"
    assert _repository(bare_repository(tmp_path)).status == "warn"


def test_an_interrupted_command_prints_a_line_and_ends_with_130(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reentry.simulation.simulate_file", interrupted)
    ending = run(("simulate", "x.csv"))
    assert (ending.code, ending.stderr) == (130, "interrupted: no file was written\n")
