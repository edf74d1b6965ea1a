"""trtexec, TensorRT's command-line program: its commands, what it prints, and an engine run through it.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.tensorrt.config import TensorRTConfig
from export.tensorrt.session import EngineSession
from reentry import schema
from reentry.errors import ExportError

Array = npt.NDArray[Any]

ENVIRONMENT_VARIABLE: Final = "REENTRY_TRTEXEC"
"""Names the program where it is in none of the usual places."""

USUAL_PLACE: Final = Path("/usr/src/tensorrt/bin/trtexec")
"""Where NVIDIA's packages and images put it."""

_NUMPY: Final = {"FP32": np.float32, "INT64": np.int64}
_OUTPUTS: Final = {
    tensor.name: _NUMPY[tensor.dtype]
    for model in (schema.REENTRY_LSTM, schema.REENTRY_STEP)
    for tensor in model.outputs
}


def find_trtexec() -> Path | None:
    """The program, if this machine has it."""
    named = os.environ.get(ENVIRONMENT_VARIABLE) or shutil.which("trtexec")
    path = Path(named) if named else USUAL_PLACE
    return path if os.access(path, os.X_OK) and path.is_file() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one run of trtexec printed; None where it did not say."""

    passed: bool
    version: str | None
    """TensorRT's, as 10.16.2."""
    gpu: str | None
    compute_capability: str | None
    build_seconds: float | None
    throughput: float | None
    """Queries (one batch each) a second."""
    latency: dict[str, float]
    """ms of a query, transfers included: min, max, mean, median and the percentiles by their names, as `99%`."""
    errors: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Of a failure, on one line; the first error is the cause of the others."""
        return self.errors[0] if self.errors else "it gave no reason"


def parse_report(text: str) -> Report:
    """Read what trtexec printed on both of its streams."""

    def found(pattern: str) -> str | None:
        match = re.search(pattern, text, re.MULTILINE)
        return match.group(1).strip() if match else None

    latency = found(r"\[I\] Latency: (.+)$") or ""
    figures = re.findall(r"([\w.()%]+) = ([-+.\w]+) ms", latency)
    seconds, throughput = found(r"\[I\] Engine built in ([\d.]+) sec"), found(r"\[I\] Throughput: ([-+.\w]+) qps")
    return Report(
        passed=found(r"^&&&& (PASSED) ") is not None,
        version=found(r"\[I\] TensorRT version: ([\d.]+)") or _banner_version(text),
        gpu=found(r"\[I\] Selected Device: (.+)$"),
        compute_capability=found(r"\[I\] Compute Capability: ([\d.]+)"),
        build_seconds=float(seconds) if seconds else None,
        throughput=float(throughput) if throughput else None,
        latency={name.removeprefix("percentile(").rstrip(")"): float(value) for name, value in figures},
        errors=tuple(" ".join(line.split()) for line in re.findall(r"\[E\] (.+)$", text, re.MULTILINE)),
    )


def _banner_version(text: str) -> str | None:
    """Of the first line, in which 10.16.2 is v101602 and 8.5.1 is v8501."""
    match = re.search(r"\[TensorRT v(\d+)\]", text)
    if match is None:
        return None
    number, thousand = int(match.group(1)), 10_000 if len(match.group(1)) > 4 else 1_000
    return f"{number // thousand}.{number % thousand // 100}.{number % 100}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A trtexec that was asked what it is."""

    path: Path
    version: str
    options: frozenset[str]
    """Of its own help; they differ between releases of TensorRT."""

    @classmethod
    def ask(cls, path: Path) -> Program:
        """Run its help.

        Raises:
            ExportError: it does not start, or is older than the graphs' int64 output needs.
        """
        text = _run([str(path), "--help"])
        version = parse_report(text).version
        if version is None or int(version.partition(".")[0]) < 10:
            raise ExportError(
                "this trtexec cannot build the graphs",
                where=str(path),
                expected="TensorRT 10 or later, the first with int64",
                got=version or "no version",
                fix=f"name another with {ENVIRONMENT_VARIABLE}, or build on the cluster, see docs/tensorrt.md",
            )
        return cls(path=path, version=version, options=frozenset(re.findall(r"--\w+", text)))

    def build_command(
        self, graph: Path, engine: Path, shapes: Sequence[str], config: TensorRTConfig, timing_cache: Path
    ) -> list[str]:
        """Arguments that build `engine` from the ONNX file `graph` with one profile, `shapes` at least, best and most.

        `timing_cache` is of this GPU and TensorRT; what was timed for one graph is not timed again for the next.

        Raises:
            ExportError: a precision is wanted that this TensorRT takes from the graph alone.
        """
        command = build_arguments(str(self.path), graph, engine, shapes, config)
        for flag in ("--fp16", "--int8"):
            if flag in command and flag not in self.options:
                raise ExportError(
                    f"trtexec of TensorRT {self.version} has no {flag}: precision is the graph's own",
                    where=str(self.path),
                    fix=f"leave {flag.removeprefix('--')} out, and give it a graph of that precision",
                )
        command = [argument for argument in command if argument != "--noTF32" or argument in self.options]
        return [*command, f"--timingCacheFile={timing_cache}"]

    def run(self, command: Sequence[str]) -> Report:
        """Run one of the commands.

        Raises:
            ExportError: it failed; why, in its own words.
        """
        report = parse_report(_run(command))
        if not report.passed:
            raise ExportError(f"trtexec failed: {report.reason}", where=" ".join(command[1:3]))
        return report


