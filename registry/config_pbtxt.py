"""A model's config.pbtxt: pinned to one version, and compared with the configuration of a running server.

Only the fields that change are rewritten; the comments and the order of the others stay. The result is parsed again
with Triton's own protobuf and must equal the intended configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

from reentry.errors import RepositoryError
from registry.formats import FormatSpec

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_DEFAULT_FILES: Final = {"onnxruntime": "model.onnx", "python": "model.py", "tensorrt": "model.plan"}
"""File that a backend loads if default_model_filename is not set."""

_FITTED: Final = ("instance_group", "parameters.intra_op_thread_count")
"""Settings that `reentry serve` adapts to the cores of its machine."""

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)|(?P<open>[{\[<])|(?P<close>[}\]>])|(?P<mark>[:,;])"""
    r"""|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<word>[^\s{}\[\]<>:,;"'\#]+)""",
)


def read(text: str, *, where: str = "config.pbtxt") -> ModelConfig:
    """Parse a configuration.

    Raises:
        RepositoryError: the text is invalid; the message has line and column.
    """
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    config = ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise RepositoryError(
            f"cannot read this model configuration: {error}",
            where=where,
            fix="restore the file with git checkout, and promote again",
        ) from None
    return config


def as_json(text: str) -> str:
    """Return the text of a config.pbtxt as JSON, in which Triton's load request takes it."""
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(read(text), preserving_proto_field_name=True)


def pinned(text: str, *, version: int, spec: FormatSpec, gpu: bool = False) -> str:
    """Return the text of config.pbtxt changed so that it serves one version only.

    Args:
        text: the current text.
        version: the version to serve.
        spec: the format of the version, which determines backend and file name.
        gpu: run the instances on GPUs; fp16 and TensorRT always do.

    Raises:
        RepositoryError: the text is not a configuration, or the format is not served.
    """
    if spec.backend is None:
        raise RepositoryError(f"format {spec.format} is only a reference and is not served")
    config = read(text)
    target = deepcopy(config)
    target.version_policy.Clear()
    target.version_policy.specific.versions.append(version)
    target.platform = ""  # the older name of the backend
    target.backend = spec.backend
    # model.onnx is the backend's default and needs no entry.
    target.default_model_filename = "" if spec.whole_file == "model.onnx" else spec.whole_file
    on_gpu = gpu or spec.backend == "tensorrt" or spec.precision == "fp16"
    for group in target.instance_group or [target.instance_group.add()]:
        group.kind = group.KIND_GPU if on_gpu else group.KIND_CPU
        if not on_gpu:
            del group.gpus[:]
    if not on_gpu or spec.backend == "tensorrt":
        _clear_accelerators(target)
    return rewritten(text, target)


def rewritten(text: str, target: ModelConfig) -> str:
    """Return the text changed so that it parses to `target`; fields that are equal keep their text and comments."""
    from google.protobuf import text_format

    config = read(text)
    names = [field.name for field in config.DESCRIPTOR.fields]
    changed = [name for name in names if _only(config, name) != _only(target, name)]
    result = text
    for name in changed:
        result = _with_field(result, name, text_format.MessageToString(_only(target, name), as_one_line=True).strip())
    try:
        correct = read(result) == target
    except RepositoryError:
        correct = False
    # If the scanner does not understand the text, comments are lost rather than settings.
    return result if correct else text_format.MessageToString(target)


def pinned_versions(text: str) -> list[int]:
    """Return the versions that the text of a config.pbtxt pins."""
    return list(read(text).version_policy.specific.versions)


def on_gpu(text: str) -> bool:
    """Return whether the text of a config.pbtxt runs the model on GPUs."""
    return any(group.kind == group.KIND_GPU for group in read(text).instance_group)


def differences(file: str, server: str | Mapping[str, Any]) -> list[str]:
    """List the differences between config.pbtxt and the configuration of a running server, one line each.

    Defaults that the server fills in are not differences. Settings that `reentry serve` adapts to its machine are
    differences, and are marked.

    Args:
        file: the text of config.pbtxt.
        server: the server's answer to GET /v2/models/NAME/config.

    Raises:
        RepositoryError: the file or the answer is not a configuration.
    """
    from google.protobuf import json_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    expected = read(file)
    got = ModelConfig()
    try:
        json_format.ParseDict(
            json.loads(server) if isinstance(server, str) else dict(server), got, ignore_unknown_fields=True
        )
    except (ValueError, TypeError, json_format.ParseError) as error:
        raise RepositoryError(f"the server's answer is not a model configuration: {error}") from None
    _fill_in(expected, got)
    in_file, in_server = dict(_flat(expected)), dict(_flat(got))
    lines = []
    for path in in_file | in_server:  # in the protobuf's order
        one, other = in_file.get(path, "nothing"), in_server.get(path, "nothing")
        if one != other:
            fitted = " (fitted to its machine by `reentry serve`)" if path.startswith(_FITTED) else ""
            lines.append(f"{path}: {one} in the file, {other} in the server{fitted}")
    return lines


