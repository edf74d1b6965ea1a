"""Answers and results of compared servers that were not measured, for tests of what is done with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from perf.peers.results import Comparison, PeerResult, PeersConfig, Turn
from reentry.schema import MODEL_VERSION, ONSET_STEP, ONSET_TIMESTAMP, PHASE, PROBABILITY


def make_answer(**changed: Any) -> dict[str, np.ndarray]:
    """The outputs for a track of three steps; `changed` are outputs by name."""
    answer = {
        PROBABILITY.name: np.array([[0.1, 0.2, 0.9]], np.float32),
        PHASE.name: np.array([[0, 0, 1]], np.uint8),
        ONSET_STEP.name: np.array([[2]], np.int32),
        ONSET_TIMESTAMP.name: np.array([[1731308401.0]]),
        MODEL_VERSION.name: np.array([[3]], np.int64),
    }
    return answer | changed


def make_turn(tracks_per_second: float = 1000.0, **changed: float) -> Turn:
    """Figures of one round; `changed` are fields of the turn."""
    fields = {"p50": 3.0, "p99": 6.0, "cpu": 0.5, "memory": 200.0, "start": 2.0, "others": 1.0}
    return Turn(tracks_per_second=tracks_per_second, **fields | changed)


def make_peer(name: str = "FastAPI", *turns: Turn, **changed: Any) -> PeerResult:
    """The result of one server; `changed` are fields of the result."""
    fields: dict[str, Any] = {
        "body": "binary",
        "settings": "2 workers",
        "versions": {"fastapi": "0.165.0", "numpy": "1.26.4"},
        "shown": ("fastapi",),
        "command": ("uvicorn",),
        "install_size": 100.0,
    }
    return PeerResult(name=name, turns=turns or (make_turn(),), **fields | changed)


def make_comparison(*results: PeerResult) -> Comparison:
    return Comparison(
        config=PeersConfig(rounds=3, workers=2),
        machine={"processor": "a processor", "cores": 2, "memory_gib": 24},
        versions={"reentry": "0.1.0", "python": "3.11.7", "wrk": "4.1.0"},
        git_revision="abcd",
        results=list(results),
    )
