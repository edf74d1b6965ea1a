"""TensorRT engines: both builders, the output of trtexec, the engine cache, and the sessions.

The tests need no GPU: one script stands in for trtexec and another for nvidia-smi. The logs below follow TensorRT's
documentation and published sources; they were not recorded on a GPU.
"""

from __future__ import annotations

import json
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.sessions import no_state
from export.tensorrt import engines
from export.tensorrt.config import TensorRTConfig, step_shapes, whole_shapes
from export.tensorrt.engines import Gpu, build, cache_key, find_gpu, missing
from export.tensorrt.trtexec import Trtexec, failure_of, find_trtexec, read_outputs, run_options, version_of
from reentry.errors import ConfigError, ExportError
from reentry.schema import FEATURES
from registry.formats import FORMATS, Format
from tests.toy_model import write_toy_model

STAND_IN = Path(__file__).parents[3] / "trtexec_stand_in.py"
SPEC = FORMATS[Format.TENSORRT]
LAYERS, HIDDEN = 2, 3
F = len(FEATURES)

BUILD_LOG = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v101602] [b10] # trtexec --onnx=model.onnx --saveEngine=model.plan
[11/21/2026-12:00:00] [I] === Device Information ===
[11/21/2026-12:00:00] [I] Available Devices:
[11/21/2026-12:00:00] [I]   Device 0: "NVIDIA L4" UUID: GPU-00000000-0000-0000-0000-000000000000
[11/21/2026-12:00:00] [I] Selected Device: NVIDIA L4
[11/21/2026-12:00:00] [I] Selected Device ID: 0
[11/21/2026-12:00:00] [I] Compute Capability: 8.9
[11/21/2026-12:00:00] [I] TensorRT version: 10.16.2
[11/21/2026-12:00:01] [I] Finished parsing network model. Parse time: 0.0131
[11/21/2026-12:00:09] [I] Engine built in 8.25 sec.
[11/21/2026-12:00:09] [I] Created engine with size: 0.31 MiB
[11/21/2026-12:00:09] [I] === Performance summary ===
[11/21/2026-12:00:09] [I] Throughput: 812.5 qps
[11/21/2026-12:00:09] [I] Latency: min = 1.10 ms, max = 3.5 ms, mean = 1.25 ms, median = 1.2 ms, \
percentile(90%) = 1.4 ms, percentile(95%) = 1.5 ms, percentile(99%) = 2.75 ms
[11/21/2026-12:00:09] [I] Enqueue Time: min = 9 ms, max = 9 ms, mean = 9 ms, median = 9 ms, percentile(99%) = 9 ms
&&&& PASSED TensorRT.trtexec [TensorRT v101602] [b10] # trtexec --onnx=model.onnx --saveEngine=model.plan
"""

FAILED_LOG = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8501] # trtexec --onnx=model.onnx
[11/21/2026-12:00:00] [I] Start parsing network model.
[11/21/2026-12:00:00] [E] [TRT] ModelImporter.cpp:836: ERROR: builtin_op_importers.cpp:5417  In function   importLSTM:
[11/21/2026-12:00:00] [E] Failed to parse onnx file
[11/21/2026-12:00:00] [E] Engine set up failed
&&&& FAILED TensorRT.trtexec [TensorRT v8501] # trtexec --onnx=model.onnx
"""


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Gives this machine a GPU and trtexec. A call configures the stand-in and returns the log of its commands."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nvidia-smi").write_text("#!/bin/sh\necho 'Stand-in GPU, 9.0, 580.65.06'\necho 'Another, 8.9, 1'\n")
    (programs / "trtexec").write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.delenv("REENTRY_TRTEXEC", raising=False)
    log = tmp_path / "runs.log"

    def configure(**settings: object) -> Path:
        monkeypatch.setenv("REENTRY_STAND_IN", json.dumps({"log": str(log)} | settings))
        return log

    configure()
    return configure


