"""perf_analyzer of this environment, and what the doctor says if a part of it is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from perf.analyzer import installation
from perf.analyzer.installation import Analyzer, check_analyzer, find_analyzer
from reentry.errors import ReentryError
from tests.versions import bare_repository


def test_a_missing_program_is_a_warning_that_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installation.sysconfig, "get_path", lambda _: str(tmp_path))
    check = check_analyzer()
    assert (check.name, check.status) == ("perf_analyzer", "warn")
    assert "not installed" in check.found
    assert "reentry[perf]" in check.fix


def test_each_missing_library_is_named_with_its_own_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Analyzer, "missing_libraries", lambda _: ["libb64.so.0d", "libcudart.so.12", "libx.so.1"])
    check = check_analyzer()
    assert "libb64.so.0d and libcudart.so.12 and libx.so.1" in check.found
    for fix in ("apt-get install libb64-0d", "nvidia-cuda-runtime-cu12", "libx.so.1"):
        assert fix in check.fix
    with pytest.raises(ReentryError, match=r"perf_analyzer lacks libb64\.so\.0d"):
        find_analyzer()


def test_the_cuda_library_is_missing_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name}")

    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(installation.importlib.util, "find_spec", missing)
    assert "libcudart.so.12" in check_analyzer().found


def test_the_doctor_checks_perf_analyzer_last(tmp_path: Path) -> None:
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    shown = CliRunner().invoke(cli.app, ["doctor", "--json", "--repository", str(bare_repository(tmp_path)), *ports])
    assert json.loads(shown.stdout)[-1]["name"] == "perf_analyzer"
