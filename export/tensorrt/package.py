"""TensorRT through its Python package, on a machine without trtexec; buffers are PyTorch's on the GPU."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from export.tensorrt.config import TensorRTConfig
from export.tensorrt.session import EngineSession
from reentry.errors import ExportError

trt: Any = importlib.import_module("tensorrt")  # without types, and on no machine but one with a GPU
Array = npt.NDArray[Any]


def version() -> str:
    """TensorRT's."""
    return str(trt.__version__)


def build_engine(graph: Path, engine: Path, shapes: Sequence[str], config: TensorRTConfig) -> None:
    """Build `engine` from the ONNX file `graph` with one profile, `shapes` at least, best and most.

    Raises:
        ExportError: the parser's first error, or that the build failed.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise ExportError(f"TensorRT cannot read the graph: {parser.get_error(0).desc()}", where=str(graph))
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_mib * 2**20)
    wanted = [name for name, on in (("FP16", config.fp16), ("INT8", config.int8)) if on]
    for name in wanted:
        if not hasattr(trt.BuilderFlag, name):
            raise ExportError(
                f"TensorRT {version()} has no flag {name}: precision is the graph's own",
                where=str(graph),
                fix=f"leave {name.lower()} out, and give it a graph of that precision",
            )
        settings.set_flag(getattr(trt.BuilderFlag, name))
    if not wanted:
        settings.clear_flag(trt.BuilderFlag.TF32)  # rounds like half precision, and is on by default
    profile = builder.create_optimization_profile()
    by_name = [dict(part.split(":") for part in shape.split(",")) for shape in shapes]
    for name in by_name[0]:
        profile.set_shape(name, *(tuple(map(int, shape[name].split("x"))) for shape in by_name))
    settings.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise ExportError("TensorRT built no engine; its reason is above", where=str(graph))
    engine.write_bytes(bytes(plan))


class PackageSession(EngineSession):
    """Engines on the first GPU of this process."""

    def __init__(self, whole: Path, step: Path) -> None:
        super().__init__(whole, step)
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engines = {path: self._load(path) for path in (whole, step)}

    def _load(self, path: Path) -> Any:
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise ExportError("TensorRT cannot load the engine; its reason is above", where=str(path))
        return engine

    def _call(self, engine: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
        loaded = self._engines[engine]
        context = loaded.create_execution_context()
        buffers = {name: torch.from_numpy(array).cuda() for name, array in inputs.items()}
        for name, tensor in buffers.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise ExportError(f"the engine does not take {name} of shape {tuple(tensor.shape)}")
        outputs = {}
        for name in (loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)):
            if name not in buffers:
                dtype = torch.int64 if loaded.get_tensor_dtype(name) == trt.int64 else torch.float32
                outputs[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")
        for name, tensor in (buffers | outputs).items():
            context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise ExportError("TensorRT cannot run the engine; its reason is above")
        stream.synchronize()
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