@pytest.fixture
def graphs(tmp_path: Path) -> tuple[Path, Path]:
    """A graph over whole tracks, and a step graph that halves its states and sums its features."""
    whole, step = tmp_path / "model.onnx", tmp_path / "step.onnx"
    write_toy_model(whole, version=3)

    def tensor(name: str, *shape: object) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    state = ("batch", LAYERS, HIDDEN)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["hidden_state", "half"], ["next_hidden_state"]),
            helper.make_node("Mul", ["cell_state", "half"], ["next_cell_state"]),
            helper.make_node("ReduceSum", ["features", "axis"], ["reentry_probability"]),
            helper.make_node("Shape", ["reentry_probability"], ["shape"]),
            helper.make_node("Expand", ["version", "shape"], ["model_version"]),
        ],
        "step",
        [tensor("features", "batch", F), tensor("hidden_state", *state), tensor("cell_state", *state)],
        [
            tensor("reentry_probability", "batch", 1),
            tensor("next_hidden_state", *state),
            tensor("next_cell_state", *state),
            helper.make_tensor_value_info("model_version", TensorProto.INT64, ["batch", 1]),
        ],
        [
            helper.make_tensor("version", TensorProto.INT64, [], [3]),
            helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), step)
    return whole, step


@pytest.fixture
def config(tmp_path: Path) -> TensorRTConfig:
    return TensorRTConfig(cache=tmp_path / "cache")


def folder(tmp_path: Path, name: str = "version") -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def builds(log: Path) -> list[list[str]]:
    """Options of each build in the log; other runs are left out."""
    return [shlex.split(line) for line in log.read_text().splitlines() if line.startswith("--onnx")]


def test_the_version_is_read_from_the_first_line_of_a_log() -> None:
    assert version_of(BUILD_LOG) == "10.16.2"
    assert version_of(FAILED_LOG) == "8.5.1"
    assert version_of("Segmentation fault\n") is None


def test_a_log_that_ends_with_passed_is_not_a_failure() -> None:
    assert failure_of(BUILD_LOG) is None


def test_the_reason_of_a_failure_is_its_first_error() -> None:
    reason = "[TRT] ModelImporter.cpp:836: ERROR: builtin_op_importers.cpp:5417 In function importLSTM:"
    assert failure_of(FAILED_LOG) == reason


@pytest.mark.parametrize("text", ["Segmentation fault\n", ""])
def test_output_without_an_error_is_a_failure_without_a_reason(text: str) -> None:
    assert failure_of(text) == "it printed no error"


def test_optimisation_profiles_cover_batch_and_time_of_both_graphs() -> None:
    config = TensorRTConfig(batch=(1, 4, 64), time=(1, 512, 4096))
    assert whole_shapes(config) == [f"features:1x1x{F}", f"features:4x512x{F}", f"features:64x4096x{F}"]
    assert step_shapes(config, layers=2, hidden=16) == [
        f"features:{batch}x{F},hidden_state:{batch}x2x16,cell_state:{batch}x2x16" for batch in (1, 4, 64)
    ]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"batch": (2, 1, 4)}, "batch sizes out of order"),
        ({"time": (0, 1, 1)}, "time sizes out of order"),
        ({"workspace_mib": 0}, "workspace_mib out of range"),
    ],
)
def test_settings_outside_their_range_are_rejected(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        TensorRTConfig(**settings)
    (value,) = settings.values()
    assert (error.value.problem, error.value.got) == (problem, str(value))


def test_a_machine_without_gpu_and_tensorrt_reports_both_and_the_fix_on_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graphs: tuple[Path, Path], config: TensorRTConfig
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("REENTRY_TRTEXEC", raising=False)
    assert find_trtexec() is None
    assert find_gpu() is None
    line = missing()
    assert line is not None
    assert "\n" not in line
    assert "neither trtexec nor the tensorrt package is installed and nvidia-smi shows no GPU" in line
    assert "docs/tensorrt.md" in line
    with pytest.raises(ExportError, match="neither trtexec nor the tensorrt package"):
        build(*graphs, folder(tmp_path), config)
    assert list((tmp_path / "version").iterdir()) == []


def test_a_machine_with_gpu_and_trtexec_lacks_nothing(gpu: Callable[..., Path]) -> None:
    assert missing() is None
    assert find_gpu() == Gpu("Stand-in GPU", "9.0", "580.65.06")


def test_an_environment_variable_gives_the_path_of_trtexec(
    gpu: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((tmp_path / "programs/trtexec").read_bytes())
    elsewhere.chmod(0o755)
    monkeypatch.setenv("REENTRY_TRTEXEC", str(elsewhere))
    assert find_trtexec() == elsewhere
    monkeypatch.setenv("REENTRY_TRTEXEC", str(tmp_path / "nowhere"))
    assert find_trtexec() is None


def test_both_graphs_are_built_with_their_optimisation_profiles(
    gpu: Callable[..., Path], graphs: tuple[Path, Path], config: TensorRTConfig, tmp_path: Path
) -> None:
    log = gpu()
    build(*graphs, folder(tmp_path), config)
    whole, step = builds(log)
    common = ["--memPoolSize=workspace:1024", "--skipInference", "--noTF32"]
    for words, graph, shapes in (
        (whole, graphs[0], whole_shapes(config)),
        (step, graphs[1], step_shapes(config, layers=LAYERS, hidden=HIDDEN)),
    ):
        assert words[0] == f"--onnx={graph}"
        assert words[1].startswith(f"--saveEngine={config.cache}/")
        assert words[2:5] == [
            f"--{name}Shapes={shape}" for name, shape in zip(("min", "opt", "max"), shapes, strict=True)
        ]
        assert words[5:] == common
    assert (tmp_path / "version" / SPEC.whole_file).read_bytes() == graphs[0].read_bytes()
    assert (tmp_path / "version" / SPEC.step_file).read_bytes() == graphs[1].read_bytes()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"fp16": True}, ["--fp16"]), ({"int8": True}, ["--int8"]), ({"fp16": True, "int8": True}, ["--fp16", "--int8"])],
)
def test_precision_flags_are_passed_if_enabled(
    gpu: Callable[..., Path], graphs: tuple[Path, Path], tmp_path: Path, settings: dict[str, bool], expected: list[str]
) -> None:
    log = gpu()
    build(*graphs, folder(tmp_path), TensorRTConfig(cache=tmp_path / "cache", **settings))
    for words in builds(log):
        assert [word for word in words if word in ("--fp16", "--int8", "--noTF32")] == expected


