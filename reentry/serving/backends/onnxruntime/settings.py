"""What the embedded `onnxruntime` backend honours of a configuration, and what it refuses by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import onnxruntime


class SettingError(Exception):
    """A setting that would be ignored, or cannot be on this machine."""


_GRAPH_LEVELS: Final = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""As the C++ backend reads `optimization { graph { level } }`; 0 is what an unset level arrives as."""


class Parameter(NamedTuple):
    """One of the C++ backend's `parameters`."""

    pattern: str
    expected: str
    apply: Callable[[Any, str], object]


def _is_true(value: str) -> bool:
    return value.lower() in ("1", "true")


_BOOL: Final = "(?i:0|1|true|false)"

_ARENA_SHRINKAGE: Final = "memory.enable_memory_arena_shrinkage"
_DEVICE_ALLOCATOR: Final = "session.use_device_allocator_for_initializers"

_PARAMETERS: Final = {
    "intra_op_thread_count": Parameter(
        r"\d+", "a count, 0 for all cores", lambda options, value: setattr(options, "intra_op_num_threads", int(value))
    ),
    "inter_op_thread_count": Parameter(
        r"\d+", "a count, 0 for all cores", lambda options, value: setattr(options, "inter_op_num_threads", int(value))
    ),
    "execution_mode": Parameter(
        "[01]",
        "0, sequential, or 1, parallel",
        lambda options, value: setattr(
            options,
            "execution_mode",
            onnxruntime.ExecutionMode.ORT_PARALLEL if value == "1" else onnxruntime.ExecutionMode.ORT_SEQUENTIAL,
        ),
    ),
    "enable_mem_arena": Parameter(
        _BOOL, "0 or 1", lambda options, value: setattr(options, "enable_cpu_mem_arena", _is_true(value))
    ),
    "enable_mem_pattern": Parameter(
        _BOOL, "0 or 1", lambda options, value: setattr(options, "enable_mem_pattern", _is_true(value))
    ),
    _DEVICE_ALLOCATOR: Parameter(
        "[01]", "0 or 1", lambda options, value: options.add_session_config_entry(_DEVICE_ALLOCATOR, value)
    ),
    # An option of each run, not of the session.
    _ARENA_SHRINKAGE: Parameter(r"((cpu|gpu):\d+;?)+", "devices as cpu:0;gpu:0", lambda *_: None),
    "share_session_between_instances": Parameter(
        "(?i:0|false)", "false: instances are processes of their own", lambda *_: None
    ),
}
"""What is honoured of the C++ backend's parameters."""

_HONOURED: Final = (
    "version_policy",
    "instance_group of KIND_CPU, KIND_GPU and KIND_AUTO",
    "dynamic_batching",
    "model_warmup",
    "default_model_filename",
    "optimization.graph.level",
)
"""Of the rest of a configuration, that which a reader may wonder about."""

_UNHONOURED_OF_EACH: Final = {
    "input": ("allow_ragged_batch", "optional", "reshape", "is_shape_tensor", "is_non_linear_format_io"),
    "output": ("reshape", "is_shape_tensor", "is_non_linear_format_io"),
    "instance_group": ("profile", "secondary_devices", "host_policy"),
}
"""Settings of each input, output or instance group that would be ignored."""

_DEFAULT_PRIORITY: Final = "PRIORITY_DEFAULT"
_NO_FORMAT: Final = "FORMAT_NONE"

CPU: Final = ["CPUExecutionProvider"]
CUDA: Final = "CUDAExecutionProvider"


def refuse_unhonoured(config: dict[str, Any]) -> None:
    """Raise SettingError for the first setting that would be ignored or cannot be."""
    optimization = config.get("optimization", {})
    unhonoured = {
        "sequence_batching": config.get("sequence_batching"),
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
    for part, settings in _UNHONOURED_OF_EACH.items():
        for setting in settings:
            unhonoured[f"{part}.{setting}"] = any(each.get(setting) for each in config.get(part, []))
    for setting, value in unhonoured.items():
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
    """Where an instance runs; `device` is the GPU's number. KIND_AUTO is a GPU where onnxruntime can use one.

    Raises:
        SettingError: an instance is wanted on a GPU that onnxruntime cannot use.
    """
    available = onnxruntime.get_available_providers()
    if kind == "CPU" or (kind == "AUTO" and CUDA not in available):
        return CPU
    if kind not in ("GPU", "AUTO"):
        raise _unsupported(f"an instance_group of KIND_{kind}")
    if CUDA not in available:
        raise SettingError(
            f"an instance_group of KIND_GPU needs onnxruntime's {CUDA}; this one has {', '.join(available)}: "
            "install onnxruntime-gpu in place of onnxruntime (the extra `gpu`), or take KIND_CPU"
        )
    return [(CUDA, {"device_id": device}), *CPU]


def open_session(path: Path, config: dict[str, Any], where: list[Any]) -> onnxruntime.InferenceSession:
    """The graph as the configuration wants it run, on the `providers` of its instance.

    Raises:
        SettingError: there is no file, or this machine cannot run it.
        Exception: of onnxruntime, where the file is no graph.
    """
    if not path.is_file():
        raise SettingError(f"there is no file {path}")
    if where == CPU:
        _refuse_half_precision(path)
    session = onnxruntime.InferenceSession(path, _session_options(config), providers=where)
    if where != CPU and CUDA not in session.get_providers():  # onnxruntime goes on with the CPU then
        raise SettingError(
            f"onnxruntime's {CUDA} does not start on this machine: install the CUDA and cuDNN that it was built for, "
            "or take KIND_CPU"
        )
    return session


def _refuse_half_precision(path: Path) -> None:
    """Raise SettingError for a version that says it is half precision.

    onnxruntime optimises such an LSTM on a CPU with a crash, which would take the instance along without a word.
    """
    manifest = path.with_name("manifest.json")
    try:
        precision = json.loads(manifest.read_text()).get("precision")
    except (OSError, ValueError, AttributeError):  # of another program, which makes what it likes
        return
    if precision == "fp16":
        raise SettingError(
            f"{path} is half precision, which onnxruntime runs on a GPU alone: take an instance_group of KIND_GPU with "
            "onnxruntime-gpu, or promote a version of another format"
        )


def _session_options(config: dict[str, Any]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _GRAPH_LEVELS[_graph_level(config)]
    # Instances share the cores: a thread that spins for work would take them from the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, parameter in config["parameters"].items():
        _PARAMETERS[name].apply(options, parameter["string_value"])
    return options


def run_options(config: dict[str, Any]) -> onnxruntime.RunOptions | None:
    """Options of each run, where the configuration has any."""
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
        f"Honoured: {', '.join(_HONOURED)}; parameters {', '.join(_PARAMETERS)}"
    )
