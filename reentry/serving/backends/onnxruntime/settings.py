"""Settings of a model configuration that the embedded `onnxruntime` backend supports, and those it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import onnxruntime


class SettingError(Exception):
    """A setting that this backend or this machine does not support."""


_GRAPH_LEVELS: Final = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""Meaning of `optimization { graph { level } }` in the C++ backend. An unset level arrives as 0."""


class Parameter(NamedTuple):
    """One of the `parameters` of the C++ backend."""

    pattern: str
    """Regular expression of a valid value."""
    expected: str
    """Description of a valid value."""
    apply: Callable[[Any, str], object]
    """Function that sets the value in session options."""


def _is_true(value: str) -> bool:
    return value.lower() in ("1", "true")


_BOOL: Final = "(?i:0|1|true|false)"

_ARENA_SHRINKAGE: Final = "memory.enable_memory_arena_shrinkage"
_DEVICE_ALLOCATOR: Final = "session.use_device_allocator_for_initializers"


def _option(name: str, convert: Callable[[str], object]) -> Callable[[Any, str], object]:
    """Return a function that sets one attribute of session options to a converted value."""
    return lambda options, value: setattr(options, name, convert(value))


def _execution_mode(value: str) -> onnxruntime.ExecutionMode:
    return onnxruntime.ExecutionMode.ORT_PARALLEL if value == "1" else onnxruntime.ExecutionMode.ORT_SEQUENTIAL


_PARAMETERS: Final = {
    "intra_op_thread_count": Parameter(r"\d+", "a count, 0 for all cores", _option("intra_op_num_threads", int)),
    "inter_op_thread_count": Parameter(r"\d+", "a count, 0 for all cores", _option("inter_op_num_threads", int)),
    "execution_mode": Parameter("[01]", "0, sequential, or 1, parallel", _option("execution_mode", _execution_mode)),
    "enable_mem_arena": Parameter(_BOOL, "0 or 1", _option("enable_cpu_mem_arena", _is_true)),
    "enable_mem_pattern": Parameter(_BOOL, "0 or 1", _option("enable_mem_pattern", _is_true)),
    _DEVICE_ALLOCATOR: Parameter(
        "[01]", "0 or 1", lambda options, value: options.add_session_config_entry(_DEVICE_ALLOCATOR, value)
    ),
    # An option of each run, see `run_options`.
    _ARENA_SHRINKAGE: Parameter(r"((cpu|gpu):\d+;?)+", "devices as cpu:0;gpu:0", lambda *_: None),
    "share_session_between_instances": Parameter(
        "(?i:0|false)", "false: instances are separate processes", lambda *_: None
    ),
}
"""Supported parameters of the C++ backend."""

_SUPPORTED: Final = (
    "version_policy",
    "instance_group of KIND_CPU, KIND_GPU and KIND_AUTO",
    "dynamic_batching",
    "sequence_batching of the strategy oldest",
    "model_warmup",
    "default_model_filename",
    "optimization.graph.level",
)
"""Other supported settings, for the error message."""

_UNSUPPORTED_OF_EACH: Final = {
    "input": ("allow_ragged_batch", "optional", "reshape", "is_shape_tensor", "is_non_linear_format_io"),
    "output": ("reshape", "is_shape_tensor", "is_non_linear_format_io"),
    "instance_group": ("profile", "secondary_devices", "host_policy"),
}
"""Unsupported settings of each input, output or instance group."""

_DEFAULT_PRIORITY: Final = "PRIORITY_DEFAULT"
_NO_FORMAT: Final = "FORMAT_NONE"

CPU: Final = ["CPUExecutionProvider"]
CUDA: Final = "CUDAExecutionProvider"


