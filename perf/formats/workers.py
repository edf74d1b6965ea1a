"""Client side of the worker processes that measure one format each."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any, Final, Self

from perf.formats.measure import Spec
from reentry.errors import ExportError

LIMIT: Final = 180.0
"""Deadline for an answer, s. Compiling takes longest."""

_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class FormatWorker:
    """FormatWorker process for one format. It is idle between requests, so that formats do not compete for cores."""

    def __init__(self, spec: Spec) -> None:
        self._way = spec.way
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "perf.formats.measure", spec.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            env=os.environ | dict.fromkeys(_THREAD_VARIABLES, str(spec.threads)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes and waits for the process
        self._messages.close()

    def load(self) -> float:
        """Return the seconds from opening the model to its first answers."""
        return float(self._ask("load")["seconds"])

    def step(self, seconds: float) -> list[float]:
        """Return the duration in s of each single step, measured for about `seconds` in total."""
        return list(self._ask("step", seconds=seconds)["samples"])

    def whole(self, batch: int, seconds: float) -> list[float]:
        """Return the duration in s of each run over `batch` whole tracks, measured for about `seconds` in total."""
        return list(self._ask("whole", batch=batch, seconds=seconds)["samples"])

    def peak(self) -> int:
        """Return the peak memory of the process, bytes."""
        return int(self._ask("peak")["bytes"])

    def _ask(self, do: str, **arguments: float) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            ExportError: the process has ended, exceeds the deadline, or reports an error of its runtime.
        """
        assert self._process.stdin is not None, "started with pipes"
        assert self._process.stdout is not None, "started with pipes"
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended(do) from None
        if not select.select([self._process.stdout], [], [], LIMIT)[0]:
            raise ExportError(f"{do} took longer than {LIMIT:.0f} s", where=self._way)
        line = self._process.stdout.readline()
        if not line:
            raise self._ended(do)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ExportError(f"{do} failed: {answer['error']}", where=self._way)
        return answer

    def _ended(self, do: str) -> ExportError:
        status = self._process.wait()
        self._messages.seek(0)
        said = self._messages.read().decode(errors="replace").strip().splitlines()
        last = f": {said[-1]}" if said else ""
        return ExportError(f"its process ended at {do} with status {status}{last}", where=self._way)