def _fill_in(expected: ModelConfig, got: ModelConfig) -> None:
    """Fill the defaults that Triton uses for missing fields into both configurations."""
    backend = expected.backend or got.backend
    if not expected.platform:
        got.platform = ""
    if not expected.runtime:
        got.runtime = ""
    for config in (expected, got):
        if not config.default_model_filename:
            config.default_model_filename = _DEFAULT_FILES.get(backend, "")
        if not config.version_policy.ListFields():
            config.version_policy.latest.num_versions = 1
        optimization = config.optimization
        for memory in (optimization.input_pinned_memory, optimization.output_pinned_memory):
            if not memory.ListFields():
                memory.enable = True
        if not optimization.graph.ListFields():
            optimization.ClearField("graph")
        if config.HasField("dynamic_batching") and not config.dynamic_batching.preferred_batch_size:
            config.dynamic_batching.preferred_batch_size.append(config.max_batch_size)
        if not config.instance_group:
            config.instance_group.add()
        for group in config.instance_group:
            group.count = group.count or 1
    for file_group, server_group in zip(expected.instance_group, got.instance_group, strict=False):
        if not file_group.name:
            server_group.name = ""
        if file_group.kind == file_group.KIND_AUTO:  # the server chose the processor
            file_group.kind = server_group.kind
        if not file_group.gpus and file_group.kind == file_group.KIND_GPU:  # the server lists every GPU of its machine
            del server_group.gpus[:]


def _flat(message: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the value of each field that is set, those of nested messages included."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        repeated, kind = field.label == field.LABEL_REPEATED, field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            items = [(f"{path}.{key}", value[key]) for key in sorted(value)]
        elif kind is not None and repeated:
            items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        elif field.enum_type is not None and not repeated:
            items = [(path, field.enum_type.values_by_number[value].name)]
        else:
            items = [(path, list(value) if repeated else value)]
        for place, item in items:
            if hasattr(item, "ListFields"):
                yield from _flat(item, f"{place}.")
            else:
                yield place, str(item)


def _only(config: ModelConfig, name: str) -> ModelConfig:
    """Return the configuration reduced to one field."""
    copy = deepcopy(config)
    for field, _ in config.ListFields():
        if field.name != name:
            copy.ClearField(field.name)
    return copy


def _clear_accelerators(config: ModelConfig) -> None:
    optimization = config.optimization
    optimization.execution_accelerators.ClearField("gpu_execution_accelerator")
    if not optimization.execution_accelerators.ListFields():
        optimization.ClearField("execution_accelerators")
    if not optimization.ListFields():
        config.ClearField("optimization")


def _with_field(text: str, name: str, new: str) -> str:
    """Replace the top-level field `name` by the text `new`; add a missing field after the backend."""
    spans = [span for found, span in _top_level(text) if found == name]
    if not spans:
        backend = [span for found, span in _top_level(text) if found == "backend"]
        at = backend[0].stop if backend else len(text.rstrip())
        return f"{text[:at]}\n{new}{text[at:]}" if new else text
    for span in reversed(spans[1:]):
        text = _without(text, span)
    return text[: spans[0].start] + new + text[spans[0].stop :] if new else _without(text, spans[0])


def _without(text: str, span: slice) -> str:
    """Cut out a span, and its line if nothing else is on it."""
    before, after = text[: span.start], text[span.stop :]
    if not before.rpartition("\n")[2].strip() and not after.partition("\n")[0].strip():
        return before[: before.rfind("\n") + 1] + after.partition("\n")[2]
    return before + after


def _top_level(text: str) -> list[tuple[str, slice]]:
    """List the name and the span of each field outside all brackets, in order."""
    fields: list[tuple[str, slice]] = []
    depth, start, name, valued = 0, -1, "", False
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "blank":
            continue
        if depth == 0 and kind == "word" and (start < 0 or valued):
            start, name, valued = token.start(), token.group(), False
            continue
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
        if depth == 0 and kind in ("close", "text", "word"):
            valued = True
            span = slice(start, token.end())
            if fields and fields[-1][1].start == start:  # adjacent strings are one value
                fields[-1] = (name, span)
            else:
                fields.append((name, span))
    return fields
