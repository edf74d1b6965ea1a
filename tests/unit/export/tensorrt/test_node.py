"""An engine is built on a node in three steps, and is served only if it agrees with its graph.

The tests need no GPU: scripts stand in for trtexec and nvidia-smi. The generated build.sh is run unchanged.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli import app
from export.tensorrt.config import TensorRTConfig
from export.tensorrt.node import install, prepare
from reentry.errors import ExportError, RepositoryError
from reentry.schema import FEATURES, REENTRY_LSTM
from registry.config_pbtxt import read
from registry.formats import Format
from registry.models import MODELS
from tests import versions
from tests.unit.export.tensorrt.test_engines import STAND_IN

VERSION = 2


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Model repository with versions 1 and 2, of which version 2 is pinned."""
    repository = versions.bare_repository(tmp_path)
    versions.install(repository, tmp_path, 1, toy_seed=1)
    versions.install(repository, tmp_path, VERSION, toy_seed=0)
    versions.pin(repository, VERSION)
    return repository


@pytest.fixture
def on_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs build.sh of a work folder on a machine with GPU and trtexec. Keyword arguments configure the stand-in."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nvidia-smi").write_text("#!/bin/sh\necho 'Stand-in GPU, 9.0, 580.65.06'\n")
    (programs / "trtexec").write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("REENTRY_TRTEXEC", str(programs / "trtexec"))

    def run(work: Path, **settings: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("REENTRY_STAND_IN", json.dumps(settings))
        return subprocess.run(["sh", work / "build.sh"], capture_output=True, text=True, check=False)

    return run


def work_in(tmp_path: Path, name: str = "work") -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_an_engine_that_agrees_with_its_graph_is_served_and_cached(
    repository: Path, tmp_path: Path, on_the_node: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    work = work_in(tmp_path)
    before = (repository / "reentry_lstm/config.pbtxt").read_text()
    assert prepare(repository, work, TensorRTConfig()) == VERSION
    done = on_the_node(work)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    report = install(work, keep=repository)

    assert (report["version"], report["gpu"]) == (VERSION, "Stand-in GPU, 9.0, 580.65.06")
    assert (report["changed_phases"], report["largest_onset_move"]) == (0, 0)
    assert 0 <= report["max_difference"] < 1e-5  # six digits of text
    assert report["steps"] == 1 + 960 + 8 * 960 + 64 * 256
    served = read((work / "models/reentry_lstm/config.pbtxt").read_text())
    assert (served.backend, served.default_model_filename) == ("tensorrt", "model.plan")
    assert list(served.version_policy.specific.versions) == [VERSION]
    graph = (repository / f"reentry_lstm/{VERSION}/model.onnx").read_bytes()
    assert (work / f"models/reentry_lstm/{VERSION}/model.plan").read_bytes() == graph
    (kept,) = (repository / f"reentry_lstm/{VERSION}/engines").iterdir()
    assert (kept / "model.plan").read_bytes() == graph
    assert json.loads((kept / "engine.json").read_text()) == report
    assert (repository / "reentry_lstm/config.pbtxt").read_text() == before  # the repository still serves ONNX


def test_the_model_option_builds_an_engine_for_a_model_of_another_name(
    repository: Path,
    tmp_path: Path,
    on_the_node: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = replace(MODELS["reentry_lstm"], tensors=replace(REENTRY_LSTM, name="second_lstm"))
    monkeypatch.setitem(MODELS, second.name, second)
    (repository / "reentry_lstm").rename(repository / second.name)
    work = work_in(tmp_path)
    run_command("prepare", "--repository", str(repository), "--work", str(work), "--model", second.name)
    assert on_the_node(work).returncode == 0
    run_command("install", "--work", str(work), "--keep", str(repository), "--model", second.name)
    assert read((work / "models/second_lstm/config.pbtxt").read_text()).backend == "tensorrt"
    assert len(list((repository / f"second_lstm/{VERSION}/engines").iterdir())) == 1


def test_a_model_with_other_tensors_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, versions.IMAGERY.name, versions.IMAGERY)
    versions.add_imagery(repository)
    versions.install_imagery(repository, tmp_path, 1)
    work = work_in(tmp_path)
    with pytest.raises(RepositoryError, match="no engine can be built for this model") as error:
        prepare(repository, work, TensorRTConfig(), versions.IMAGERY.name)
    assert (error.value.got, error.value.fix) == (versions.IMAGERY.name, "correct --model")
    assert not list(work.iterdir())


def test_the_next_pod_takes_the_engine_from_the_cache_and_checks_it_again(
    repository: Path, tmp_path: Path, on_the_node: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for name, builds in (("first", 1), ("second", 0)):
        work, log = work_in(tmp_path, name), tmp_path / f"{name}.log"
        prepare(repository, work, TensorRTConfig())
        assert on_the_node(work, log=str(log)).returncode == 0
        install(work, keep=repository)
        lines = log.read_text().splitlines()
        assert sum(line.startswith("--onnx") for line in lines) == builds
        assert sum(line.startswith("--loadEngine") for line in lines) == 4


def test_another_tensorrt_version_or_precision_needs_another_engine(
    repository: Path, tmp_path: Path, on_the_node: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for name, config, settings in (
        ("first", TensorRTConfig(), {}),
        ("version", TensorRTConfig(), {"version": "10.17.0"}),
        ("precision", TensorRTConfig(fp16=True), {}),
    ):
        work = work_in(tmp_path, name)
        prepare(repository, work, config)
        assert on_the_node(work, **settings).returncode == 0
        install(work, keep=repository)
    assert len(list((repository / f"reentry_lstm/{VERSION}/engines").iterdir())) == 3


def test_the_optimisation_profile_covers_the_largest_batch_of_the_server(
    repository: Path, tmp_path: Path, on_the_node: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    config = repository / "reentry_lstm/config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 64", "max_batch_size: 128"))
    work, log = work_in(tmp_path), tmp_path / "runs.log"
    prepare(repository, work, TensorRTConfig())
    assert on_the_node(work, log=str(log)).returncode == 0
    (build,) = [line for line in log.read_text().splitlines() if line.startswith("--onnx")]
    width = len(FEATURES)
    shapes = (
        f"--minShapes=features:1x1x{width} --optShapes=features:16x1024x{width} --maxShapes=features:128x4096x{width}"
    )
    assert shapes in build
    assert build.endswith("--skipInference --noTF32")


def test_a_tensorrt_without_the_option_no_tf32_builds_without_it(
    repository: Path, tmp_path: Path, on_the_node: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    work = work_in(tmp_path)
    prepare(repository, work, TensorRTConfig())
    done = on_the_node(work, version="11.4.1", without=["noTF32", "fp16", "int8"])
    assert (done.returncode, done.stderr) == (0, "")


def spoil_shape(outputs: list[dict[str, object]]) -> None:
    outputs[0]["dimensions"] = "960x1"


def spoil_version(outputs: list[dict[str, object]]) -> None:
    outputs[1]["values"] = [9]


def spoil_value(outputs: list[dict[str, object]]) -> None:
    outputs[0]["values"][5] = float("nan")


def move_onset(outputs: list[dict[str, object]]) -> None:
    outputs[0]["values"] = [0.0] * 960


def leave_out(outputs: list[dict[str, object]]) -> None:
    del outputs[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_shape, r"shapes; expected \(1, 960\); got \(960, 1\)"),
        (spoil_version, r"version; expected 2; got \[\[9\]\]"),
        (spoil_value, "finite values"),
        (move_onset, r"onsets; expected .* at most 1; got \d+ steps"),
        (leave_out, r"shapes; expected \(1, 960\); got nothing"),
    ],
)
def test_an_engine_that_disagrees_with_its_graph_is_not_served(
    repository: Path,
    tmp_path: Path,
    on_the_node: Callable[..., subprocess.CompletedProcess[str]],
    spoil: Callable[[list[dict[str, object]]], None],
    message: str,
) -> None:
    work = work_in(tmp_path)
    prepare(repository, work, TensorRTConfig())
    on_the_node(work)
    np.save(work / "cases/1/expected.npy", np.repeat([[0.0, 1.0]], 480, axis=1).astype(np.float32))  # has an onset
    file = work / "cases/1/outputs.json"
    outputs = json.loads(file.read_text())
    outputs[0]["values"] = [0.0] * 480 + [1.0] * 480
    spoil(outputs)
    file.write_text(json.dumps(outputs).replace("NaN", "nan"))
    before = (work / "models/reentry_lstm/config.pbtxt").read_text()
    with pytest.raises(ExportError, match=f"engine of version 2, case 1: check failed: {message}"):
        install(work, keep=repository)
    assert (work / "models/reentry_lstm/config.pbtxt").read_text() == before
    assert not (repository / f"reentry_lstm/{VERSION}/engines").exists()


def test_too_many_steps_in_another_phase_are_rejected_even_if_no_onset_moves(
    repository: Path, tmp_path: Path, on_the_node: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    work = work_in(tmp_path)
    prepare(repository, work, TensorRTConfig())
    on_the_node(work)
    expected = np.ones((1, 960), np.float32)
    np.save(work / "cases/1/expected.npy", expected)
    outputs = json.loads((work / "cases/1/outputs.json").read_text())
    outputs[0]["values"] = [1.0] * 930 + [0.0] * 30  # 30 of 25,025 steps
    (work / "cases/1/outputs.json").write_text(json.dumps(outputs))
    with pytest.raises(ExportError, match="check failed: phases") as error:
        install(work)
    assert (error.value.expected, error.value.got) == ("at most 0.1% of steps in another phase", "30 of 25025")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"fail": "[TRT] out of memory"}, "[E] [TRT] out of memory"), ({"without": ["skipInference"]}, "Unknown option")],
)
def test_the_script_prints_the_error_of_trtexec_if_the_build_fails(
    repository: Path,
    tmp_path: Path,
    on_the_node: Callable[..., subprocess.CompletedProcess[str]],
    settings: dict[str, object],
    message: str,
) -> None:
    work = work_in(tmp_path)
    prepare(repository, work, TensorRTConfig())
    done = on_the_node(work, **settings)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.endswith("error: trtexec failed\n")


