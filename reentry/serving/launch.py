"""Start of a process with secret arguments that other users of the machine cannot read.

Triton accepts its control key only as an argument, and every user can read arguments in /proc/PID/cmdline. `launch`
passes secret arguments in the environment, which only the same user can read, and starts the program with a placeholder
in place of each. The kernel stops the program before its first instruction. The parent process then changes the
argument pointers so that they point into the environment.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from reentry.errors import ServerError
from reentry.serving import child_process

logger = logging.getLogger(__name__)

_PTRACE_DETACH: Final = 17
_WORD: Final = struct.calcsize("P")
_START_OF_STACK: Final = 28 - 3
"""Index of the field `startstack` in /proc/PID/stat, counted from the field after the program's name; see proc(5)."""


def launch(
    command: Sequence[str], secrets: Mapping[int, str], *, environment: Mapping[str, str], **settings: Any
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel terminates when this process dies.

    The kernel watches the thread that starts the program. Only the main thread is sure to live as long as the program,
    so a program that another thread starts is left running.

    Args:
        command: path and arguments of the program, with a placeholder for each secret argument.
        secrets: secret arguments by their index in `command`.
        environment: environment variables of the program.
        settings: other arguments of `subprocess.Popen`.

    Raises:
        ServerError: the program exited before its first instruction.
    """
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", child_process.__file__, str(parent), *command],
        env={**environment, **{f"{child_process.HIDDEN}{index}": value for index, value in secrets.items()}},
        **settings,
    )
    if not secrets:
        return process
    try:
        _pass_secrets(process.pid, secrets)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def _pass_secrets(pid: int, secrets: Mapping[int, str]) -> None:
    """Set the secret arguments of the stopped process and let it continue."""
    # WNOWAIT leaves the status of a process that has exited for Popen.
    stopped = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if stopped is None or stopped.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
        raise ServerError("the Triton server could not be started", got=f"status {stopped and stopped.si_status}")
    if stopped.si_status == signal.SIGSTOP:
        logger.warning(
            "this system forbids tracing, so every user of this machine can read the server's control key in its "
            "arguments; allow ptrace of child processes (kernel.yama.ptrace_scope at most 1)"
        )
        os.kill(pid, signal.SIGCONT)
        return
    _redirect_arguments(pid, secrets)
    if ctypes.CDLL(None).ptrace(_PTRACE_DETACH, pid, None, None) != 0:
        raise ServerError("the Triton server cannot be continued after its start")


def _redirect_arguments(pid: int, secrets: Mapping[int, str]) -> None:
    """Make argument pointers of a process that was just loaded point into its environment.

    At the first instruction the stack of a process holds the number of arguments, a pointer to each argument, a null
    pointer, a pointer to each environment variable, and another null pointer.
    """
    process = Path("/proc", str(pid))
    stack = int((process / "stat").read_text().rpartition(")")[2].split()[_START_OF_STACK])
    with (process / "mem").open("r+b", buffering=0) as memory:

        def word(address: int) -> int:
            return int.from_bytes(os.pread(memory.fileno(), _WORD, address), sys.byteorder)

        arguments = stack + _WORD
        variable = arguments + (word(stack) + 1) * _WORD
        values = {f"{child_process.HIDDEN}{index}=".encode(): index for index in secrets}
        while address := word(variable):
            for name, index in values.items():
                if os.pread(memory.fileno(), len(name), address) == name:
                    pointer = (address + len(name)).to_bytes(_WORD, sys.byteorder)
                    os.pwrite(memory.fileno(), pointer, arguments + index * _WORD)
            variable += _WORD
