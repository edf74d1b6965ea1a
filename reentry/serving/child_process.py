"""A program that becomes another one, which the kernel ends together with its parent and which can hide arguments.

Arguments: the process id of the parent (0: the program is not ended with it), the program, its arguments. The module
stands alone: nothing of `reentry` is imported. `reentry.serving.launch` is the other side.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

HIDDEN: Final = "REENTRY_ARGUMENT_"
"""Variables that hold the hidden arguments, each with its index in the command line behind."""

_PR_SET_PDEATHSIG: Final = 1
_PTRACE_TRACEME: Final = 0


def _main(parent: int, command: list[str]) -> None:
    system = ctypes.CDLL(None)
    if parent:
        system.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return  # the parent died before this process was tied to it
    hidden = {int(name.removeprefix(HIDDEN)): value for name, value in os.environ.items() if name.startswith(HIDDEN)}
    # With a tracer the kernel stops the program after it is loaded and before it runs, and the parent puts the
    # arguments in. Where the system forbids tracing, they have to stand in the open.
    if hidden and system.ptrace(_PTRACE_TRACEME, 0, None, None) != 0:
        for index, value in hidden.items():
            command[index] = value
        os.kill(os.getpid(), signal.SIGSTOP)
    os.execv(command[0], command)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
