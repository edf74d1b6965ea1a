"""One format in a process of its own, measured when asked: `python -m perf.formats.measure SPEC`.

`perf.formats.workers` starts it and asks, a line of JSON for each question and one for each answer. A process of its
own, because memory can be told apart only so, and because a runtime that crashes takes no other format with it.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from export.sessions import Array, Carried, OnnxSession, Session, no_state
from registry.formats import FORMATS, Format

PYTORCH: Final = "PyTorch"
COMPILED: Final = "torch.compile"
REFERENCES: Final = (PYTORCH, COMPILED)
"""What a checkpoint gives without an export."""

MOST_SAMPLES: Final = 2000
LEAST_SAMPLES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What one process measures."""

    way: str
    """A format's name, or one of REFERENCES."""
    checkpoint: Path
    folder: Path
    """Of the format's files."""
    features: Path
    """(B, T, F) float32 of as many tracks as the largest batch has, as numpy saves it."""
    layers: int
    hidden: int
    threads: int

    def to_json(self) -> str:
        """As the process is told it."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` gave."""
        content = json.loads(text)
        return cls(**content | {name: Path(content[name]) for name in ("checkpoint", "folder", "features")})


class Measurement:
    """The process: its runtime is there from the beginning, the model from `load` on."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._features: Array = np.load(spec.features)
        self._open: Callable[[], Session] = _opener(spec)
        self._runner: Session | None = None
        gc.collect()
        gc.disable()  # a collection now and then would be a slow sample of whatever runs then
        with contextlib.suppress(OSError):  # else the peak is that of the imports, where it is the higher one
            Path("/proc/self/clear_refs").write_text("5")

    def load(self) -> dict[str, Any]:
        """Read the model and answer once for a step and for a track: what is done at the first call is loading too."""
        track, state = self._features[:1], self._start()
        row = np.ascontiguousarray(track[:, 0])
        begun = time.perf_counter()
        self._runner = self._open()
        self._runner.step(row, state)
        self._runner.whole(track)
        return {"seconds": time.perf_counter() - begun}

    def step(self, seconds: float) -> dict[str, Any]:
        """One step of one track, its state carried on from the step before."""
        return {"samples": samples_of(self._steps(), seconds)}

    def whole(self, batch: int, seconds: float) -> dict[str, Any]:
        """All steps of `batch` tracks at once."""
        features, runner = self._features[:batch], self._loaded()
        return {"samples": samples_of(lambda: runner.whole(features), seconds)}

    def peak(self) -> dict[str, Any]:
        """Most memory that the process has held since its imports."""
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert found is not None, "Linux states it"
        return {"bytes": int(found[1]) * 1024}

    def _loaded(self) -> Session:
        assert self._runner is not None, "asked to run before it was told to load"
        return self._runner

    def _start(self) -> Carried:
        return no_state(1, self._spec.layers, self._spec.hidden)

    def _steps(self) -> Callable[[], None]:
        """A call that does the next step of the first track, from the first step again after the last."""
        runner = self._loaded()
        rows = [np.ascontiguousarray(row) for row in self._features[0, :, None]]  # (1, F) each
        state, at = self._start(), 0

        def step() -> None:
            nonlocal state, at
            if at == len(rows):
                state, at = self._start(), 0
            _, state, _ = runner.step(rows[at], state)
            at += 1

        return step


def samples_of(work: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each run, for about `seconds` in all, after one run that does not count."""
    work()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < LEAST_SAMPLES or (len(samples) < MOST_SAMPLES and time.perf_counter() < end):
        begun = time.perf_counter_ns()
        work()
        samples.append((time.perf_counter_ns() - begun) / 1e9)
    return samples


def _opener(spec: Spec) -> Callable[[], Session]:
    """Import what the format needs, and give what opens it."""
    if spec.way in REFERENCES:
        # A cache of its own, or the compiling of an earlier run would not be seen.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(spec.folder)
        import torch

        from export.torch_session import network_session
        from training.checkpoint import load_checkpoint

        torch.set_num_threads(spec.threads)
        return lambda: network_session(load_checkpoint(spec.checkpoint), compiled=spec.way == COMPILED)
    return _format_opener(Format(spec.way), spec.folder, spec.threads)


def _format_opener(form: Format, folder: Path, threads: int) -> Callable[[], Session]:
    whole, step = folder / FORMATS[form].whole_file, folder / FORMATS[form].step_file
    if form == Format.TORCHSCRIPT:
        import torch

        from export.torch_session import torchscript_session

        torch.set_num_threads(threads)
        return lambda: torchscript_session(whole, step)
    if form == Format.TENSORRT:
        from export.tensorrt.package import PackageSession

        return lambda: PackageSession(whole, step)
    providers = ("CUDAExecutionProvider",) if form == Format.ONNX_FP16 else ("CPUExecutionProvider",)
    return lambda: OnnxSession(whole, step, threads=threads, providers=providers)


def main() -> None:
    """Answer questions until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a runtime prints is no answer
    measurement = Measurement(Spec.from_json(sys.argv[1]))
    questions: dict[str, Callable[..., dict[str, Any]]] = {
        "load": measurement.load,
        "step": measurement.step,
        "whole": measurement.whole,
        "peak": measurement.peak,
    }
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = questions[asked.pop("do")](**asked)
        except Exception as error:  # of any runtime; it is the benchmark's to go on without it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
