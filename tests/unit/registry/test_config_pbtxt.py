"""config.pbtxt is pinned to a version, and compared with the configuration of a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reentry.errors import RepositoryError
from registry import config_pbtxt
from registry.config_pbtxt import differences, pinned, read, rewritten
from registry.formats import FORMATS, Format
from tests.contract.manifests import K8S

FILE = (Path(__file__).parents[3] / "model_repository/reentry_lstm/config.pbtxt").read_text()


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip().startswith("#")]


@pytest.mark.parametrize(
    ("form", "gpu", "backend", "file", "kind"),
    [
        (Format.ONNX, False, "onnxruntime", "", "KIND_CPU"),
        (Format.ONNX, True, "onnxruntime", "", "KIND_GPU"),
        (Format.ONNX_INT8, False, "onnxruntime", "", "KIND_CPU"),
        (Format.ONNX_FP16, False, "onnxruntime", "", "KIND_GPU"),
        (Format.TENSORRT, False, "tensorrt", "model.plan", "KIND_GPU"),
    ],
)
def test_a_version_is_pinned_with_the_backend_file_and_processor_of_its_format(
    form: Format, gpu: bool, backend: str, file: str, kind: str
) -> None:
    text = pinned(FILE, version=7, spec=FORMATS[form], gpu=gpu)
    config = read(text)
    assert list(config.version_policy.specific.versions) == [7]
    assert (config.backend, config.default_model_filename) == (backend, file)
    assert [(config.instance_group[0].Kind.Name(group.kind), group.count) for group in config.instance_group] == [
        (kind, 3)
    ]
    # Nothing else has changed, and every comment is still there.
    expected = read(FILE)
    for name in ("version_policy", "backend", "default_model_filename", "instance_group"):
        config.ClearField(name)
        expected.ClearField(name)
    assert config == expected
    assert comments(text) == comments(FILE)


def test_pinning_the_pinned_version_changes_nothing() -> None:
    (version,) = read(FILE).version_policy.specific.versions
    assert pinned(FILE, version=version, spec=FORMATS[Format.ONNX]) == FILE


def test_a_change_to_tensorrt_and_back_gives_the_same_configuration() -> None:
    there = pinned(FILE, version=3, spec=FORMATS[Format.TENSORRT])
    back = pinned(there, version=1, spec=FORMATS[Format.ONNX])
    assert read(back) == read(pinned(FILE, version=1, spec=FORMATS[Format.ONNX]))
    assert comments(back) == comments(FILE)


def test_a_reference_format_cannot_be_pinned() -> None:
    with pytest.raises(RepositoryError, match="torchscript is only a reference and is not served"):
        pinned(FILE, version=1, spec=FORMATS[Format.TORCHSCRIPT])


def test_the_error_for_an_invalid_file_has_line_and_column() -> None:
    with pytest.raises(RepositoryError, match=r"cannot read this model configuration: 2:1 .*no_such_field"):
        pinned('name: "x"\nno_such_field: 1\n', version=1, spec=FORMATS[Format.ONNX])


@pytest.mark.parametrize(
    "text",
    [
        'name: "x" backend: "onnxruntime" version_policy { latest { num_versions: 2 } } max_batch_size: 4',
        'name: "x"\nbackend: "onnx"\n  "runtime"  # in two parts\n',
        "name: 'x'\nplatform: 'onnxruntime_onnx'\n# version_policy { all {} }\n",
        'version_policy: { latest: { num_versions: 2 } };\nname: "} version_policy {"\nbackend: "onnxruntime"',
        'name: "x"\nbackend: "onnxruntime"\ninstance_group < kind: KIND_CPU >\ninstance_group [ { count: 3 } ]\n',
        'backend: "onnxruntime"\ninstance_group { kind: KIND_GPU gpus: [ 0, 1 ] }\nversion_policy { all { } }',
        "",
    ],
)
@pytest.mark.parametrize("form", [Format.ONNX, Format.TENSORRT])
def test_pinning_gives_the_intended_configuration_for_every_notation(text: str, form: Format) -> None:
    config = read(pinned(text, version=5, spec=FORMATS[form]))
    assert list(config.version_policy.specific.versions) == [5]
    assert config.backend == FORMATS[form].backend
    assert config.platform == ""
    assert config.name == read(text).name
    kind = config.instance_group[0].KIND_GPU if form is Format.TENSORRT else config.instance_group[0].KIND_CPU
    assert {group.kind for group in config.instance_group} == {kind}
    assert kind == config.instance_group[0].KIND_GPU or not any(group.gpus for group in config.instance_group)


@pytest.mark.parametrize("edited", ["max_batch_size: 1", "{ no configuration"])
def test_a_wrong_text_edit_is_never_used(edited: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_pbtxt, "_with_field", lambda *_: edited)
    target = read(FILE)
    target.max_batch_size = 8
    assert read(rewritten(FILE, target)) == target


@pytest.mark.parametrize("form", [Format.ONNX, Format.TENSORRT])
def test_the_accelerator_is_removed_where_it_has_no_effect(form: Format) -> None:
    text = FILE + (K8S / "tensorrt/accelerator/accelerator.pbtxt").read_text()
    assert not read(pinned(text, version=1, spec=FORMATS[form])).HasField("optimization")
    kept = read(pinned(text, version=1, spec=FORMATS[Format.ONNX], gpu=True))
    assert kept.optimization == read(text).optimization


def answer(**changes: object) -> dict[str, object]:
    """Triton 2.51's answer for `SMALL`, with its defaults; an integration test compares with the real server."""
    return {
        "name": "x",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "runtime": "model.py",
        "version_policy": {"specific": {"versions": ["2"]}},
        "max_batch_size": 8,
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
        },
        "dynamic_batching": {"preferred_batch_size": [8], "max_queue_delay_microseconds": 0},
        "instance_group": [{"name": "x_0", "kind": "KIND_CPU", "count": 1, "gpus": [], "profile": []}],
        "default_model_filename": "model.onnx",
        "a_field_of_a_later_release": 1,
        **changes,
    }


