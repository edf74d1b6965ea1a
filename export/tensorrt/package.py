"""TensorRT through its Python package, for a machine without trtexec. PyTorch allocates the GPU buffers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from export.sessions import Array, NamedTensorSession
from export.tensorrt.config import TensorRTConfig
from reentry.errors import ExportError

trt: Any = importlib.import_module("tensorrt")  # it has no type stubs, and is installed on GPU machines alone


class TensorRTPackage:
    """The `tensorrt` package as an `EngineBuilder`."""

    def __init__(self) -> None:
        self.version = str(trt.__version__)

    def build(self, graph: Path, engine: Path, shapes: Sequence[str], config: TensorRTConfig) -> None:
        """See `EngineBuilder.build`."""
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(graph)):
            raise ExportError(f"TensorRT cannot read the graph: {parser.get_error(0).desc()}", where=str(graph))
        settings = builder.create_builder_config()
        settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_mib * 2**20)
        precisions = [name for name, enabled in (("FP16", config.fp16), ("INT8", config.int8)) if enabled]
        for name in precisions:
            if not hasattr(trt.BuilderFlag, name):
                raise ExportError(
                    f"TensorRT {self.version} has no flag {name}; it takes the precision from the graph",
                    where=str(graph),
                    fix=f"omit {name.lower()}, and build from a graph of that precision",
                )
            settings.set_flag(getattr(trt.BuilderFlag, name))
        if not precisions:
            settings.clear_flag(trt.BuilderFlag.TF32)  # TF32 is on by default and rounds like half precision
        profile = builder.create_optimization_profile()
        by_name = [dict(tensor.split(":") for tensor in shape.split(",")) for shape in shapes]
        for name in by_name[0]:
            profile.set_shape(name, *(tuple(map(int, shape[name].split("x"))) for shape in by_name))
        settings.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, settings)
        if plan is None:
            raise ExportError("TensorRT built no engine; see its log above", where=str(graph))
        engine.write_bytes(bytes(plan))

    def load(self, whole: Path, step: Path) -> PackageSession:
        """See `EngineBuilder.load`."""
        return PackageSession(whole, step)


class PackageSession(NamedTensorSession):
    """Both engines of a version, on the first GPU of this process."""

    def __init__(self, whole: Path, step: Path) -> None:
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        super().__init__(self._load(whole), self._load(step))

    def _load(self, path: Path) -> Any:
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise ExportError("TensorRT cannot load the engine; see its log above", where=str(path))
        return engine

    def _run(self, graph: Any, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        context = graph.create_execution_context()
        buffers = {name: torch.from_numpy(array).cuda() for name, array in inputs.items()}
        for name, tensor in buffers.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise ExportError(f"engine rejects shape {tuple(tensor.shape)} of input {name}")
        for name in outputs:
            dtype = torch.int64 if graph.get_tensor_dtype(name) == trt.int64 else torch.float32
            buffers[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")
        for name, tensor in buffers.items():
            context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise ExportError("TensorRT cannot run the engine; see its log above")
        stream.synchronize()
        return [buffers[name].cpu().numpy() for name in outputs]
