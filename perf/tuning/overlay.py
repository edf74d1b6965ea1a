"""Tuned settings as the text of a TOML file, and written into the config.pbtxt files of a model repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reentry.runtime.files import whole_file
from reentry.serving.repository import models_of, read_model_config
from reentry.serving.tuned import ModelTuning, read_tuned, tuned_config
from registry.config_pbtxt import rewritten


def as_toml(tables: Mapping[str, ModelTuning], comments: tuple[str, ...] = ()) -> str:
    """Return the text of a file that `reentry.serving.tuned` reads, below comment lines."""
    lines = [f"# {comment}" for comment in comments]
    for model, settings in tables.items():
        lines += ["", f"[{model}]"]
        lines += [f"{key} = {str(value).lower()}" for key, value in settings.as_dict().items()]
    return "\n".join(lines).lstrip() + "\n"


def apply_to_repository(path: Path, repository: Path) -> list[Path]:
    """Write tuned settings into the config.pbtxt files of a repository, whose other fields and comments stay.

    Args:
        path: file with the tuned settings.
        repository: the model repository, a folder.

    Returns:
        The files that changed.

    Raises:
        ServerError: the folder is not a model repository.
        ConfigError: the file is invalid or does not suit the models.
        InputError: a configuration cannot be written.
    """
    configs = {name: read_model_config(repository, name) for name in models_of(repository)}
    texts = {}
    for name, tuning in read_tuned(path, configs).items():
        file = repository / name / "config.pbtxt"
        target = tuned_config(configs[name], tuning)
        if target != configs[name]:
            texts[file] = rewritten(file.read_text(encoding="utf-8"), target)
    for file, text in texts.items():
        with whole_file(file) as part:
            part.write_text(text, encoding="utf-8")
    return list(texts)