def test_a_tensorrt_without_precision_flags_rejects_them_and_builds_without_them(
    gpu: Callable[..., Path], graphs: tuple[Path, Path], tmp_path: Path
) -> None:
    log = gpu(version="11.4.1", without=["fp16", "int8", "noTF32"])
    with pytest.raises(ExportError, match=r"TensorRT 11\.4\.1 has no --fp16"):
        build(*graphs, folder(tmp_path), TensorRTConfig(cache=tmp_path / "cache", fp16=True))
    build(*graphs, tmp_path / "version", TensorRTConfig(cache=tmp_path / "cache"))
    assert not [word for words in builds(log) for word in words if word == "--noTF32"]


def test_a_tensorrt_older_than_int64_is_rejected(
    gpu: Callable[..., Path], graphs: tuple[Path, Path], config: TensorRTConfig, tmp_path: Path
) -> None:
    gpu(version="8.6.1")
    with pytest.raises(ExportError, match="too old") as error:
        build(*graphs, folder(tmp_path), config)
    assert str(error.value.expected).startswith("TensorRT 10 or later")
    assert error.value.got == "8.6.1"


def test_an_engine_that_was_built_before_comes_from_the_cache(
    gpu: Callable[..., Path], graphs: tuple[Path, Path], config: TensorRTConfig, tmp_path: Path
) -> None:
    log = gpu()
    build(*graphs, folder(tmp_path), config)
    build(*graphs, folder(tmp_path, "again"), config)
    assert len(builds(log)) == 2
    assert (tmp_path / "again" / SPEC.whole_file).read_bytes() == graphs[0].read_bytes()
    write_toy_model(graphs[0], version=4)
    build(*graphs, tmp_path / "again", config)
    assert len(builds(log)) == 3  # only the graph over whole tracks changed


def test_the_cache_key_depends_on_graph_settings_gpu_driver_and_version(graphs: tuple[Path, Path]) -> None:
    config, card = TensorRTConfig(), Gpu("A", "8.0", "550")
    shapes = whole_shapes(config)
    keys = {
        cache_key(graphs[0], shapes, config, card, "10.1"),
        cache_key(graphs[1], shapes, config, card, "10.1"),
        cache_key(graphs[0], shapes[::-1], config, card, "10.1"),
        cache_key(graphs[0], shapes, TensorRTConfig(fp16=True), card, "10.1"),
        cache_key(graphs[0], shapes, TensorRTConfig(int8=True), card, "10.1"),
        cache_key(graphs[0], shapes, TensorRTConfig(workspace_mib=1), card, "10.1"),
        cache_key(graphs[0], shapes, config, Gpu("B", "8.0", "550"), "10.1"),
        cache_key(graphs[0], shapes, config, Gpu("A", "9.0", "550"), "10.1"),
        cache_key(graphs[0], shapes, config, Gpu("A", "8.0", "560"), "10.1"),
        cache_key(graphs[0], shapes, config, card, "10.2"),
    }
    assert len(keys) == 10
    assert cache_key(graphs[0], shapes, TensorRTConfig(cache=Path("/elsewhere")), card, "10.1") in keys


