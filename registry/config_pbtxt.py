"""reentry_lstm/config.pbtxt: written so that it serves one version, and held against what a running server says.

Only the fields that change are written anew; comments and order of the others stay as their author left them. What is
written is parsed again by Triton's own protobuf and has to be exactly what was meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from reentry.errors import RepositoryError
from registry.formats import FormatSpec

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_DEFAULT_FILES: Final = {"onnxruntime": "model.onnx", "python": "model.py", "tensorrt": "model.plan"}
"""What a backend loads where default_model_filename says nothing."""

_FITTED: Final = ("instance_group", "parameters.intra_op_thread_count")
"""What `reentry serve` fits to the cores of its machine."""

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)|(?P<open>[{\[<])|(?P<close>[}\]>])|(?P<mark>[:,;])"""
    r"""|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<word>[^\s{}\[\]<>:,;"'\#]+)""",
)


def read(text: str, *, where: str = "config.pbtxt") -> ModelConfig:
    """Parse a configuration.

    Raises:
        RepositoryError: line and column of what is wrong.
    """
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    config = ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise RepositoryError(
            f"cannot read this model configuration: {error}", where=where, fix="git checkout it, and promote again"
        ) from None
    return config


def pinned(text: str, *, version: int, spec: FormatSpec, gpu: bool = False) -> str:
    """The text of config.pbtxt that serves `version`, a version of the format `spec`, and no other.

    Args:
        text: as it is now.
        version: the one version to serve.
        spec: its format, which decides backend and file.
        gpu: run the instances on GPUs; fp16 and TensorRT do so in any case.

    Raises:
        RepositoryError: the text is no configuration, or the format is not served.
    """
    if spec.backend is None:
        raise RepositoryError(f"a version of format {spec.format} is a reference and is not served")
    config = read(text)
    wanted = _copy(config)
    wanted.version_policy.Clear()
    wanted.version_policy.specific.versions.append(version)
    wanted.platform = ""  # the older way to say the backend
    wanted.backend = spec.backend
    # The C++ onnxruntime backend is served by file name as well; a name that is the default is left unsaid there.
    wanted.default_model_filename = "" if spec.whole_file == "model.onnx" else spec.whole_file
    on_gpu = gpu or spec.backend == "tensorrt" or spec.precision == "fp16"
    for group in wanted.instance_group or [wanted.instance_group.add()]:
        group.kind = group.KIND_GPU if on_gpu else group.KIND_CPU
        if not on_gpu:
            del group.gpus[:]
    if not on_gpu or spec.backend == "tensorrt":
        _clear_accelerators(wanted)
    return rewritten(text, wanted)


def rewritten(text: str, wanted: ModelConfig) -> str:
    """The text changed so that it parses to `wanted`; fields that mean the same keep their words and comments."""
    from google.protobuf import text_format

    config = read(text)
    names = [field.name for field in config.DESCRIPTOR.fields]
    changed = [name for name in names if _only(config, name) != _only(wanted, name)]
    result = text
    for name in changed:
        result = _with_field(result, name, text_format.MessageToString(_only(wanted, name), as_one_line=True).strip())
    try:
        meant = read(result) == wanted
    except RepositoryError:
        meant = False
    # Where the scanner does not know a way of writing, comments are lost rather than settings.
    return result if meant else text_format.MessageToString(wanted)


def differences(file: str, server: str | Mapping[str, Any]) -> list[str]:
    """How the configuration that a server runs by differs from the file, one line each.

    What the server fills in where the file says nothing is no difference. What `reentry serve` fits to its machine is
    one, and is called so.

    Args:
        file: text of config.pbtxt.
        server: the answer of GET /v2/models/NAME/config.

    Raises:
        RepositoryError: the file or the answer is no configuration.
    """
    from google.protobuf import json_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    expected = _copy(read(file))
    got = ModelConfig()
    try:
        json_format.ParseDict(
            json.loads(server) if isinstance(server, str) else dict(server), got, ignore_unknown_fields=True
        )
    except (ValueError, TypeError, json_format.ParseError) as error:
        raise RepositoryError(f"the server's answer is no model configuration: {error}") from None
    _fill_in(expected, got)
    lines = []
    for path, in_file, in_server in _leaves(expected, got):
        fitted = " (fitted to its machine by `reentry serve`)" if path.startswith(_FITTED) else ""
        lines.append(f"{path}: {in_file} in the file, {in_server} in the server{fitted}")
    return lines


def _fill_in(expected: ModelConfig, got: ModelConfig) -> None:
    """Say in both what Triton makes of a field that the file leaves out."""
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
    for mine, theirs in zip(expected.instance_group, got.instance_group, strict=False):
        if not mine.name:
            theirs.name = ""
        if mine.kind == mine.KIND_AUTO:  # resolved by the server to what its machine has
            mine.kind = theirs.kind
        if not mine.gpus and mine.kind == mine.KIND_GPU:  # every GPU of its machine
            del theirs.gpus[:]


def _leaves(expected: ModelConfig, got: ModelConfig) -> Iterator[tuple[str, str, str]]:
    """Path, value of the file and value of the server, of each leaf in which they differ, in the protobuf's order."""
    mine, theirs = dict(_flat(expected)), dict(_flat(got))
    for path in [*mine, *(path for path in theirs if path not in mine)]:
        if mine.get(path) != theirs.get(path):
            yield path, mine.get(path, "nothing"), theirs.get(path, "nothing")


def _flat(message: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            for key in sorted(value):
                item = value[key]
                if hasattr(item, "ListFields"):
                    yield from _flat(item, f"{path}.{key}.")
                else:
                    yield f"{path}.{key}", str(item)
        elif entry is not None and field.label == field.LABEL_REPEATED:
            for index, item in enumerate(value):
                yield from _flat(item, f"{path}[{index}].")
        elif entry is not None:
            yield from _flat(value, f"{path}.")
        elif field.label == field.LABEL_REPEATED:
            yield path, str(list(value))
        elif field.enum_type is not None:
            yield path, field.enum_type.values_by_number[value].name
        else:
            yield path, str(value)


def _copy(config: ModelConfig) -> ModelConfig:
    copy = type(config)()
    copy.CopyFrom(config)
    return copy


def _only(config: ModelConfig, name: str) -> ModelConfig:
    """The configuration with that one field."""
    copy = _copy(config)
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
    """The text with `new` in place of the top-level field `name`; after the backend where there is none yet."""
    spans = [span for found, span in _top_level(text) if found == name]
    if not spans:
        backend = [span for found, span in _top_level(text) if found == "backend"]
        at = backend[0].stop if backend else len(text.rstrip())
        return f"{text[:at]}\n{new}{text[at:]}" if new else text
    for span in reversed(spans[1:]):
        text = _without(text, span)
    return text[: spans[0].start] + new + text[spans[0].stop :] if new else _without(text, spans[0])


def _without(text: str, span: slice) -> str:
    """Cut the span out, with its line where nothing else is on it."""
    before, after = text[: span.start], text[span.stop :]
    if not before.rpartition("\n")[2].strip() and not after.partition("\n")[0].strip():
        return before[: before.rfind("\n") + 1] + after.partition("\n")[2]
    return before + after


def _top_level(text: str) -> list[tuple[str, slice]]:
    """Name and place of each field outside of all brackets, in order."""
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
            if fields and fields[-1][1].start == start:  # adjoining strings are one value
                fields[-1] = (name, span)
            else:
                fields.append((name, span))
    return fields
