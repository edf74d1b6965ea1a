"""The formats of an export: what each is called, which files it is, and how close to the network it has to be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Format(StrEnum):
    """What `reentry export --format` takes."""

    ONNX = "onnx"
    ONNX_FP16 = "onnx-fp16"
    ONNX_INT8 = "onnx-int8"
    TORCHSCRIPT = "torchscript"
    TENSORRT = "tensorrt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a format may be from PyTorch. The task counts for all: phase and onset of every validation track."""

    probability: float | None
    """Largest difference of any probability; None where the format rounds too much for that to say anything."""
    phase_share: float
    """Largest share of steps whose phase is another."""
    onset_steps: int
    """Most steps by which an onset may move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatSpec:
    """One format."""

    format: Format
    precision: str
    whole_file: str
    """The graph over whole tracks, in a version's folder."""
    step_file: str
    """The graph over one step, beside it."""
    backend: str | None
    """Triton's backend that serves it; None for a reference that is not served."""
    tolerance: Tolerance


_EXACT: Final = Tolerance(probability=1e-5, phase_share=0.0, onset_steps=0)
_ROUNDED: Final = Tolerance(probability=None, phase_share=0.001, onset_steps=1)

FORMATS: Final = {
    spec.format: spec
    for spec in (
        FormatSpec(
            format=Format.ONNX,
            precision="fp32",
            whole_file="model.onnx",
            step_file="step.onnx",
            backend="onnxruntime",
            tolerance=_EXACT,
        ),
        FormatSpec(
            format=Format.ONNX_FP16,
            precision="fp16",
            whole_file="model.onnx",
            step_file="step.onnx",
            backend="onnxruntime",
            tolerance=_ROUNDED,
        ),
        FormatSpec(
            format=Format.ONNX_INT8,
            precision="int8",
            whole_file="model.onnx",
            step_file="step.onnx",
            backend="onnxruntime",
            tolerance=_ROUNDED,
        ),
        FormatSpec(
            format=Format.TORCHSCRIPT,
            precision="fp32",
            whole_file="model.pt",
            step_file="step.pt",
            backend=None,
            tolerance=_EXACT,
        ),
        FormatSpec(
            format=Format.TENSORRT,
            precision="fp32",
            whole_file="model.plan",
            step_file="step.plan",
            backend="tensorrt",
            tolerance=_ROUNDED,
        ),
    )
}
"""Every format, in the order in which `--format all` makes them."""
