"""Settings of the network and the training, read back from the parameters of a recorded run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from reentry.errors import InputError
from reentry.runtime.config_file import declared_types
from training.config import ModelConfig, TrainConfig
from training.runs.recorder import SEPARATOR


def recorded_settings(parameters: Mapping[str, str], *, where: str) -> tuple[ModelConfig, TrainConfig]:
    """Return the settings that `training_parameters` has recorded.

    Args:
        parameters: parameters of the run.
        where: name of the run in errors.

    Raises:
        InputError: the run records no settings, or settings that this program does not know.
    """
    try:
        return ModelConfig(**_values(ModelConfig, "model.", parameters)), TrainConfig(
            **_values(TrainConfig, "train.", parameters)
        )
    except (ValueError, KeyError) as error:
        raise InputError(
            "the settings of the run are unreadable",
            where=where,
            expected="a run that `reentry train` of this version has recorded",
            got=str(error),
        ) from error


def _values(config: type, prefix: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    types = declared_types(config)
    texts = {name.removeprefix(prefix): text for name, text in parameters.items() if name.startswith(prefix)}
    if not texts:
        raise KeyError(f"no parameter {prefix}*")
    return {name: _parsed(types[name], text) for name, text in texts.items()}


def _parsed(kind: Any, text: str) -> Any:
    """Parse a value that `str` has written."""
    if items := get_args(kind):
        return tuple(_parsed(items[0], item) for item in text.split(SEPARATOR) if item)
    return text == str(True) if kind is bool else kind(text)