def test_a_failed_build_reports_the_reason_of_trtexec_and_leaves_no_file(
    gpu: Callable[..., Path], graphs: tuple[Path, Path], config: TensorRTConfig, tmp_path: Path
) -> None:
    gpu(fail="[TRT] Error Code 10: Internal Error (Could not find any implementation for node LSTM_0.)")
    with pytest.raises(ExportError, match=r"\[TRT\] Error Code 10.*for node LSTM_0"):
        build(*graphs, folder(tmp_path), config)
    assert list((tmp_path / "version").iterdir()) == []
    assert list(config.cache.glob("*.plan")) == []


def test_engines_run_through_trtexec_as_the_gate_runs_them(
    gpu: Callable[..., Path], graphs: tuple[Path, Path], config: TensorRTConfig, tmp_path: Path
) -> None:
    import onnxruntime

    session = build(*graphs, folder(tmp_path), config)
    features = np.random.default_rng(0).normal(size=(2, 5, F)).astype(np.float32)
    probability, version = session.whole(features)
    reference = onnxruntime.InferenceSession(graphs[0], providers=["CPUExecutionProvider"])
    (expected,) = reference.run(["reentry_probability"], {"features": features})
    np.testing.assert_allclose(probability, expected, rtol=1e-5)  # six digits
    assert probability.dtype == np.float32
    assert (version.dtype, version.tolist()) == (np.int64, [[3], [3]])

    state = no_state(2, LAYERS, HIDDEN)._replace(hidden=np.ones((2, LAYERS, HIDDEN), np.float32))
    probability, state, version = session.step(features[:, 0], state)
    assert version.tolist() == [[3], [3]]
    np.testing.assert_allclose(probability, features[:, 0].sum(axis=1, keepdims=True), rtol=1e-5)
    assert state.hidden.shape == (2, LAYERS, HIDDEN)
    assert (state.hidden.max(), state.cell.max()) == (0.5, 0.0)


def test_the_options_of_a_run_name_files_and_shapes() -> None:
    inputs = {"features": (Path("/w/f.bin"), (2, 7)), "hidden_state": (Path("/w/h.bin"), (2, 1, 16))}
    assert run_options(Path("step.plan"), inputs, Path("/w/out.json")) == [
        "--loadEngine=step.plan",
        "--loadInputs=features:/w/f.bin,hidden_state:/w/h.bin",
        "--shapes=features:2x7,hidden_state:2x1x16",
        "--exportOutput=/w/out.json",
        "--warmUp=0",
        "--duration=0",
        "--iterations=1",
    ]


def test_outputs_that_are_not_finite_are_read_as_nan_and_infinity(tmp_path: Path) -> None:
    file = tmp_path / "outputs.json"
    file.write_text(
        '[\n  { "name" : "reentry_probability"\n  , "dimensions" : "1x4"\n'
        '  , "values" : [ nan, -inf, 0.25, -nan ]\n  }\n'
        ', { "name" : "model_version"\n  , "dimensions" : "1x1"\n  , "values" : [ 9007199254740993 ]\n  }\n]\n'
    )
    outputs = read_outputs(file)
    np.testing.assert_array_equal(outputs["reentry_probability"], [[np.nan, -np.inf, 0.25, np.nan]])
    assert outputs["model_version"].tolist() == [[2**53 + 1]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[{"name": "x"}]',
        '[{"name": "x", "dimensions": "2x2", "values": [1]}]',
        '[{"name": "x", "dimensions": "a", "values": []}]',
    ],
)
def test_outputs_in_another_format_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "outputs.json").write_text(text)
    for file in (tmp_path / "outputs.json", tmp_path / "none.json"):
        with pytest.raises(ExportError, match="cannot read the output") as error:
            read_outputs(file)
        assert error.value.where == str(file)


def test_a_program_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot start the program: No such file"):
        Trtexec(tmp_path / "trtexec")