def refuse_unsupported(config: dict[str, Any]) -> None:
    """Raise SettingError for the first setting that is not supported or has an invalid value."""
    optimization = config.get("optimization", {})
    unsupported = {
        "model_operations": config.get("model_operations", {}).get("op_library_filename"),
        "model_transaction_policy.decoupled": config.get("model_transaction_policy", {}).get("decoupled"),
        "cc_model_filenames": config.get("cc_model_filenames"),
        "batch_input": config.get("batch_input"),
        "batch_output": config.get("batch_output"),
        "optimization.execution_accelerators": optimization.get("execution_accelerators"),
        "optimization.cuda": optimization.get("cuda"),
        "optimization.gather_kernel_buffer_threshold": int(optimization.get("gather_kernel_buffer_threshold", 0)),
        "optimization.priority": optimization.get("priority", _DEFAULT_PRIORITY) != _DEFAULT_PRIORITY,
        "input.format": any(tensor.get("format", _NO_FORMAT) != _NO_FORMAT for tensor in config["input"]),
    }
    for field, settings in _UNSUPPORTED_OF_EACH.items():
        for setting in settings:
            unsupported[f"{field}.{setting}"] = any(each.get(setting) for each in config.get(field, []))
    for setting, value in unsupported.items():
        if value:
            raise _unsupported(setting)
    for name, parameter in config["parameters"].items():
        if name not in _PARAMETERS:
            raise _unsupported(f"parameter {name}")
        pattern, expected, _ = _PARAMETERS[name]
        value = parameter["string_value"]
        if not re.fullmatch(pattern, value):
            raise SettingError(f"parameter {name}: expected {expected}. Got: {value!r}")
    if _graph_level(config) not in _GRAPH_LEVELS:
        raise SettingError(f"optimization.graph.level: expected {sorted(_GRAPH_LEVELS)}. Got: {_graph_level(config)}")


def providers(kind: str, device: str) -> list[Any]:
    """Return the execution providers of an instance. KIND_AUTO selects a GPU if onnxruntime can use one.

    Args:
        kind: kind of the instance group, without the prefix KIND_.
        device: number of the GPU.

    Raises:
        SettingError: the kind is not supported, or requires a GPU that onnxruntime cannot use.
    """
    available = onnxruntime.get_available_providers()
    if kind == "CPU" or (kind == "AUTO" and CUDA not in available):
        return CPU
    if kind not in ("GPU", "AUTO"):
        raise _unsupported(f"an instance_group of KIND_{kind}")
    if CUDA not in available:
        raise SettingError(
            f"an instance_group of KIND_GPU needs onnxruntime's {CUDA}; this one has {', '.join(available)}: "
            "install onnxruntime-gpu in place of onnxruntime (the extra `gpu`), or use KIND_CPU"
        )
    return [(CUDA, {"device_id": device}), *CPU]


def open_session(path: Path, config: dict[str, Any], where: list[Any]) -> onnxruntime.InferenceSession:
    """Open an ONNX graph with the options of its configuration.

    Args:
        path: file of the graph.
        config: configuration of the model.
        where: execution providers, see `providers`.

    Raises:
        SettingError: the file is missing, or this machine cannot run it.
        Exception: onnxruntime's error for an invalid graph.
    """
    if not path.is_file():
        raise SettingError(f"no such file: {path}")
    if where == CPU:
        _refuse_half_precision(path)
    session = onnxruntime.InferenceSession(path, _session_options(config), providers=where)
    if where != CPU and CUDA not in session.get_providers():  # onnxruntime has fallen back to the CPU
        raise SettingError(
            f"onnxruntime's {CUDA} does not start on this machine: install the CUDA and cuDNN versions that it was "
            "built for, or use KIND_CPU"
        )
    return session


def _refuse_half_precision(path: Path) -> None:
    """Raise SettingError for a version whose manifest says that it is half precision.

    On a CPU, onnxruntime crashes while it optimises such an LSTM, and ends the instance without a message.
    """
    manifest = path.with_name("manifest.json")
    try:
        precision = json.loads(manifest.read_text()).get("precision")
    except (OSError, ValueError, AttributeError):  # no manifest, or one of another program
        return
    if precision == "fp16":
        raise SettingError(
            f"{path} is half precision, which onnxruntime runs only on a GPU: use an instance_group of KIND_GPU with "
            "onnxruntime-gpu, or promote a version of another format"
        )


def _session_options(config: dict[str, Any]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _GRAPH_LEVELS[_graph_level(config)]
    # Instances share the cores. A thread that spins while it waits would take a core from the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, parameter in config["parameters"].items():
        _PARAMETERS[name].apply(options, parameter["string_value"])
    return options


def run_options(config: dict[str, Any]) -> onnxruntime.RunOptions | None:
    """Return the options of each run; None if the configuration sets none."""
    shrinkage = config["parameters"].get(_ARENA_SHRINKAGE)
    if shrinkage is None:
        return None
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(_ARENA_SHRINKAGE, shrinkage["string_value"])
    return options


def _graph_level(config: dict[str, Any]) -> int:
    return int(config.get("optimization", {}).get("graph", {}).get("level", 0))


def _unsupported(setting: str) -> SettingError:
    return SettingError(
        f"{setting} is not supported by the embedded onnxruntime backend. "
        f"Supported: {', '.join(_SUPPORTED)}; parameters {', '.join(_PARAMETERS)}"
    )
