"""A compared server, started, checked and measured as `python -m perf.peers` does, with a small graph."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.sessions import TrackSession
from perf.peers.campaign import free_port, measure_turn
from perf.peers.contestants import Contestant, Launch, contestants
from perf.peers.protocols import RawBytes
from perf.peers.results import PeersConfig
from perf.peers.server_process import ServerProcess
from perf.scoring import draw_flights
from reentry.errors import ServerError
from reentry.schema import REENTRY_TRACK

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

TYPES = {
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "UINT8": TensorProto.UINT8,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
}
CONFIG = PeersConfig(rounds=1, seconds=1, warm_up=1, steps=20, workers=1)
TRACKS = [track.measurements for track in draw_flights(3, CONFIG.steps)]


def write_track_graph(path: Path, *, version: int) -> None:
    """Write a graph with the tensors of `REENTRY_TRACK`, whose onset step is the length of the track."""
    nodes = [
        helper.make_node("Gather", ["measurements", "altitude"], ["height"], axis=2),
        helper.make_node("Div", ["height", "scale"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["reentry_probability"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["reentry_probability"], ["reentry_phase"], to=TensorProto.UINT8),
        helper.make_node("Identity", ["track_length"], ["onset_step"]),
        helper.make_node("Cast", ["track_length"], ["onset_timestamp"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["track_length"], ["long"], to=TensorProto.INT64),
        helper.make_node("Min", ["long", "version"], ["model_version"]),
    ]
    weights = {
        "altitude": np.array(3, np.int64),
        "scale": np.array(1e5),
        "version": np.array([[version]], np.int64),
    }

    def declared(tensors):
        sizes = [["B", *("T" if size == -1 else size for size in tensor.dims)] for tensor in tensors]
        return [
            helper.make_tensor_value_info(tensor.name, TYPES[tensor.dtype], size)
            for tensor, size in zip(tensors, sizes, strict=True)
        ]

    initial = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    tensors = declared(REENTRY_TRACK.inputs), declared(REENTRY_TRACK.outputs)
    model = helper.make_model(
        helper.make_graph(nodes, "track", *tensors, initial),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "3/track.onnx"
    write_track_graph(path, version=3)
    return path


def launched(graph: Path) -> Launch:
    folder = graph.parent
    return Launch(
        bin=Path(sys.executable).parent,
        port=free_port(),
        workers=1,
        repository=folder,
        model=graph,
        checkpoint=folder / "none",
        folder=folder,
    )


def answers(graph: Path) -> list[dict[str, np.ndarray]]:
    session = TrackSession(graph)
    return [session.run(track[None], np.array([len(track)])) for track in TRACKS]


def contestant(name: str) -> Contestant:
    return next(each for each in contestants() if each.name == name)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_server_with_the_answers_of_the_graph_is_measured(graph: Path) -> None:
    made = contestant("FastAPI + ONNX Runtime, JSON")
    turn = measure_turn(made, launched(graph), CONFIG, TRACKS, answers(graph))
    assert turn.tracks_per_second > 10
    assert 0 < turn.p50 <= turn.p99
    assert 0 < turn.cpu < 1e3
    assert 10 < turn.memory < 2e3
    assert 0 < turn.start < 60
    assert 0 <= turn.others <= 100


def test_a_server_that_ends_is_an_error_with_its_last_messages(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"]
    with ServerProcess(command, {}, folder=tmp_path) as server, pytest.raises(ServerError) as caught:
        server.first_answer(free_port(), RawBytes(), TRACKS[0])
    assert caught.value.problem == "the server ended with status 3"
    assert caught.value.got == "no such model"