def build_arguments(
    program: str, graph: Path, engine: Path, shapes: Sequence[str], config: TensorRTConfig
) -> list[str]:
    """The command of a build, for a trtexec that has all of its options."""
    least, best, most = shapes
    return [
        program,
        f"--onnx={graph}",
        f"--saveEngine={engine}",
        f"--minShapes={least}",
        f"--optShapes={best}",
        f"--maxShapes={most}",
        f"--memPoolSize=workspace:{config.workspace_mib}",
        "--skipInference",
        # TF32 rounds like half precision, and is on by default.
        *(["--fp16"] if config.fp16 else [] if config.int8 else ["--noTF32"]),
        *(["--int8"] if config.int8 else []),
    ]


def run_arguments(
    program: str, engine: Path, inputs: Mapping[str, tuple[Path, Sequence[int]]], output: Path
) -> list[str]:
    """The command that runs an engine once on the raw values in files, by name with their shapes."""
    return [
        program,
        f"--loadEngine={engine}",
        "--loadInputs=" + ",".join(f"{name}:{path}" for name, (path, _) in inputs.items()),
        "--shapes=" + ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, (_, shape) in inputs.items()),
        f"--exportOutput={output}",
        "--warmUp=0",
        "--duration=0",
        "--iterations=1",
    ]


def read_outputs(path: Path) -> dict[str, Array]:
    """Outputs of a run, by name.

    trtexec prints six digits of a float.

    Raises:
        ExportError: the file is not what trtexec writes.
    """
    try:
        # JSON has no word for what is not finite; trtexec writes C's.
        text = re.sub(r"(?<=[\s\[,])(-?)(nan|inf)(?=[\s\],])", _json_word, path.read_text())
        outputs = {}
        for tensor in json.loads(text):
            shape = [int(size) for size in tensor["dimensions"].split("x")] if tensor["dimensions"] else []
            dtype = _OUTPUTS.get(tensor["name"], np.float32)
            outputs[tensor["name"]] = np.array(tensor["values"], dtype=dtype).reshape(shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"trtexec's output cannot be read: {error}", where=str(path)) from error
    return outputs


def _json_word(match: re.Match[str]) -> str:
    return "NaN" if match.group(2) == "nan" else f"{match.group(1)}Infinity"


class TrtexecSession(EngineSession):
    """Engines run by trtexec: a process for each call, which takes seconds.

    A state that is carried goes through six digits of text each time.
    """

    step_limit: int | None = 8

    def __init__(self, program: Program, whole: Path, step: Path) -> None:
        super().__init__(whole, step)
        self._program = program

    def _call(self, engine: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = {}
            for tensor, values in inputs.items():
                path = folder / f"{tensor}.bin"
                path.write_bytes(values.tobytes())
                files[tensor] = (path, values.shape)
            output = folder / "outputs.json"
            self._program.run(run_arguments(str(self._program.path), engine, files, output))
            return read_outputs(output)


def _run(command: Sequence[str]) -> str:
    """Both streams of a program, whatever its exit status."""
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except OSError as error:
        raise ExportError(f"cannot be run: {error.strerror}", where=command[0]) from error
    return ended.stdout.decode(errors="replace")
