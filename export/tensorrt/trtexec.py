"""trtexec, TensorRT's command-line program: finds it, builds engines with it, and runs engines with it.

`export.tensorrt.node` writes `build_options` and `run_options` into a shell script instead. The script runs in the GPU
image, which does not contain this package.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from export.sessions import Array, NamedTensorSession
from export.tensorrt.config import TensorRTConfig
from reentry.errors import ExportError
from reentry.schema import MODEL_VERSION

ENVIRONMENT_VARIABLE: Final = "REENTRY_TRTEXEC"
"""Environment variable with the path of trtexec."""

USUAL_PLACE: Final = Path("/usr/src/tensorrt/bin/trtexec")
"""Path of trtexec in NVIDIA's packages and images."""

_FIRST_RELEASE: Final = 10
"""First major TensorRT version with int64, the type of the output model_version."""


def find_trtexec() -> Path | None:
    """Path of trtexec; None if it is not on this machine."""
    named = os.environ.get(ENVIRONMENT_VARIABLE) or shutil.which("trtexec")
    path = Path(named) if named else USUAL_PLACE
    return path if os.access(path, os.X_OK) and path.is_file() else None


class Trtexec:
    """The program as an `EngineBuilder`.

    Raises:
        ExportError: the program does not start, or its TensorRT version is too old.
    """

    def __init__(self, path: Path) -> None:
        help_text = _output_of([str(path), "--help"])
        version = version_of(help_text)
        if version is None or int(version.partition(".")[0]) < _FIRST_RELEASE:
            raise ExportError(
                "trtexec is too old",
                where=str(path),
                expected=f"TensorRT {_FIRST_RELEASE} or later, the first with int64",
                got=version or "no version in its help",
                fix=f"set {ENVIRONMENT_VARIABLE} to another trtexec, or build on the cluster, see docs/tensorrt.md",
            )
        self.version = version
        self._path = path
        self._options = frozenset(re.findall(r"--\w+", help_text))  # they differ between TensorRT releases

    def build(self, graph: Path, engine: Path, shapes: Sequence[str], config: TensorRTConfig) -> None:
        """See `EngineBuilder.build`."""
        options = build_options(graph, engine, shapes, config)
        for flag in ("--fp16", "--int8"):
            if flag in options and flag not in self._options:
                raise ExportError(
                    f"trtexec of TensorRT {self.version} has no {flag}; it takes the precision from the graph",
                    where=str(self._path),
                    fix=f"omit {flag.removeprefix('--')}, and build from a graph of that precision",
                )
        self.run([option for option in options if option != "--noTF32" or option in self._options])

    def load(self, whole: Path, step: Path) -> TrtexecSession:
        """See `EngineBuilder.load`."""
        return TrtexecSession(self, whole, step)

    def run(self, options: Sequence[str]) -> None:
        """Run the program with these options.

        Raises:
            ExportError: trtexec failed; the message is its own first error.
        """
        reason = failure_of(_output_of([str(self._path), *options]))
        if reason is not None:
            raise ExportError(f"trtexec failed: {reason}", where=" ".join(options[:2]))


class TrtexecSession(NamedTensorSession):
    """Both engines of a version, run by trtexec. Each call starts a process, which takes seconds.

    trtexec prints six digits of a float, so a carried state loses precision at each step.
    """

    step_limit: int | None = 8

    def __init__(self, program: Trtexec, whole: Path, step: Path) -> None:
        super().__init__(whole, step)
        self._program = program

    def _run(self, graph: Path, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = {}
            for tensor, values in inputs.items():
                files[tensor] = (folder / f"{tensor}.bin", values.shape)
                files[tensor][0].write_bytes(values.tobytes())
            self._program.run(run_options(graph, files, folder / "outputs.json"))
            found = read_outputs(folder / "outputs.json")
        return [found[name] for name in outputs]


def build_options(graph: Path, engine: Path, shapes: Sequence[str], config: TensorRTConfig) -> list[str]:
    """Options that build `engine` from the ONNX file `graph`, for a trtexec that knows all of them."""
    minimum, optimum, maximum = shapes
    return [
        f"--onnx={graph}",
        f"--saveEngine={engine}",
        f"--minShapes={minimum}",
        f"--optShapes={optimum}",
        f"--maxShapes={maximum}",
        f"--memPoolSize=workspace:{config.workspace_mib}",
        "--skipInference",
        # TF32 is on by default and rounds like half precision.
        *(["--fp16"] if config.fp16 else [] if config.int8 else ["--noTF32"]),
        *(["--int8"] if config.int8 else []),
    ]


def run_options(engine: Path, inputs: Mapping[str, tuple[Path, Sequence[int]]], output: Path) -> list[str]:
    """Options that run an engine once. `inputs` maps each tensor name to a file of raw values and their shape."""
    return [
        f"--loadEngine={engine}",
        "--loadInputs=" + ",".join(f"{name}:{path}" for name, (path, _) in inputs.items()),
        "--shapes=" + ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, (_, shape) in inputs.items()),
        f"--exportOutput={output}",
        "--warmUp=0",
        "--duration=0",
        "--iterations=1",
    ]


def version_of(text: str) -> str | None:
    """TensorRT version in trtexec's first line, where 10.16.2 is written v101602 and 8.5.1 is written v8501."""
    match = re.search(r"\[TensorRT v(\d+)\]", text)
    if match is None:
        return None
    number, major_unit = int(match.group(1)), 10_000 if len(match.group(1)) > 4 else 1_000
    return f"{number // major_unit}.{number % major_unit // 100}.{number % 100}"


def failure_of(text: str) -> str | None:
    """Reason of a failed run, from trtexec's output; None if the run passed. The first error causes the others."""
    if re.search(r"^&&&& PASSED ", text, re.MULTILINE):
        return None
    error = re.search(r"\[E\] (.+)$", text, re.MULTILINE)
    return " ".join(error.group(1).split()) if error else "it printed no error"


def read_outputs(path: Path) -> dict[str, Array]:
    """Output tensors that trtexec wrote as JSON, by name.

    Raises:
        ExportError: the file cannot be read, or is not in trtexec's format.
    """
    try:
        # JSON cannot express values that are not finite, so trtexec writes them as C does.
        text = re.sub(r"(?<=[\s\[,])(-?)(nan|inf)(?=[\s\],])", _json_number, path.read_text())
        outputs = {}
        for tensor in json.loads(text):
            shape = [int(size) for size in tensor["dimensions"].split("x")] if tensor["dimensions"] else []
            dtype = np.int64 if tensor["name"] == MODEL_VERSION.name else np.float32
            outputs[tensor["name"]] = np.array(tensor["values"], dtype=dtype).reshape(shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"cannot read the output of trtexec: {error}", where=str(path)) from error
    return outputs


def _json_number(match: re.Match[str]) -> str:
    return "NaN" if match.group(2) == "nan" else f"{match.group(1)}Infinity"


def _output_of(command: Sequence[str]) -> str:
    """Standard output and error of a program, whatever its exit status."""
    try:
        completed = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except OSError as error:
        raise ExportError(f"cannot start the program: {error.strerror}", where=command[0]) from error
    return completed.stdout.decode(errors="replace")