class FakeTensorRT(types.ModuleType):
    """The part of the tensorrt package that a build uses, written from its documentation. It compiles nothing."""

    __version__ = "10.16.2"

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.calls: list[tuple[object, ...]] = []
        self.parses = True
        record = self.calls.append

        class Logger:
            ERROR = 2

            def __init__(self, level: int) -> None:
                assert level == self.ERROR

        class Profile:
            def set_shape(self, *arguments: object) -> None:
                record(("shape", *arguments))

        class Settings:
            def set_memory_pool_limit(self, pool: str, size: int) -> None:
                record((pool, size))

            def set_flag(self, flag: str) -> None:
                record(("set", flag))

            def clear_flag(self, flag: str) -> None:
                record(("clear", flag))

            def add_optimization_profile(self, _: Profile) -> None:
                record(("profile",))

        class Builder:
            def __init__(self, logger: Logger) -> None:
                pass

            def create_network(self, _: int) -> object:
                return object()

            def create_builder_config(self) -> Settings:
                return Settings()

            def create_optimization_profile(self) -> Profile:
                return Profile()

            def build_serialized_network(self, *_: object) -> memoryview:
                return memoryview(b"engine")

        module = self

        class OnnxParser:
            def __init__(self, network: object, logger: Logger) -> None:
                pass

            def parse_from_file(self, path: str) -> bool:
                record(("parse", path))
                return module.parses

            def get_error(self, _: int) -> object:
                return types.SimpleNamespace(desc=lambda: "no importer for LSTM")

        self.Logger, self.Builder, self.OnnxParser = Logger, Builder, OnnxParser
        self.MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")
        self.BuilderFlag = types.SimpleNamespace(FP16="FP16", TF32="TF32")


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.delitem(sys.modules, "export.tensorrt.package", raising=False)
    monkeypatch.delattr("export.tensorrt.package", raising=False)
    return fake


def test_the_package_builds_with_the_settings_of_trtexec(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    from export.tensorrt.package import TensorRTPackage

    config = TensorRTConfig(batch=(1, 2, 4), workspace_mib=2)
    engine = tmp_path / "model.plan"
    TensorRTPackage().build(tmp_path / "step.onnx", engine, step_shapes(config, layers=2, hidden=3), config)
    assert engine.read_bytes() == b"engine"
    assert tensorrt.calls == [
        ("parse", str(tmp_path / "step.onnx")),
        ("workspace", 2 * 2**20),
        ("clear", "TF32"),
        ("shape", "features", (1, F), (2, F), (4, F)),
        ("shape", "hidden_state", (1, 2, 3), (2, 2, 3), (4, 2, 3)),
        ("shape", "cell_state", (1, 2, 3), (2, 2, 3), (4, 2, 3)),
        ("profile",),
    ]


def test_the_package_treats_precision_and_errors_as_trtexec_does(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    from export.tensorrt.package import TensorRTPackage

    builder, shapes = TensorRTPackage(), whole_shapes(TensorRTConfig())
    builder.build(tmp_path / "g", tmp_path / "e", shapes, TensorRTConfig(fp16=True))
    assert ("set", "FP16") in tensorrt.calls
    assert ("clear", "TF32") not in tensorrt.calls
    with pytest.raises(ExportError, match=r"TensorRT 10\.16\.2 has no flag INT8"):
        builder.build(tmp_path / "g", tmp_path / "e", shapes, TensorRTConfig(int8=True))
    tensorrt.parses = False
    with pytest.raises(ExportError, match="cannot read the graph: no importer for LSTM"):
        builder.build(tmp_path / "g", tmp_path / "e", shapes, TensorRTConfig())


def test_the_package_is_used_if_there_is_no_trtexec(
    gpu: Callable[..., Path],
    tensorrt: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    graphs: tuple[Path, Path],
    config: TensorRTConfig,
    tmp_path: Path,
) -> None:
    from export.tensorrt import package

    class Loaded(package.PackageSession):
        def _load(self, path: Path) -> bytes:
            return path.read_bytes()

    tensorrt.Runtime = lambda _: None
    monkeypatch.setattr(engines, "find_trtexec", lambda: None)
    monkeypatch.setattr(engines, "_has_package", lambda: True)
    monkeypatch.setattr(package, "PackageSession", Loaded)
    assert missing() is None
    assert isinstance(build(*graphs, folder(tmp_path), config), Loaded)
    assert (tmp_path / "version" / SPEC.step_file).read_bytes() == b"engine"