SMALL = """
name: "x" backend: "onnxruntime" max_batch_size: 8 dynamic_batching { }
version_policy { specific { versions: [ 2 ] } }
instance_group [ { kind: KIND_CPU } ]
"""


def test_defaults_of_the_server_are_not_differences() -> None:
    assert differences(SMALL, answer()) == []
    assert differences(SMALL, json.dumps(answer())) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"version_policy": {"specific": {"versions": ["1"]}}},
            ["version_policy.specific.versions: [2] in the file, [1] in the server"],
        ),
        ({"max_batch_size": 4}, ["max_batch_size: 8 in the file, 4 in the server"]),
        (
            {"instance_group": [{"name": "x_0", "kind": "KIND_CPU", "count": 3}]},
            ["instance_group[0].count: 1 in the file, 3 in the server (fitted to its machine by `reentry serve`)"],
        ),
        (
            {"parameters": {"intra_op_thread_count": {"string_value": "4"}, "other": {"string_value": "1"}}},
            [
                "parameters.intra_op_thread_count.string_value: nothing in the file, 4 in the server"
                " (fitted to its machine by `reentry serve`)",
                "parameters.other.string_value: nothing in the file, 1 in the server",
            ],
        ),
        ({"backend": "tensorrt"}, ["backend: onnxruntime in the file, tensorrt in the server"]),
        (
            {"input": [{"name": "features", "data_type": "TYPE_FP32", "dims": ["-1", "7"]}]},
            [
                "input[0].name: nothing in the file, features in the server",
                "input[0].data_type: nothing in the file, TYPE_FP32 in the server",
                "input[0].dims: nothing in the file, [-1, 7] in the server",
            ],
        ),
    ],
)
def test_each_meaningful_difference_has_a_line(changes: dict[str, object], expected: list[str]) -> None:
    assert differences(SMALL, answer(**changes)) == expected


@pytest.mark.parametrize("text", ["no JSON", '{"max_batch_size": "many"}'])
def test_an_answer_that_is_not_a_configuration_is_an_error(text: str) -> None:
    with pytest.raises(RepositoryError, match="the server's answer is not a model configuration"):
        differences(SMALL, text)
