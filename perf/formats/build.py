"""Formats to measure: each one that this machine can build, after it passed its gate."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from export.builders import build, missing
from export.config import ExportConfig
from export.gate import verify
from perf.formats.figures import Accuracy, Measured
from reentry.errors import ExportError
from reentry.runtime.progress import progress
from registry.formats import FORMATS, Format
from training.checkpoint import Checkpoint
from training.data.samples import Sample

_VERSION: Final = 1


def built(
    config: ExportConfig, checkpoint: Checkpoint, validation: Sequence[Sample], scratch: Path
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Build each format of `config` in a subfolder of `scratch`, and verify it.

    Returns:
        Size and accuracy of each format that passed its gate, and the reason for each format that is left out.
    """
    made: dict[str, Measured] = {}
    left_out: dict[str, str] = {}
    with progress("building and verifying", len(config.formats), "formats") as advance:
        for form in config.formats:
            lack = missing(form) or _unmeasurable(form)
            if lack is not None:
                left_out[form] = lack
            else:
                try:
                    made[form] = _one(form, config, checkpoint, validation, scratch / form)
                except ExportError as error:
                    left_out[form] = str(error)
            advance(1)
    return made, left_out


def _one(
    form: Format, config: ExportConfig, checkpoint: Checkpoint, validation: Sequence[Sample], folder: Path
) -> Measured:
    spec = FORMATS[form]
    folder.mkdir()
    found = verify(
        build(form, checkpoint, _VERSION, folder, config.tensorrt),
        checkpoint,
        config,
        version=_VERSION,
        tolerance=spec.tolerance,
        validation=validation,
    )
    return Measured(
        whole_bytes=(folder / spec.whole_file).stat().st_size,
        step_bytes=(folder / spec.step_file).stat().st_size,
        accuracy=Accuracy(
            probability=found.max_difference,
            phase_share=max(found.phase_share, found.stepped_phase_share or 0.0),
            onset_steps=max(found.onset_moved, found.stepped_onset_moved or 0),
        ),
    )


def _unmeasurable(form: Format) -> str | None:
    """Return why a format that can be built cannot be timed on this machine, or None if it can."""
    if form is Format.TENSORRT and importlib.util.find_spec("tensorrt") is None:
        return "trtexec starts a process for each call, which distorts times; fix: install the tensorrt package"
    return None
