"""The export formats: their names, files and backends, and how far each may deviate from the trained network."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from reentry.schema import DERIVED_MODELS, DerivedModel


class Format(StrEnum):
    """An export format, as `reentry export --format` takes it."""

    ONNX = "onnx"
    ONNX_FP16 = "onnx-fp16"
    ONNX_INT8 = "onnx-int8"
    TORCHSCRIPT = "torchscript"
    TENSORRT = "tensorrt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Largest deviation of a format from PyTorch, in phases and onsets of every validation track."""

    probability: float | None
    """Largest difference of any probability; None if the format rounds so much that the limit would be meaningless."""
    phase_share: float
    """Largest share of steps with a different phase."""
    onset_steps: int
    """Largest move of an onset, in steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatSpec:
    """Properties of one format."""

    format: Format
    precision: str
    suffix: str
    """File name extension of the graphs."""
    backend: str | None
    """Triton backend that serves the format; None for a reference that is not served."""
    tolerance: Tolerance

    @property
    def whole_file(self) -> str:
        """Name of the file with the graph over whole tracks, in a version's folder."""
        return f"model.{self.suffix}"

    @property
    def step_file(self) -> str:
        """Name of the file with the graph over one step, in the same folder."""
        return f"step.{self.suffix}"

    @property
    def derived(self) -> tuple[DerivedModel, ...]:
        """Models whose graphs are files in the same folder; none if the format is not served."""
        return DERIVED_MODELS if self.backend else ()


_EXACT: Final = Tolerance(probability=1e-5, phase_share=0.0, onset_steps=0)
_ROUNDED: Final = Tolerance(probability=None, phase_share=0.001, onset_steps=1)

FORMATS: Final = {
    name: FormatSpec(format=name, precision=precision, suffix=suffix, backend=backend, tolerance=tolerance)
    for name, precision, suffix, backend, tolerance in (
        (Format.ONNX, "fp32", "onnx", "onnxruntime", _EXACT),
        (Format.ONNX_FP16, "fp16", "onnx", "onnxruntime", _ROUNDED),
        (Format.ONNX_INT8, "int8", "onnx", "onnxruntime", _ROUNDED),
        (Format.TORCHSCRIPT, "fp32", "pt", None, _EXACT),
        (Format.TENSORRT, "fp32", "plan", "tensorrt", _ROUNDED),
    )
}
"""Every format, in the order in which `--format all` exports them."""
