"""The version of the network that a repository serves, and which of its graphs this process can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perf.analyzer.config import PerfConfig
from reentry import schema
from reentry.errors import ReentryError
from reentry.schema import REENTRY_LSTM
from reentry.serving.repository import models_of, served_versions
from registry.config_pbtxt import on_gpu
from registry.formats import FORMATS, Format
from registry.open import open_store
from registry.store import CONFIG_FILE, manifest_of

TRACK_GRAPH: Final = schema.TRACK_GRAPH.file
STEP_GRAPH: Final = FORMATS[Format.ONNX].step_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """The version of the network that a repository serves."""

    version: int | None = None
    folder: Path = Path()
    state: tuple[Any, Any] = (0, 0)
    """Number of layers and of hidden units of the network."""
    missing: Mapping[str, str]
    """Reason why a graph cannot be measured, by the name of its file."""


def find_production(config: PerfConfig, repository: Path | None) -> Production:
    """Find the version that a repository serves, or the reason why its graphs cannot be measured.

    Args:
        config: settings.
        repository: the model repository; None if it is not on this machine.

    Raises:
        ServerError: the folder is not a model repository, or a configuration in it is invalid.
    """
    if not config.ceiling:
        return _nothing("`ceiling = false` is set")
    if repository is None:
        return _nothing("the server may run on another machine; give its model repository with --repository")
    if REENTRY_LSTM.name not in models_of(repository):
        return _nothing(f"the repository has no model {REENTRY_LSTM.name}")
    version = served_versions(repository, REENTRY_LSTM.name)[-1]
    folder = repository / REENTRY_LSTM.name / str(version)
    try:
        store = open_store(repository)
        manifest = manifest_of(store, version)
    except ReentryError as error:
        return _nothing(str(error), version)
    if FORMATS[manifest.format].suffix != "onnx":
        return _nothing(
            f"version {version} has the format {manifest.format}, whose graphs ONNX Runtime does not run", version
        )
    if manifest.format is Format.ONNX_FP16 or on_gpu(store.read(CONFIG_FILE).text or ""):
        return _nothing(f"version {version} runs on a GPU, and this process would run it on the CPU", version)
    missing = {
        graph: f"version {version} has no such file; an earlier release exported it, so export its checkpoint again"
        for graph in (TRACK_GRAPH, STEP_GRAPH)
        if not (folder / graph).exists()
    }
    if config.is_live:
        missing[TRACK_GRAPH] = "a request has one measurement of a live track; compare with step.onnx"
    state = manifest.model.get("layers"), manifest.model.get("hidden")
    return Production(version=version, folder=folder, state=state, missing=missing)


def _nothing(reason: str, version: int | None = None) -> Production:
    return Production(version=version, missing=dict.fromkeys((TRACK_GRAPH, STEP_GRAPH), reason))
