"""The worker's side of `gateway.jobs.scoring_child`: start it, follow it, stop it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from gateway.jobs.scoring_child import Message, Order
from gateway.settings import PREFIX

_PACKAGES = Path(__file__).parents[2]
_LONGEST_LINE = 2**20


class ScoringProcess:
    """A running child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what the process reports. The last message has an `end`, unless the process died before."""
        assert self._process.stdout is not None
        decoder = msgspec.json.Decoder(Message)
        async for line in self._process.stdout:
            yield decoder.decode(line)

    def score(self) -> None:
        """Let the process score the file that it has read."""
        self._say(b"go\n")

    def stop(self) -> None:
        """End the scoring; the process then writes the results of the tracks scored so far."""
        self._say(b"stop\n")

    def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(line)

    async def ended(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        return await self._process.wait()


@asynccontextmanager
async def scoring(order: Order, folder: Path, scratch: Path) -> AsyncIterator[ScoringProcess]:
    """Start a child process, and kill it at the end of the block.

    Args:
        order: what it shall do.
        folder: working folder, so that errors name files relative to it.
        scratch: folder for temporary files.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "gateway.jobs.scoring_child"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=folder,
        env=_environment(scratch),
        limit=_LONGEST_LINE,
        start_new_session=True,  # Ctrl-C on a terminal reaches the worker alone, which then stops this process
    )
    assert process.stdin is not None
    try:
        with suppress(ConnectionError):  # it died at its start, which its exit status reports
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            await process.stdin.drain()
        yield ScoringProcess(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process.stdin.close()


def _environment(scratch: Path) -> dict[str, str]:
    """Return the environment of the child.

    The packages of this program are on its path, because its working folder is another one. It reads files of strangers
    and needs no secret, so the settings of the gateway and of the object store are left out.
    """
    path = [str(_PACKAGES), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "AWS_"))}
    return kept | {"PYTHONPATH": os.pathsep.join(each for each in path if each), "TMPDIR": str(scratch)}
