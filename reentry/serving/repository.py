"""The model repository: what it holds, and its configurations fitted to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reentry.errors import ServerError
from reentry.serving.config import ServerConfig

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def models_of(repository: Path) -> list[str]:
    """Names of the models to load, in order: ensembles come after the models they are made of.

    Raises:
        ServerError: no repository there, a configuration that cannot be read, or a model without a version.
    """
    names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not names:
        raise ServerError(
            "no model repository",
            where=str(repository),
            expected="folders with a config.pbtxt",
            fix="name it with --repository",
        )
    for name in names:
        if not any(folder.is_dir() and folder.name.isdigit() for folder in (repository / name).iterdir()):
            raise ServerError(
                f"no version of {name} is installed", where=str(repository / name), fix="reentry export CHECKPOINT"
            )
    return sorted(names, key=lambda name: (_is_ensemble(read_model_config(repository, name)), name))


def read_model_config(repository: Path, name: str) -> ModelConfig:
    """Parse `name`/config.pbtxt with Triton's own schema of it.

    Raises:
        ServerError: file, line and column of what is wrong.
    """
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    path = repository / name / "config.pbtxt"
    config = ModelConfig()
    try:
        text_format.Parse(path.read_text(), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ServerError(f"cannot read this model configuration: {error}", where=str(path)) from None
    return config


def fitted_model_config(repository: Path, name: str, config: ServerConfig) -> str | None:
    """The model's configuration for this machine's cores, as the JSON that Triton's load request takes.

    None where the file stands as it is: an ensemble runs nothing itself.
    """
    from google.protobuf.json_format import MessageToJson

    model = read_model_config(repository, name)
    if _is_ensemble(model):
        return None
    if model.backend == "onnxruntime":
        model.parameters["intra_op_thread_count"].string_value = str(config.fitted_threads)
        del model.instance_group[:]
        group = model.instance_group.add()
        group.kind = group.KIND_CPU
        group.count = config.fitted_instances
    return MessageToJson(model, preserving_proto_field_name=True)


def _is_ensemble(model: ModelConfig) -> bool:
    return model.HasField("ensemble_scheduling")