def test_the_script_reports_a_missing_gpu_or_trtexec_on_one_line(
    repository: Path,
    tmp_path: Path,
    on_the_node: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = work_in(tmp_path)
    prepare(repository, work, TensorRTConfig())
    (tmp_path / "programs/nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert on_the_node(work).stderr == "error: nvidia-smi shows no GPU\n"
    monkeypatch.setenv("REENTRY_TRTEXEC", "/nowhere/trtexec")
    done = on_the_node(work)
    assert (done.returncode, done.stderr) == (
        1,
        "error: no trtexec at /nowhere/trtexec; fix: set REENTRY_TRTEXEC to its path\n",
    )


@pytest.mark.parametrize(
    ("settings", "got"),
    [({"form": Format.ONNX_INT8}, "onnx-int8, passed"), ({"passed": False}, "onnx, not passed")],
)
def test_only_a_verified_version_in_single_precision_is_compiled(
    tmp_path: Path, settings: dict[str, object], got: str
) -> None:
    repository = versions.bare_repository(tmp_path)
    versions.install(repository, tmp_path, 1, toy_seed=0, **settings)
    with pytest.raises(RepositoryError, match="cannot be compiled") as error:
        prepare(repository, work_in(tmp_path), TensorRTConfig())
    assert (error.value.expected, error.value.got) == ("format onnx that passed its gate", got)


def test_a_repository_without_a_pinned_version_is_rejected(repository: Path, tmp_path: Path) -> None:
    config = repository / "reentry_lstm/config.pbtxt"
    config.write_text(config.read_text().replace(f"specific {{ versions: {VERSION} }}", "all { }"))
    with pytest.raises(RepositoryError, match="no single version is pinned") as error:
        prepare(repository, work_in(tmp_path), TensorRTConfig())
    assert str(error.value.fix).startswith("reentry repository promote")


def test_shellcheck_finds_nothing_in_the_script(repository: Path, tmp_path: Path) -> None:
    for config in (TensorRTConfig(), TensorRTConfig(fp16=True)):
        work = work_in(tmp_path, "fp16" if config.fp16 else "fp32")
        prepare(repository, work, config)
        shellcheck = Path(sys.executable).with_name("shellcheck")
        found = subprocess.run([shellcheck, work / "build.sh"], capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout) == (0, "")


def test_the_commands_run_all_three_steps(
    repository: Path, tmp_path: Path, on_the_node: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    work, runner = work_in(tmp_path), CliRunner()
    first = runner.invoke(app, ["engine", "prepare", "--repository", str(repository), "--work", str(work)])
    assert (first.exit_code, first.stdout) == (
        0,
        f"version 2: now run {work}/build.sh on a machine with trtexec and the GPU\n",
    )
    assert on_the_node(work).returncode == 0
    last = runner.invoke(app, ["engine", "install", "--work", str(work)])
    assert last.exit_code == 0
    assert "version 2 is served as a TensorRT engine for Stand-in GPU, 9.0, 580.65.06: 0 of" in last.stdout
    for command in ("prepare", "install"):
        assert "Example:" in runner.invoke(app, ["engine", command, "--help"]).stdout


def test_a_step_out_of_order_or_with_an_unusable_folder_is_an_error(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No such file or directory") as error:
        run_command("install", "--work", str(tmp_path / "none"))
    assert str(error.value.where).endswith("config.pbtxt")
    assert "run the steps in order" in str(error.value.fix)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ExportError, match="cannot use the file") as error:
        run_command("prepare", "--repository", str(repository), "--work", str(file))
    assert str(error.value.where).startswith(str(file))
    assert "--work folder" in str(error.value.fix)
    with pytest.raises(ExportError, match="inside the repository") as error:
        run_command("prepare", "--repository", str(repository), "--work", str(repository / "work"))
    assert "--work outside" in str(error.value.fix)


def run_command(*arguments: str) -> None:
    """Run `reentry engine`, with its error raised as the entry point sees it."""
    CliRunner().invoke(app, ["engine", *arguments], catch_exceptions=False)
