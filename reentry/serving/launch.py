"""The start of the server's process, without its secrets in the arguments that every user of the machine can read.

Triton takes its control key as an argument alone, and /proc/PID/cmdline shows arguments to everybody. The secret ones
are therefore passed in the environment, which only the same user can read. The process starts with a placeholder in
their place; the kernel stops it before its first instruction, and its parent points the arguments to the environment.
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
"""Index of the field `startstack` of /proc/PID/stat, counted from the one behind the program's name; see proc(5)."""


def launch(
    command: Sequence[str], secrets: Mapping[int, str], *, environment: Mapping[str, str], **settings: Any
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel ends together with this process.

    The kernel ties a process to the thread that started it. Other threads than the main one may end before the program
    does, so a program that one of them starts is not tied.

    Args:
        command: the program's path and its arguments.
        secrets: arguments to hide, each by its index in `command`, where a placeholder stands.
        environment: variables of the program.
        settings: other arguments of `subprocess.Popen`.

    Raises:
        ServerError: the program ended before it ran.
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
        _hand_over(process.pid, secrets)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def _hand_over(pid: int, secrets: Mapping[int, str]) -> None:
    """Give the stopped process its secret arguments, and let it run."""
    # WNOWAIT: a process that has ended stays for Popen to collect.
    stopped = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if stopped is None or stopped.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
        raise ServerError("the Triton server ended before it ran", got=f"status {stopped and stopped.si_status}")
    if stopped.si_status == signal.SIGSTOP:
        logger.warning(
            "this system forbids tracing, so the server's control key stands in its arguments, which every user of "
            "this machine can read; allow ptrace of own child processes (kernel.yama.ptrace_scope at most 1)"
        )
        os.kill(pid, signal.SIGCONT)
        return
    _point_arguments(pid, secrets)
    if ctypes.CDLL(None).ptrace(_PTRACE_DETACH, pid, None, None) != 0:
        raise ServerError("the Triton server cannot be let go after its start")


def _point_arguments(pid: int, secrets: Mapping[int, str]) -> None:
    """Let arguments of a process that was just loaded point into its environment.

    At its first instruction the stack of a process holds the number of arguments, a pointer to each, a null pointer,
    and a pointer to each variable of the environment, with a null pointer behind the last.
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
