"""`reentry train` as it is used: killed and resumed, in two processes, refused in one line.

The files are small and read into memory; tests/unit/training/data/test_stored.py holds large files' way against that.
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

from tests.processes import command_lines
from tests.training_data import write_flights
from training.checkpoint import load_checkpoint

DEADLINE = 240.0


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("reentry")), "train", *map(str, arguments), "--no-track"]


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=DEADLINE, check=False)


def begun(out: Path, *arguments: object, temporary: Path) -> subprocess.Popen[str]:
    """A training that has kept its first epochs."""
    running = subprocess.Popen(
        command(*arguments, "--out", out),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    end = time.monotonic() + DEADLINE
    while not (out / "unfinished.ckpt").is_file():
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
    return running


def processes_of(session: int) -> list[str]:
    """Command lines of the processes of a session that have not ended."""
    lines = []
    for process, line in command_lines().items():
        with suppress(OSError):  # ended as it was read
            state, _, _, of = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state not in "ZX":
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
    path.write_text('[model]\nhidden = 4\n[train]\nepochs = 60\npatience = 60\naccelerator = "cpu"\n', encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def uninterrupted(flights: Path, settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    answer = train(flights, "--config", settings, "--out", out)
    assert answer.returncode == 0, answer.stderr
    return out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_that_was_killed_goes_on_to_the_same_weights(
    number: signal.Signals, flights: Path, settings: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    running = begun(out, flights, "--config", settings, temporary=temporary)
    running.send_signal(number)
    said = running.communicate(timeout=DEADLINE)[1]
    if number == signal.SIGKILL:
        assert running.returncode == -signal.SIGKILL
    else:
        assert running.returncode == 130, said
        assert "unfinished.ckpt keeps the run, the same command with --resume goes on" in said
        assert "Traceback" not in said
        assert [path.name for path in out.iterdir()] == ["unfinished.ckpt"]
        assert list(temporary.glob("reentry-*")) == []  # PyTorch leaves an empty one of its own
    assert not (out / "model.ckpt").exists()

    answer = train(flights, "--config", settings, "--out", out, "--resume", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["epochs"] == 60
    assert not (out / "unfinished.ckpt").exists()
    expected = weights(uninterrupted)
    for name, weight in weights(out).items():
        assert torch.equal(weight, expected[name]), name


def test_two_processes_from_the_command_line_and_none_is_left(flights: Path, settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        command(flights, "--config", settings, "--epochs", 2, "--devices", 2, "--out", out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        end = time.monotonic() + DEADLINE
        shared = False
        while running.poll() is None and time.monotonic() < end:
            shared = shared or any("spawn_main" in line for line in processes_of(running.pid))
            time.sleep(0.02)
        running.kill()  # no more than a late one
        said = running.communicate(timeout=DEADLINE)[1]
    end = time.monotonic() + 30.0
    while (left := processes_of(running.pid)) and time.monotonic() < end:  # the system takes the last one away
        time.sleep(0.02)
    assert running.returncode == 0, said
    assert "Traceback" not in said
    assert shared, "no second process was seen"
    assert left == []
    assert load_checkpoint(out / "model.ckpt").train_config.devices == 2


def test_a_place_that_cannot_be_written_to_is_told_in_one_line_before_anything_is_done(
    flights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    answer = train(flights, "--out", tmp_path / "file" / "out")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith(f"error: {tmp_path}/file/out: cannot be written")
    assert answer.stderr.count("\n") == 1


def test_nothing_to_resume_is_one_line(flights: Path, tmp_path: Path) -> None:
    answer = train(flights, "--out", tmp_path / "out", "--resume")
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].endswith("no interrupted run; fix: train without --resume")
