"""A script that replaces itself with another program, which the kernel terminates when the parent process dies.

Its arguments are the process id of the parent (0 if the program shall outlive it), the program, and the program's
arguments. The script runs without `reentry` on its path. `reentry.serving.launch` starts it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

HIDDEN: Final = "REENTRY_ARGUMENT_"
"""Prefix of the environment variables with the secret arguments. The argument's index in the command line follows."""

_PR_SET_PDEATHSIG: Final = 1
_PTRACE_TRACEME: Final = 0


def _main(parent: int, command: list[str]) -> None:
    system = ctypes.CDLL(None)
    if parent:
        system.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return  # the parent died before the call above
    hidden = {int(name.removeprefix(HIDDEN)): value for name, value in os.environ.items() if name.startswith(HIDDEN)}
    # The kernel stops a traced program after loading it, and the parent then sets the secret arguments. Where the
    # system forbids tracing, they have to be ordinary arguments.
    if hidden and system.ptrace(_PTRACE_TRACEME, 0, None, None) != 0:
        for index, value in hidden.items():
            command[index] = value
        os.kill(os.getpid(), signal.SIGSTOP)
    os.execv(command[0], command)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
