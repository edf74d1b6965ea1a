"""A repository with the models of live tracks and a small network that finds onsets."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx

from export.scan_graph import scan_graph
from export.stream_graph import stream_graph
from reentry.schema import REENTRY_SCAN, REENTRY_STREAM, SCAN_STEP
from tests.conftest import REPOSITORY
from tests.unit.export.test_stream_graph import default


def write_live_models(folder: Path) -> Path:
    """Write the repository into a folder, and return its path."""
    repository = folder / "model_repository"
    shutil.copytree(REPOSITORY / REENTRY_SCAN.name, repository / REENTRY_SCAN.name)
    for model, graph in ((REENTRY_STREAM, stream_graph), (SCAN_STEP, scan_graph)):
        (repository / model.name / "1").mkdir(parents=True)
        shutil.copy(REPOSITORY / model.name / "config.pbtxt", repository / model.name)
        onnx.save(graph(default(), 1), repository / model.name / "1" / "model.onnx")
    return repository
