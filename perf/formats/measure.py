"""FormatWorker process that measures one format: `python -m perf.formats.measure SPEC`.

`perf.formats.workers` starts it and sends one line of JSON per request; the process answers each with one line. Each
format has a process of its own, so that its memory can be measured and a crash of its runtime affects no other
format.

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
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from export.sessions import Array, Carried, OnnxSession, Session, live_steps, no_state
from registry.formats import FORMATS, Format

PYTORCH: Final = "PyTorch"
COMPILED: Final = "torch.compile"
REFERENCES: Final = (PYTORCH, COMPILED)
"""Ways to run a checkpoint without an export, measured for comparison."""

MOST_SAMPLES: Final = 2000
LEAST_SAMPLES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Specification of the measurement of one format."""

    way: str
    """Name of a format, or one of REFERENCES."""
    checkpoint: Path
    folder: Path
    """Folder of the files of the format."""
    features: Path
    """File of the features (B, T, F), float32, saved by numpy; B is the largest batch."""
    layers: int
    hidden: int
    threads: int

    def to_json(self) -> str:
        """Return the specification as the process's argument."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the result of `to_json`."""
        content = json.loads(text)
        return cls(**content | {name: Path(content[name]) for name in ("checkpoint", "folder", "features")})


class Measurement:
    """State of the worker process. The runtime is imported at the start; `load` opens the model."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._features: Array = np.load(spec.features)
        self._open: Callable[[], Session] = _opener(spec)
        self._session: Session | None = None
        gc.collect()
        gc.disable()  # a garbage collection during a run would distort its time
        with contextlib.suppress(OSError):  # resets the peak, which may stem from the imports
            Path("/proc/self/clear_refs").write_text("5")

    def load(self) -> dict[str, Any]:
        """Open the model and run one step and one track. The first call is included because runtimes prepare in it."""
        track, state = self._features[:1], self._start()
        row = np.ascontiguousarray(track[:, 0])
        begun = time.perf_counter()
        self._session = self._open()
        self._session.step(row, state)
        self._session.whole(track)
        return {"seconds": time.perf_counter() - begun}

    def step(self, seconds: float) -> dict[str, Any]:
        """Measure single steps of one track, each with the state of the previous step."""
        rows = [np.ascontiguousarray(row) for row in self._features[0, :, None]]  # (1, F) each
        steps = live_steps(self._loaded(), rows, self._start())
        return {"samples": samples_of(partial(next, steps), seconds)}

    def whole(self, batch: int, seconds: float) -> dict[str, Any]:
        """Measure runs over all steps of `batch` tracks."""
        features, session = self._features[:batch], self._loaded()
        return {"samples": samples_of(lambda: session.whole(features), seconds)}

    def peak(self) -> dict[str, Any]:
        """Return the peak memory of the process since its imports, bytes."""
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert found is not None, "Linux reports VmHWM"
        return {"bytes": int(found[1]) * 1024}

    def _loaded(self) -> Session:
        assert self._session is not None, "load must be the first request"
        return self._session

    def _start(self) -> Carried:
        return no_state(1, self._spec.layers, self._spec.hidden)


def samples_of(work: Callable[[], object], seconds: float) -> list[float]:
    """Return the duration of each run in s, for about `seconds` in total, after one warm-up run."""
    work()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < LEAST_SAMPLES or (len(samples) < MOST_SAMPLES and time.perf_counter() < end):
        begun = time.perf_counter_ns()
        work()
        samples.append((time.perf_counter_ns() - begun) / 1e9)
    return samples


def _opener(spec: Spec) -> Callable[[], Session]:
    """Import the runtime of the format and return a function that opens the model."""
    if spec.way in REFERENCES:
        # A fresh cache, so that compiling is measured too.
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
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps output of the runtimes out of the answers
    measurement = Measurement(Spec.from_json(sys.argv[1]))
    handlers: dict[str, Callable[..., dict[str, Any]]] = {
        "load": measurement.load,
        "step": measurement.step,
        "whole": measurement.whole,
        "peak": measurement.peak,
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("do")](**request)
        except Exception as error:  # any runtime may fail; the benchmark continues without it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
