"""The logic of the onnxruntime backend in this process.

`triton_python_backend_utils` exists only inside Triton's stub, so a small module replaces it here. The integration
tests run the same backend inside the real server.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
import typing
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, save

from reentry.schema import FEATURES
from tests.toy_model import write_toy_model

WIDTH = len(FEATURES)


class Tensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> np.ndarray:
        return self.values


class Request:
    def __init__(self, outputs: list[str], sequence: int | str = 0, flags: int = 0, **inputs: np.ndarray) -> None:
        self.inputs, self.outputs, self.sequence, self.set_flags = inputs, outputs, sequence, flags

    def requested_output_names(self) -> list[str]:
        return self.outputs

    def correlation_id(self) -> int | str:
        return self.sequence

    def flags(self) -> int:
        return self.set_flags


class TritonError(Exception):
    INTERNAL, INVALID_ARG = 13, 3

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Response:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.outputs = {tensor.name: tensor.values for tensor in output_tensors or []}
        self.error = error


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    pass


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    utilities = types.ModuleType("triton_python_backend_utils")
    vars(utilities).update(
        Tensor=Tensor,
        InferenceRequest=Request,
        InferenceResponse=Response,
        TritonError=TritonError,
        TritonModelException=TritonModelException,
        triton_string_to_numpy={"TYPE_FP32": np.float32, "TYPE_FP64": np.float64}.__getitem__,
        get_input_tensor_by_name=lambda request, name: Tensor(name, request.inputs[name]),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utilities)
    name = "reentry.serving.backends.onnxruntime.model"
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


INPUT = {"name": "features", "data_type": "TYPE_FP32", "dims": ["-1", str(WIDTH)]}
OUTPUT = {"name": "reentry_probability", "data_type": "TYPE_FP32", "dims": ["-1"]}
CONFIG = {
    "max_batch_size": 64,
    "input": [INPUT],
    "output": [
        OUTPUT,
        {"name": "model_version", "data_type": "TYPE_INT64", "dims": ["1"]},
    ],
    "parameters": {"intra_op_thread_count": {"string_value": "1"}},
    "optimization": {"graph": {"level": 0}},
}
BOTH = ["reentry_probability", "model_version"]


def load(backend: types.ModuleType, folder: Path, *, kind: str = "CPU", device: str = "0", **changes: object):
    model = backend.TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(CONFIG | changes),
            "model_instance_kind": kind,
            "model_instance_device_id": device,
            "model_repository": str(folder),
            "model_version": "1",
        }
    )
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_toy_model(tmp_path / "1/model.onnx", version=4)
    return tmp_path


def features(batch: int, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, steps, WIDTH)).astype(np.float32)


def test_requests_of_equal_shape_run_as_one_batch_and_receive_their_own_rows(
    backend: types.ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(backend, folder)
    asked = [features(2, 5), features(1, 9, seed=1), features(3, 5, seed=2)]
    runs: list[tuple[int, ...]] = []
    run = onnxruntime.InferenceSession.run

    def counted(session, names, inputs, options):
        runs.append(inputs["features"].shape)
        return run(session, names, inputs, options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", counted)
    answers = model.execute([Request(BOTH, features=values) for values in asked])
    assert runs == [(5, 5, WIDTH), (1, 9, WIDTH)]

    alone = onnxruntime.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])
    for values, answer in zip(asked, answers, strict=True):
        (expected,) = run(alone, ["reentry_probability"], {"features": values})
        np.testing.assert_allclose(answer.outputs["reentry_probability"], expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(answer.outputs["model_version"], np.full((len(values), 1), 4))


def test_a_graph_runs_at_load_in_the_shapes_of_its_warm_up_samples(
    backend: types.ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        backend.TritonPythonModel, "_run_session", lambda _, arrays: runs.append(arrays[0].shape), raising=True
    )
    given = {"features": {"data_type": "TYPE_FP32", "dims": ["64", str(WIDTH)], "zero_data": True}}
    load(backend, folder, model_warmup=[{"batch_size": 1, "inputs": given}, {"batch_size": 8, "inputs": given}])
    load(backend, folder)
    assert runs == [(1, 64, WIDTH), (8, 64, WIDTH), (2, 2, WIDTH)]


def test_a_graph_that_does_not_run_is_not_loaded(backend: types.ModuleType, tmp_path: Path) -> None:
    write_toy_model(tmp_path / "1/model.onnx", version=1, fault="run")
    given = {"features": {"data_type": "TYPE_FP32", "dims": ["64", str(WIDTH)], "zero_data": True}}
    load(backend, tmp_path)  # the graph runs with two steps
    with pytest.raises(TritonModelException, match=r"1/model\.onnx .*Gather"):
        load(backend, tmp_path, model_warmup=[{"batch_size": 1, "inputs": given}])


def test_a_response_holds_only_the_requested_outputs(backend: types.ModuleType, folder: Path) -> None:
    (answer,) = load(backend, folder).execute([Request(["model_version"], features=features(1, 3))])
    assert set(answer.outputs) == {"model_version"}


def test_a_failing_batch_does_not_affect_the_others(backend: types.ModuleType, folder: Path) -> None:
    good, bad = Request(BOTH, features=features(1, 3)), Request(BOTH, features=features(1, 3)[:, :, :5])
    answers = load(backend, folder).execute([good, bad, good])
    assert [answer.error is None for answer in answers] == [True, False, True]
    assert str(answers[1].error).startswith("onnxruntime: ")
    assert answers[1].error.code == TritonError.INTERNAL


def test_a_model_without_batching_runs_each_request_by_itself(backend: types.ModuleType, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n"])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "1/plain.onnx")
    model = load(
        backend,
        tmp_path,
        max_batch_size=0,
        default_model_filename="plain.onnx",
        input=[{"name": "x", "data_type": "TYPE_FP64", "dims": ["-1"]}],
        output=[{"name": "y", "data_type": "TYPE_FP64", "dims": ["-1"]}],
    )
    answers = model.execute([Request(["y"], x=np.array([1.0, 2.0])), Request(["y"], x=np.array([3.0, 4.0]))])
    assert [answer.outputs["y"].tolist() for answer in answers] == [[-1.0, -2.0], [-3.0, -4.0]]
    model.finalize()


def test_an_output_without_one_row_for_each_track_is_an_error(backend: types.ModuleType, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    graph = helper.make_graph(
        [helper.make_node("Compress", ["features", "keep"], ["total"], axis=0)],  # the first row of the batch alone
        "reduced",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["b", "t", WIDTH])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, ["kept", "t", WIDTH])],
        [helper.make_tensor("keep", TensorProto.BOOL, [1], [True])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "1/model.onnx")
    output = [{"name": "total", "data_type": "TYPE_FP32", "dims": ["-1", str(WIDTH)]}]
    model = load(backend, tmp_path, output=output)
    answers = model.execute([Request(["total"], features=features(1, 3)) for _ in range(2)])
    assert ["output total: expected 2 rows" in str(answer.error) for answer in answers] == [True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"parameters": {"memory_arena": {"string_value": "1"}}},
            "memory_arena is not supported.*Supported: .*dynamic_batching.*; parameters intra_op_thread_count",
        ),
        ({"parameters": {"gpu_mem_limit": {"string_value": "1"}}}, "parameter gpu_mem_limit is not supported"),
        (
            {"parameters": {"execution_mode": {"string_value": "2"}}},
            "execution_mode: expected 0, sequential, or 1",
        ),
        (
            {"parameters": {"enable_mem_arena": {"string_value": "off"}}},
            "mem_arena: expected 0 or 1. Got: 'off'",
        ),
        ({"parameters": {"enable_mem_pattern": {"string_value": ""}}}, "enable_mem_pattern: expected 0 or 1. Got: ''"),
        (
            {"parameters": {"memory.enable_memory_arena_shrinkage": {"string_value": "1"}}},
            "expected devices as cpu:0;gpu:0. Got: '1'",
        ),
        (
            {"parameters": {"share_session_between_instances": {"string_value": "true"}}},
            "share_session_between_instances: expected false.* Got: 'true'",
        ),
        ({"parameters": {"intra_op_thread_count": {"string_value": "two"}}}, "expected a count.*'two'"),
        ({"sequence_batching": {"direct": {}}}, "sequence_batching: only the strategy oldest is supported"),
        (
            {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "tensorrt"}]}}},
            "optimization.execution_accelerators is not supported",
        ),
        ({"optimization": {"graph": {"level": 7}}}, "optimization.graph.level: expected"),
        ({"optimization": {"priority": "PRIORITY_MAX"}}, "optimization.priority is not supported"),
        (
            {"optimization": {"gather_kernel_buffer_threshold": 9}},
            "optimization.gather_kernel_buffer_threshold is not supported",
        ),
        ({"model_operations": {"op_library_filename": ["a.so"]}}, "model_operations is not supported"),
        ({"model_transaction_policy": {"decoupled": True}}, "model_transaction_policy.decoupled is not supported"),
        ({"cc_model_filenames": {"7.5": "model75.onnx"}}, "cc_model_filenames is not supported"),
        ({"input": [INPUT | {"optional": True}]}, "input.optional is not supported"),
        ({"input": [INPUT | {"reshape": {"shape": []}}]}, "input.reshape is not supported"),
        ({"input": [INPUT | {"is_shape_tensor": True}]}, "input.is_shape_tensor is not supported"),
        ({"input": [INPUT | {"is_non_linear_format_io": True}]}, "input.is_non_linear_format_io is not supported"),
        ({"input": [INPUT | {"allow_ragged_batch": True}]}, "input.allow_ragged_batch is not supported"),
        ({"input": [INPUT | {"format": "FORMAT_NHWC"}]}, "input.format is not supported"),
        ({"output": [OUTPUT | {"reshape": {"shape": [1]}}]}, "output.reshape is not supported"),
        ({"output": [OUTPUT | {"is_shape_tensor": True}]}, "output.is_shape_tensor is not supported"),
        ({"output": [OUTPUT | {"is_non_linear_format_io": True}]}, "output.is_non_linear_format_io is not supported"),
        ({"instance_group": [{"profile": ["a"]}]}, "instance_group.profile is not supported"),
        ({"instance_group": [{"secondary_devices": [{}]}]}, "instance_group.secondary_devices is not supported"),
        ({"instance_group": [{"host_policy": "a"}]}, "instance_group.host_policy is not supported"),
        (
            {"input": [{"name": "feature", "data_type": "TYPE_FP32", "dims": [-1, WIDTH]}]},
            "input feature: expected .*, features. Got: feature",
        ),
        (
            {"input": [{"name": "features", "data_type": "TYPE_FP64", "dims": [-1, WIDTH]}]},
            r"expected TYPE_FP64 as configured. Got: tensor\(float\)",
        ),
        (
            {"input": [{"name": "features", "data_type": "TYPE_FP32", "dims": [-1, 6]}]},
            rf"expected shape \[-1, -1, 6\] as configured. Got: \[-1, -1, {WIDTH}\]",
        ),
        ({"input": []}, "inputs features of the graph are not configured"),
        ({"default_model_filename": "other.onnx"}, "no such file: .*other.onnx"),
    ],
)
def test_an_unsupported_setting_or_a_mismatch_with_the_graph_is_refused_at_load(
    backend: types.ModuleType, folder: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TritonModelException, match=message):
        load(backend, folder, **changes)


def test_default_values_that_the_server_adds_are_accepted(backend: types.ModuleType, folder: Path) -> None:
    load(
        backend,
        folder,
        input=[
            INPUT
            | {
                "format": "FORMAT_NONE",
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": False,
                "is_non_linear_format_io": False,
            }
        ],
        optimization={
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": False,
        },
        instance_group=[{"name": "a", "kind": "KIND_CPU", "count": 2, "profile": [], "host_policy": ""}],
        model_transaction_policy={"decoupled": False},
        model_operations={"op_library_filename": []},
        cc_model_filenames={},
    )


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[onnxruntime.InferenceSession]:
    """Every session that the test opens."""
    opened = []
    make = onnxruntime.InferenceSession

    class RecordedSession(make):
        def __init__(self, *arguments: object, **settings: object) -> None:
            super().__init__(*arguments, **settings)
            opened.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", RecordedSession)
    return opened


def parameters(**values: str) -> dict[str, dict[str, str]]:
    return {name: {"string_value": value} for name, value in values.items()}


def test_documented_parameters_reach_the_session(
    backend: types.ModuleType, folder: Path, sessions: list[onnxruntime.InferenceSession]
) -> None:
    chosen = parameters(
        intra_op_thread_count="3",
        inter_op_thread_count="2",
        execution_mode="1",
        enable_mem_arena="0",
        enable_mem_pattern="FALSE",
        share_session_between_instances="false",
    ) | {"session.use_device_allocator_for_initializers": {"string_value": "1"}}
    load(backend, folder, parameters=chosen, optimization={"graph": {"level": -1}})
    load(backend, folder, parameters={}, optimization={})
    chosen_options, default = (session.get_session_options() for session in sessions)
    assert (chosen_options.intra_op_num_threads, chosen_options.inter_op_num_threads) == (3, 2)
    assert chosen_options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (chosen_options.enable_cpu_mem_arena, chosen_options.enable_mem_pattern) == (False, False)
    assert chosen_options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert chosen_options.get_session_config_entry("session.use_device_allocator_for_initializers") == "1"
    assert (default.intra_op_num_threads, default.inter_op_num_threads) == (0, 0)
    assert default.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert (default.enable_cpu_mem_arena, default.enable_mem_pattern) == (True, True)
    assert default.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def test_a_run_option_reaches_each_run(
    backend: types.ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"memory.enable_memory_arena_shrinkage": {"string_value": "cpu:0"}}
    model, plain = load(backend, folder, parameters=chosen), load(backend, folder)
    options_of_runs = []
    run = onnxruntime.InferenceSession.run

    def recorded(session, names, inputs, options):
        options_of_runs.append(options and options.get_run_config_entry("memory.enable_memory_arena_shrinkage"))
        return run(session, names, inputs, options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", recorded)
    asked = Request(BOTH, features=features(1, 4))
    answers = [loaded.execute([asked])[0].outputs["reentry_probability"] for loaded in (model, plain)]
    np.testing.assert_array_equal(*answers)
    assert options_of_runs == ["cpu:0", None]


@pytest.mark.parametrize("parallel", ["0", "1"])
def test_both_execution_modes_give_the_same_numbers(backend: types.ModuleType, folder: Path, parallel: str) -> None:
    asked = Request(BOTH, features=features(2, 30))
    (plain,) = load(backend, folder).execute([asked])
    chosen = parameters(
        execution_mode=parallel, inter_op_thread_count="2", enable_mem_arena="0", enable_mem_pattern="0"
    )
    (answer,) = load(backend, folder, parameters=chosen).execute([asked])
    np.testing.assert_allclose(
        answer.outputs["reentry_probability"], plain.outputs["reentry_probability"], rtol=0, atol=1e-6
    )


def test_an_instance_on_a_gpu_is_refused_if_onnxruntime_does_not_support_gpus(
    backend: types.ModuleType, folder: Path
) -> None:
    with pytest.raises(
        TritonModelException,
        match=r"KIND_GPU needs .*CUDAExecutionProvider; .*CPUExecutionProvider: install onnxruntime-gpu .*KIND_CPU",
    ):
        load(backend, folder, kind="GPU")


def test_an_automatic_instance_runs_on_the_cpu_if_there_is_no_gpu(
    backend: types.ModuleType, folder: Path, sessions: list[onnxruntime.InferenceSession]
) -> None:
    load(backend, folder, kind="AUTO")
    assert sessions[0].get_providers() == ["CPUExecutionProvider"]


def test_an_instance_group_of_kind_model_is_refused(backend: types.ModuleType, folder: Path) -> None:
    with pytest.raises(TritonModelException, match="KIND_MODEL is not supported"):
        load(backend, folder, kind="MODEL")


class CudaSession(onnxruntime.InferenceSession):
    """A session that looks to the backend as on a machine with CUDA."""

    requested: typing.ClassVar[list[object]] = []
    starts = True

    def __init__(self, path: Path, options: onnxruntime.SessionOptions, providers: list[object]) -> None:
        self.requested.append(providers)
        super().__init__(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"] if self.starts else ["CPUExecutionProvider"]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> type[CudaSession]:
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", CudaSession)
    monkeypatch.setattr(CudaSession, "requested", [])
    return CudaSession


@pytest.mark.parametrize("kind", ["GPU", "AUTO"])
def test_an_instance_on_a_gpu_prefers_its_device_to_the_cpu(
    backend: types.ModuleType, folder: Path, cuda: type[CudaSession], kind: str
) -> None:
    load(backend, folder, kind=kind, device="2")
    assert cuda.requested == [[("CUDAExecutionProvider", {"device_id": "2"}), "CPUExecutionProvider"]]


def test_an_instance_on_the_cpu_does_not_use_an_available_gpu(
    backend: types.ModuleType, folder: Path, cuda: type[CudaSession]
) -> None:
    load(backend, folder, kind="CPU")
    assert cuda.requested == [["CPUExecutionProvider"]]


def test_a_failed_start_of_cuda_is_an_error_and_not_a_slow_server(
    backend: types.ModuleType, folder: Path, cuda: type[CudaSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "starts", False)
    with pytest.raises(TritonModelException, match="CUDAExecutionProvider does not start"):
        load(backend, folder, kind="GPU")


def test_half_precision_is_refused_on_a_cpu_because_it_would_crash(
    backend: types.ModuleType, folder: Path, cuda: type[CudaSession]
) -> None:
    manifest = folder / "1/manifest.json"
    manifest.write_text('{"precision": "fp16"}')
    with pytest.raises(TritonModelException, match=r"half precision.* only on a GPU"):
        load(backend, folder, kind="CPU")
    load(backend, folder, kind="GPU")
    for text in ('{"precision": "fp32"}', "[]", "no manifest of ours"):
        manifest.write_text(text)
        load(backend, folder, kind="CPU")


def test_a_file_that_is_not_a_graph_is_named_in_the_error(backend: types.ModuleType, folder: Path) -> None:
    (folder / "1/model.onnx").write_bytes(b"no graph")
    with pytest.raises(TritonModelException, match=r"1/model.onnx is not a valid ONNX model"):
        load(backend, folder)


@pytest.mark.parametrize("level", [-1, 0, 1, 2])
def test_every_graph_level_of_triton_gives_the_same_numbers(
    backend: types.ModuleType, folder: Path, level: int
) -> None:
    asked = Request(BOTH, features=features(2, 30))
    (plain,) = load(backend, folder).execute([asked])
    (answer,) = load(backend, folder, optimization={"graph": {"level": level}}).execute([asked])
    np.testing.assert_allclose(
        answer.outputs["reentry_probability"], plain.outputs["reentry_probability"], rtol=0, atol=1e-6
    )


START, END = 1, 2
COUNT = {
    "input_name": "count",
    "output_name": "next_count",
    "data_type": "TYPE_FP32",
    "dims": ["1"],
    "initial_state": [{"name": "start", "data_type": "TYPE_FP32", "dims": ["1"], "zero_data": True}],
}
SEQUENCES = {"max_sequence_idle_microseconds": "2000000", "oldest": {"max_candidate_sequences": 8}, "state": [COUNT]}


@pytest.fixture
def counting(backend: types.ModuleType, tmp_path: Path):
    """A model that adds its input to the state of the sequence, and the clock of its states."""
    vectors = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 1]) for n in ("x", "count", "total", "next_count")
    ]
    nodes = [helper.make_node("Add", ["x", "count"], [name]) for name in ("total", "next_count")]
    graph = helper.make_graph(nodes, "count", vectors[:2], vectors[2:])
    (tmp_path / "1").mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "1/model.onnx")
    now = [0.0]
    model = load(
        backend,
        tmp_path,
        input=[{"name": "x", "data_type": "TYPE_FP32", "dims": ["1"]}],
        output=[{"name": "total", "data_type": "TYPE_FP32", "dims": ["1"]}],
        sequence_batching=SEQUENCES,
    )
    model._sequences._rows._clock = lambda: now[0]

    def add(value: float, sequence: int | str, flags: int = 0) -> Request:
        return Request(["total"], sequence, flags, x=np.array([[value]], np.float32))

    def total(*requests: Request) -> list[float | str]:
        answers = model.execute(list(requests))
        return [str(each.error) if each.error else each.outputs["total"].item() for each in answers]

    return add, total, now, model._sequences


def test_each_sequence_has_its_own_state_and_one_run_serves_many(counting) -> None:
    add, total, _, _ = counting
    assert total(add(1.0, "a", START), add(10.0, 7, START)) == [1.0, 10.0]
    assert total(add(10.0, 7), add(1.0, "a")) == [20.0, 2.0]
    assert total(add(5.0, "a", START)) == [5.0]


def test_a_sequence_without_a_state_is_refused_and_the_others_of_the_batch_are_answered(counting) -> None:
    add, total, _, states = counting
    assert total(add(1.0, "a", START), add(1.0, "b", START | END)) == [1.0, 1.0]
    answers = total(add(1.0, "a"), add(1.0, "b"), add(1.0, "c", START))
    assert answers[::2] == [2.0, 1.0]
    assert "sequence b has no state: the first request of a sequence must specify the START flag" in answers[1]
    assert len(states) == 2


def test_the_states_of_long_idle_sequences_are_dropped(counting) -> None:
    add, total, now, states = counting
    total(add(1.0, "old", START), add(1.0, "kept", START))
    now[0] = 6.0
    total(add(1.0, "kept"))
    now[0] = 13.0
    assert total(add(1.0, "kept")) == [3.0]
    assert len(states) == 1


def test_the_place_of_a_dropped_state_is_used_again_and_starts_at_zero(counting) -> None:
    add, total, now, states = counting
    for number in range(20):
        now[0] += 100.0
        sequences = [f"{number}/{track}" for track in range(3)]
        assert total(*(add(1.0, name, START) for name in sequences)) == [1.0] * 3
        assert total(*(add(1.0, name) for name in sequences)) == [2.0] * 3
        assert total(add(1.0, sequences[0], END)) == [3.0]
    assert len(states) == 2
    assert len(states._tables[0]) <= 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial_state": []}, "expected initial_state { zero_data: true }"),
        ({"initial_state": [{"data_file": "start.bin", "dims": ["1"]}]}, "expected initial_state { zero_data: true }"),
        ({"dims": ["-1"]}, "expected fixed dims, as for initial_state"),
    ],
)
def test_a_state_without_a_zero_start_or_a_fixed_size_is_refused(
    backend: types.ModuleType, folder: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(TritonModelException, match=message):
        load(backend, folder, sequence_batching=SEQUENCES | {"state": [COUNT | change]})
