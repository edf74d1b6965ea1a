"""`reentry serve` and `reentry doctor` without a running server."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from reentry.serving import ServerConfig
from reentry.serving import doctor as doctor_module
from reentry.serving.doctor import examine
from tests.versions import bare_repository

RUN = CliRunner()


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reentry", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_the_help_of_each_command_has_an_example(command: str) -> None:
    result = RUN.invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: reentry {command}" in result.output


def test_a_folder_without_models_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_main(monkeypatch, "serve", "--repository", str(tmp_path), "--log-dir", str(tmp_path / "logs")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}: no model repository")
    assert not (tmp_path / "logs").exists()


def test_a_log_folder_that_cannot_be_written_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    logs = tmp_path / "file" / "logs"
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    assert run_main(monkeypatch, "serve", "--repository", str(model_repository), "--log-dir", str(logs), *ports) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {logs / 'server.log'}: cannot be written: Not a directory")


def test_an_interrupted_command_ends_with_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_module, "examine", lambda _: signal.raise_signal(signal.SIGINT))
    assert run_main(monkeypatch, "doctor") == 130
    assert capsys.readouterr().err == ""


def test_an_address_open_to_the_network_gives_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    warnings = []
    for address in ("127.0.0.1", "0.0.0.0"):
        monkeypatch.setenv("REENTRY_ADDRESS", address)
        assert run_main(monkeypatch, "serve", "--repository", str(tmp_path), "--log-dir", "-") == 1
        warnings.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")])
    closed, (open_,) = warnings
    assert closed == []
    assert "listens on 0.0.0.0" in open_


def test_an_unknown_model_control_mode_is_wrong_usage() -> None:
    assert RUN.invoke(cli.app, ["serve", "--model-control-mode", "auto"]).exit_code == 2


def test_the_doctor_warns_without_a_model_and_does_not_start_the_server(tmp_path: Path) -> None:
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    result = RUN.invoke(cli.app, ["doctor", "--json", "--repository", str(bare_repository(tmp_path)), *ports])
    assert result.exit_code == 0
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert {name for name, check in checks.items() if check["status"] != "ok"} == {"model repository", "start"}
    assert checks["start"]["found"] == "not tried"
    assert checks["model repository"]["fix"]


def test_a_port_in_use_fails_the_doctor(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = ["--http-port", str(port), "--grpc-port", "0", "--metrics-port", "0"]
        result = RUN.invoke(cli.app, ["doctor", "--repository", str(tmp_path), *ports], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    (row,) = [line for line in result.stdout.splitlines() if "ports" in line]
    assert "fail" in row
    assert f"http port {port} cannot be used" in row


def test_more_threads_than_cores_give_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "cores", lambda: 4)
    config = ServerConfig(model_repository=tmp_path, http_port=0, grpc_port=0, metrics_port=0, instances=4, threads=2)
    (check,) = [check for check in examine(config) if check.name == "cores"]
    assert (check.status, check.found, check.fix) == (
        "warn",
        "4; instances x threads: 4 x 2",
        "--instances 4 --threads 1",
    )


@pytest.mark.parametrize(("megabytes", "status"), [(16, "fail"), (64, "warn"), (1024, "ok")])
def test_the_status_of_shared_memory_depends_on_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int, status: str
) -> None:
    volume = os.statvfs_result((4096, 4096, 0, 0, megabytes * 256, 0, 0, 0, 0, 255))
    monkeypatch.setattr(doctor_module.os, "statvfs", lambda _: volume)
    config = ServerConfig(model_repository=tmp_path, http_port=0, grpc_port=0, metrics_port=0)
    (check,) = [check for check in examine(config) if check.name == "shared memory"]
    assert (check.status, check.found) == (status, f"/dev/shm has {megabytes:,} MB free")
    assert bool(check.fix) == (status != "ok")
