"""The version that a repository serves, and the reasons why its graphs cannot be measured in process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perf.analyzer.config import PerfConfig
from perf.analyzer.production import find_production
from reentry.errors import ServerError
from registry.formats import Format
from tests.toy_model import write_toy_model
from tests.versions import IMAGERY, IMAGERY_CONFIG, bare_repository, install, pin

GRAPHS = {"model.onnx": b"whole", "step.onnx": b"step", "track.onnx": b"track"}


def test_the_version_is_the_one_that_the_repository_serves(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path)
    for number in (1, 2, 3):
        install(repository, tmp_path, number, files=GRAPHS)
    pin(repository, 2)
    found = find_production(PerfConfig(), repository)
    assert found.version == 2
    assert found.folder == repository / "reentry_lstm" / "2"
    assert found.state == (1, 8)
    assert found.missing == {}


def test_a_version_of_an_earlier_release_lacks_only_the_graph_of_tracks(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path)
    install(repository, tmp_path, 1)
    found = find_production(PerfConfig(), repository)
    assert found.missing.keys() == {"track.onnx"}
    assert "earlier release" in found.missing["track.onnx"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"form": Format.TENSORRT}, "format tensorrt"),
        ({"form": Format.TORCHSCRIPT}, "format torchscript"),
        ({"form": Format.ONNX_FP16, "files": GRAPHS}, "GPU"),
    ],
)
def test_a_format_that_this_process_cannot_run_is_the_reason(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    repository = bare_repository(tmp_path)
    install(repository, tmp_path, 1, **settings)
    found = find_production(PerfConfig(), repository)
    assert found.version == 1
    assert found.missing.keys() == {"track.onnx", "step.onnx"}
    assert all(reason in each for each in found.missing.values())


def test_a_version_that_is_served_on_a_gpu_is_not_measured_on_the_cpu(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path)
    install(repository, tmp_path, 1, files=GRAPHS)
    config = repository / "reentry_lstm/config.pbtxt"
    config.write_text(config.read_text().replace("KIND_CPU", "KIND_GPU"))
    assert "GPU" in find_production(PerfConfig(), repository).missing["track.onnx"]


def test_a_version_without_a_manifest_and_a_repository_without_the_network_are_reasons(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path)
    write_toy_model(repository / "reentry_lstm/1/model.onnx", version=1)
    assert "no manifest" in find_production(PerfConfig(), repository).missing["track.onnx"]
    other = tmp_path / "other" / IMAGERY.name
    (other / "1").mkdir(parents=True)
    (other / "config.pbtxt").write_text(IMAGERY_CONFIG)
    assert "no model reentry_lstm" in find_production(PerfConfig(), other.parent).missing["track.onnx"]


def test_without_a_repository_or_with_the_setting_off_nothing_is_measured() -> None:
    assert "--repository" in find_production(PerfConfig(), None).missing["track.onnx"]
    assert "ceiling = false" in find_production(PerfConfig(ceiling=False), Path("none")).missing["step.onnx"]


def test_a_folder_that_is_no_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no model repository"):
        find_production(PerfConfig(), tmp_path)
