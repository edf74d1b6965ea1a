"""The memory limit of the server's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reentry.serving import ServerConfig
from reentry.serving import memory as memory_module
from reentry.serving.memory import ENOUGH, default_memory_limit, limit_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
ALLOCATE = """
print("ready", flush=True)
for line in iter(input, ""):
    try:
        bytearray(int(line) << 20)
        print("allocated", flush=True)
    except MemoryError:
        print("refused", flush=True)
"""


@pytest.mark.parametrize(
    ("granted", "limit"),
    [
        (f"{1 << 30}\n", 1 << 29),
        ("max\n", min(ENOUGH, MACHINE // 2)),
        (f"{1 << 60}\n", min(ENOUGH, MACHINE // 2)),
        (None, min(ENOUGH, MACHINE // 2)),
    ],
)
def test_the_default_limit_is_half_of_the_memory_up_to_a_maximum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granted: str | None, limit: int
) -> None:
    file = tmp_path / "memory.max"
    if granted is not None:
        file.write_text(granted)
    monkeypatch.setattr(memory_module, "MEMORY_MAX", file)
    assert default_memory_limit() == limit
    assert ServerConfig().fitted_memory_limit == limit
    assert ServerConfig(memory_limit=300).fitted_memory_limit == 300 << 20


def test_a_child_process_cannot_allocate_more_than_the_limit() -> None:
    inner = [sys.executable, "-c", ALLOCATE]
    outer = [sys.executable, "-c", f"import subprocess; subprocess.run({inner!r})"]
    process = subprocess.Popen(outer, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        answers = [process.stdout.readline().strip()]
        limit_memory(process.pid, 100 << 20)
        for megabytes in (50, 200):
            process.stdin.write(f"{megabytes}\n")
            process.stdin.flush()
            answers.append(process.stdout.readline().strip())
    finally:
        process.communicate("\n", timeout=60)
    assert answers == ["ready", "allocated", "refused"]
