"""A server as a process that is started, waited for, and stopped with all its children."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from perf.peers.apps.track_bytes import Array
from perf.peers.process_tree import kill_survivors, process_tree, start_times
from perf.peers.protocols import Protocol, ask
from reentry.errors import ClientError, ServerError

_START_LIMIT: Final = 120.0
"""Seconds within which the first request must be answered."""
_STOP_LIMIT: Final = 15.0
"""Seconds that a server gets after SIGTERM."""
_POLL: Final = 0.05
_TIMEOUT: Final = 10.0
"""Seconds for one answer."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


class ServerProcess:
    """A server that runs for the duration of a `with` block, from the current folder of the project."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, folder: Path) -> None:
        self._command = list(command)
        # Stored byte code halves the time of the imports.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._environment = {**inherited, **environment}
        self._folder = folder
        self._log = tempfile.TemporaryFile()  # noqa: SIM115, closed at the end of the block
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0.0

    @property
    def process_id(self) -> int:
        """Process id of the server's first process, the root of its tree."""
        return self._running().pid

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this program alone, which then stops the server
        )
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        process = self._running()
        started = start_times(process_tree(process.pid))
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_LIMIT)
        kill_survivors(started)
        process.wait()
        self._log.close()

    def first_answer(self, port: int, protocol: Protocol, measurements: Array) -> float:
        """Ask until the server answers, and return the seconds since its start.

        Raises:
            ServerError: the server ended, or did not answer within the limit. The error includes its last messages.
        """
        process, fault = self._running(), "no answer"
        while time.monotonic() < self._begun + _START_LIMIT:
            if process.poll() is not None:
                raise ServerError(f"the server ended with status {process.returncode}", got=self.last_messages())
            try:
                ask(port, protocol, measurements, timeout=_TIMEOUT)
            except (ClientError, OSError, http.client.HTTPException) as error:
                fault = str(error) or type(error).__name__
                time.sleep(_POLL)
            else:
                return time.monotonic() - self._begun
        raise ServerError(f"no answer within {_START_LIMIT:g} s: {fault}", got=self.last_messages())

    def last_messages(self) -> str:
        """Return the last lines that the server printed."""
        self._log.seek(0)
        text = _COLOUR.sub("", self._log.read().decode(errors="replace"))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-4:]) or "no messages"

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "used outside of the with block"
        return self._process
