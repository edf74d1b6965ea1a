"""`reentry train` from the command line: killed and resumed, in two processes, and with a one-line error.

The files are small and read into memory; tests/unit/training/data/test_stored.py compares that with large files.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

import cli
from tests.processes import command_lines
from tests.training_data import write_flights
from training.checkpoint import load_checkpoint

DEADLINE = 240.0


def command(*arguments: object) -> list[str]:
    """Return the command line of a training in a process of its own, which takes seconds to start."""
    return [str(Path(sys.executable).with_name("reentry")), *options(*arguments)]


def options(*arguments: object) -> list[str]:
    return ["train", *map(str, arguments), "--no-track"]


def train(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli.app, options(*arguments))


def start(out: Path, *arguments: object, temporary: Path) -> subprocess.Popen[str]:
    """Start a training and wait until it has written the state of its first epochs."""
    process = subprocess.Popen(
        command(*arguments, "--out", out),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    end = time.monotonic() + DEADLINE
    while not (out / "unfinished.ckpt").is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def processes_of(session: int) -> list[str]:
    """Command lines of the processes of a session that are still alive."""
    lines = []
    for process, line in command_lines().items():
        with suppress(OSError):  # the process has ended in the meantime
            state, _, _, its_session = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                lines.append(line)
    return lines


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out / "model.ckpt").model.state_dict()


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flights(tmp_path_factory.mktemp("data") / "flights.parquet", tracks=12)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "long.toml"
    path.write_text('[model]\nhidden = 4\n[train]\nepochs = 25\npatience = 25\naccelerator = "cpu"\n', encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def uninterrupted(flights: Path, settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    answer = train(flights, "--config", settings, "--out", out)
    assert answer.exit_code == 0, answer.output
    return out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_resumes_to_the_same_weights(
    number: signal.Signals, flights: Path, settings: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    process = start(out, flights, "--config", settings, temporary=temporary)
    process.send_signal(number)
    stderr = process.communicate(timeout=DEADLINE)[1]
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, stderr
        assert "--resume" in stderr
        assert str(out / "unfinished.ckpt") in stderr
        assert "Traceback" not in stderr
        assert [path.name for path in out.iterdir()] == ["unfinished.ckpt"]
        assert list(temporary.glob("reentry-*")) == []  # PyTorch leaves an empty folder of its own
    assert not (out / "model.ckpt").exists()

    answer = train(flights, "--config", settings, "--out", out, "--resume", "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["epochs"] == 25
    assert not (out / "unfinished.ckpt").exists()
    expected = weights(uninterrupted)
    for name, weight in weights(out).items():
        assert torch.equal(weight, expected[name]), name


def test_two_processes_train_from_the_command_line_and_both_end(flights: Path, settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        command(flights, "--config", settings, "--epochs", 2, "--devices", 2, "--out", out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        end = time.monotonic() + DEADLINE
        shared = False
        while process.poll() is None and time.monotonic() < end:
            shared = shared or any("spawn_main" in line for line in processes_of(process.pid))
            time.sleep(0.25)  # a look at all processes takes milliseconds
        process.kill()  # only if it is late
        stderr = process.communicate(timeout=DEADLINE)[1]
    end = time.monotonic() + 120.0
    # The system may take a moment to remove the last process.
    while (left := processes_of(process.pid)) and time.monotonic() < end:
        time.sleep(0.02)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert shared, "no second process was seen"
    assert left == []
    assert load_checkpoint(out / "model.ckpt").train_config.devices == 2


def test_an_unwritable_folder_is_reported_in_one_line(
    flights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(sys, "argv", ["reentry", *options(flights, "--out", tmp_path / "file" / "out")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, errors = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert errors.startswith(f"error: {tmp_path}/file/out: cannot be written")
    assert errors.count("\n") == 1


def test_a_missing_run_to_resume_is_reported_in_one_line(
    flights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reentry", *options(flights, "--out", tmp_path / "out", "--resume")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("no interrupted run; fix: train without --resume")
